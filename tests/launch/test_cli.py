from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch.helpers import REAL, ROOT, call, write_config

HEAVY = {"torch", "numpy", "omegaconf", "hydra", "submitit", "yaml", "rich", "matplotlib"}


@pytest.mark.parametrize("module", ["launch.cli.submit", "launch.cli.main"])
def test_help_imports_little(module: str) -> None:
    code = f"import sys; sys.argv = ['x', '--help']; from {module} import main\ntry: main()\nfinally: "
    code += "print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.startswith("Usage:")
    assert not HEAVY & set(done.stderr.split())


def test_dry_run_imports_neither_torch_nor_submitit(tmp_path: Path) -> None:
    code = "import sys; from launch.cli.submit import main\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    command = [sys.executable, "-c", code, "--dry-run", str(write_config(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert "#SBATCH" in done.stdout
    assert not (HEAVY - {"yaml"}) & set(done.stderr.splitlines()[-1].split())


def test_no_part_of_launch_imports_torch() -> None:
    names = [f"launch.{file.stem}" for file in (ROOT / "launch").glob("*.py") if file.stem != "__init__"]
    code = f"import sys, importlib\nfor name in {names}: importlib.import_module(name)\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "CONFIG is missing"),
        (["--nonsense"], "No such option"),
        (["-N", "two", "x.yaml"], "'two' is not a valid integer"),
        (["no-such.yaml"], "'no-such.yaml': no such file"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    done = call(*arguments, module=REAL)
    assert (done.code, done.out) == (2, "")
    assert message in done.err and len(done.err.splitlines()) == 1


def test_config_errors_are_one_line(tmp_path: Path) -> None:
    config = write_config(tmp_path, model={"n_heads": 2})
    done = call("--local", config, module=REAL)
    assert done.code == 2 and "unknown key 'model.n_heads'; did you mean 'n_head'?" in done.err
    assert len(done.err.splitlines()) == 1
    assert call("--dry-run", config, "~model.n_heads", module=REAL).code == 0


def test_keys_may_come_before_the_configuration(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    done = call("--dry-run", "training.train_steps=7", config, "launch.cpus_per_task=3", module=REAL)
    assert done.code == 0 and "steps    7 " in done.out and "--cpus-per-task=3\n" in done.out
    odd = config.rename(tmp_path / "a=b.yaml")
    assert call("--dry-run", odd, module=REAL).code == 0


def test_tmrc_lists_what_works() -> None:
    done = call("--help", module="launch.cli.main")
    assert done.code == 0
    for name in ("data", "generate", "report"):
        assert f"  {name} " in done.out
        assert call(name, "--help", module="launch.cli.main").code == 0
    assert call("nonsense", module="launch.cli.main").code == 2
