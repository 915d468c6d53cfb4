# make demo          environment, real data, a real run, a sample of text, a report
# make test          environment, then every test that this machine can run (as root on Debian: installs Slurm, Chromium, strace)
# make slurm-up      a private Slurm cluster to try tmrc-submit on (root, Debian); make slurm-down stops it
# make slurm-matrix  every interruption in every setting on private Slurm clusters; writes docs/slurm-matrix.md
# make drill         a long search for failures: campaign tests (drill-tests), 200 trials of tmrc drill here (drill-trials),
#                    30 on a private Slurm cluster (drill-slurm)
# make bench         what each part takes beside its peers; BENCH_OPTIONS="loader --peer tatm=FOLDER" measures one (docs/performance.md)
# make lint          ruff and mypy

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := demo
# Processes that run tests. Those of Slurm start jobs beside them, so more than the cores does not pay.
TEST_PROCESSES ?= 2

.PHONY: env demo demo-data test slurm-install browser-install faults-install slurm-up slurm-down slurm-matrix drill drill-tests drill-trials drill-slurm bench lint format clean

env: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("tmrc needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(DEMO)/data/metadata.yaml: | env
	$(BIN)/tmrc data prepare "$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
		--glob '*.py' --exclude site-packages --exclude dist-packages --exclude test --exclude tests --shuffle-files \
		--train-tokenizer 4096 --name python-stdlib -o $(DEMO)/data

demo-data: $(DEMO)/data/metadata.yaml

demo: demo-data
	$(BIN)/tmrc-submit --local quickstart
	@run=$$(ls -td $(DEMO)/runs/*/ | head -n 1); set -ex; \
		$(BIN)/tmrc generate "$$run" --prompt 'class Connection:' --max-new-tokens 120 --temperature 0.8 --top-k 50 --seed 3; \
		$(BIN)/tmrc report "$$run" --png $(DEMO)/loss.png -o $(DEMO)/report.html

test: env slurm-install browser-install faults-install
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

# Best effort: where it cannot be installed, the tests that need it are skipped, and say so at the end.
slurm-install:
	@$(PYTHON) -m tests.slurm.install || true

browser-install:
	@$(PYTHON) -m tests.browser || true

faults-install:
	@$(PYTHON) -m tests.faults.install || true

slurm-up: env slurm-install
	@$(BIN)/python -m tests.slurm.cluster up $(SLURM_OPTIONS)

slurm-down: env
	@$(BIN)/python -m tests.slurm.cluster down

slurm-matrix: env slurm-install
	$(BIN)/python -m tests.slurm.matrix $(MATRIX_OPTIONS)

drill: drill-tests drill-trials drill-slurm

drill-tests: env slurm-install faults-install
	$(BIN)/python -m pytest -m campaign -n $(TEST_PROCESSES) tests

drill-trials: demo-data
	$(BIN)/tmrc drill drill --trials 160 --parallel 2 --json $(DEMO)/drill.json --markdown $(DEMO)/drill.md $(DRILL_OPTIONS)
	$(BIN)/tmrc drill drill training.exact_reduction=true training.micro_batch_size=2 --faults resize,kill,usr2,corrupt \
		--trials 40 --parallel 2 --json $(DEMO)/drill-exact.json --markdown $(DEMO)/drill-exact.md $(DRILL_OPTIONS)

drill-slurm: demo-data slurm-install
	$(BIN)/python -m tests.slurm.drill --json $(DEMO)/drill-slurm.json --markdown $(DEMO)/drill-slurm.md $(DRILL_OPTIONS)

bench: env
	$(BIN)/python -m bench $(BENCH_OPTIONS)

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(DEMO) build dist
