from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import pytest

from tests.launch.fake_slurm import SBATCH, SINFO, install
from tests.launch.helpers import REAL, ROOT, STANDIN, call, events, write_config
from tmrc.config.load import load_config

HOSTILE = ["a\nb", "a'b", 'a"b', "$(touch /tmp/x)", "a;b", "a`b`", "\x07", "a" * 100_000]


def contents(folder: Path) -> dict[str, bytes]:
    """The files below `folder`, without what Python caches."""
    files = [file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def listing(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_dry_run_prints_script_and_plan_and_touches_nothing(tmp_path: Path) -> None:
    env = install(tmp_path / "bin", sbatch=SBATCH, sinfo=SINFO)
    config = write_config(tmp_path, launch={"sbatch": {"mail-type": "FAIL"}, "setup": ["module load cuda"]})
    before = listing(tmp_path)
    options = ["-p", "gpu", "-A", "lab", "-q", "high", "-c", "8", "--mem", "64G", "-t", "1-00:00:00"]
    options += ["-C", "h100", "-x", "node[1-3]", "-J", "my.job"]
    done = call("--dry-run", *options, config, module=REAL, env=env)
    assert done.code == 0, done.err
    assert listing(tmp_path) == before
    for line in (
        "#SBATCH --partition=gpu", "#SBATCH --account=lab", "#SBATCH --qos=high", "#SBATCH --cpus-per-task=8",
        "#SBATCH --mem=64G", "#SBATCH --time=1-00:00:00", "#SBATCH --constraint=h100", "#SBATCH --exclude='node[1-3]'",
        "#SBATCH --nodes=1", "#SBATCH --ntasks-per-node=1", "#SBATCH --signal=USR2@120", "#SBATCH --requeue",
        "#SBATCH --open-mode=append", "#SBATCH --mail-type=FAIL", "module load cuda",
    ):  # fmt: skip
        assert line in done.out.splitlines()
    assert "#SBATCH --job-name=my.job-" in done.out and "--gpus-per-node" not in done.out
    assert " -u -m launch.supervise /" in done.out and "srun" not in done.out
    assert "20 (ends by training.train_steps; an epoch has 64)" in done.out


def test_the_script_is_the_one_that_is_submitted(tmp_path: Path) -> None:
    env = install(tmp_path / "bin", sbatch=SBATCH)
    config = write_config(tmp_path)
    planned = call("--dry-run", "--json", config, module=REAL, env=env).json
    done = call("--json", config, module=REAL, env=env)
    assert done.code == 0, done.err
    assert done.json["job_id"] == "4242" and planned["job_id"] is None
    assert {"run_id", "run_dir", "job_id"} <= set(done.json)
    submitted = (tmp_path / "bin/submitted.sh").read_text()
    assert submitted == planned["script"].replace(planned["run_id"], done.json["run_id"])
    assert planned["plan"]["steps"] == 20 and planned["plan"]["sequences_per_rank"] == 4
    run = Path(done.json["run_dir"])
    assert [(row["event"], row["job_id"]) for row in events(run)] == [("submitted", "4242")]
    assert stat.S_IMODE((run / "submitit").stat().st_mode) == 0o700


def test_a_submitted_run_uses_the_code_it_was_submitted_with(tmp_path: Path) -> None:
    env = install(tmp_path / "bin", sbatch=SBATCH)
    checkout = tmp_path / "checkout"
    for package in ("launch", "tmrc", "tests"):
        shutil.copytree(ROOT / package, checkout / package, ignore=shutil.ignore_patterns("__pycache__"))
    before = {package: contents(checkout / package) for package in ("launch", "tmrc")}
    config = write_config(tmp_path)
    done = call("--json", config, module=STANDIN, env={**env, "PYTHONPATH": str(checkout)}, cwd=checkout)
    assert done.code == 0, done.err
    run = Path(done.json["run_dir"])
    for file in [*checkout.glob("tmrc/**/*.py"), *checkout.glob("launch/**/*.py")]:
        file.write_text("raise SystemExit('edited since')\n")
    config.write_text("broken: [")
    for package in ("launch", "tmrc"):
        assert contents(run / "code" / package) == before[package]
    assert load_config(run / "config.yaml").model.d_model == 16
    script = (tmp_path / "bin/submitted.sh").read_text()
    assert f"tmrc_run={run}\n" in script and 'export PYTHONPATH="$tmrc_run/code$' in script


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_on_the_command_line(tmp_path: Path, text: str) -> None:
    config = write_config(tmp_path)
    keys = ("-p", "-A", "-q", "--mem", "-t", "-C", "-x", "-J", "--template", "--resume")
    done = call("--dry-run", *[word for key in keys[:-1] for word in (key, text)], config, module=REAL)
    assert (done.code, done.out) == (2, "") and len(done.err.splitlines()) == 1 and len(done.err) < 1000
    for arguments in (
        [config, f"launch.name={text}"],
        [config, f"training.artifacts_path={json.dumps(str(tmp_path / 'x') + text)}"],
        [config, text],
        [text],
        ["--resume", text, config],
    ):
        done = call("--dry-run", *arguments, module=REAL)
        assert (done.code, done.out) == (2, ""), arguments
        assert len(done.err.splitlines()) == 1 and len(done.err) < 1000


def test_dry_run_of_a_local_run_has_no_script(tmp_path: Path) -> None:
    done = call("--dry-run", "--local", "--json", write_config(tmp_path), "launch.processes_per_node=2", module=REAL)
    assert done.code == 0 and done.json["script"] is None
    assert done.json["plan"]["processes"] == 2 and done.json["plan"]["sequences_per_rank"] == 2
    assert not (tmp_path / "artifacts").exists()
