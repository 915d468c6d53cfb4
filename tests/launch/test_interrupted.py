"""A submission that hangs, is interrupted or hears nonsense: nothing is left of it, and the terminal stays whole."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launch import slurm
from launch.attempts import hold_lock
from launch.job import TrainJob
from launch.plaintext import harmless
from launch.rundirs import create_run
from tests.launch.fake_slurm import SBATCH, SINFO, SLOW, install, refusing
from tests.launch.helpers import REAL, ROOT, call, wait_for, write_config
from tmrc.config.errors import UserError
from tmrc.config.load import load_config

HANGS = '#!/bin/bash\necho $$ > "$(dirname "$0")/sbatch.pid"\nexec sleep 60\n'
NASTY = "\x1b]0;title\x07\x1b[2Jgone \u202e"


def gone(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return False
    return True


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("resumed", [False, True])
def test_an_interrupted_submission_leaves_all_as_it_was(tmp_path: Path, signum: signal.Signals, resumed: bool) -> None:
    config = write_config(tmp_path)
    artifacts = tmp_path / "artifacts"
    words = ["-c", "2", str(config)]
    before = None
    if resumed:
        run = create_run(load_config(config), "toy", [])
        (run.path / "cancel.json").write_text("{}")
        before = run.config.read_bytes()
        words = ["-c", "2", "--resume", str(run.path)]
    env = {**os.environ, **install(tmp_path / "bin", sbatch=HANGS, sinfo=SINFO)}
    process = subprocess.Popen(
        [sys.executable, "-m", REAL, *words], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True
    )
    pid = tmp_path / "bin/sbatch.pid"
    wait_for(lambda: pid.exists() and pid.read_text(), "sbatch")
    process.send_signal(signum)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + signum and "Traceback" not in err
    wait_for(lambda: gone(int(pid.read_text())), "the end of sbatch")
    if resumed:
        assert run.config.read_bytes() == before and (run.path / "cancel.json").exists()
    else:
        assert list(artifacts.iterdir()) == []


def test_an_sbatch_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", install(tmp_path / "bin", sbatch=SLOW)["PATH"])
    monkeypatch.setattr(slurm, "PATIENCE", 0.5)
    run = create_run(load_config(write_config(tmp_path)), "toy", [])
    with pytest.raises(UserError, match=r"sbatch does not answer within .* look with squeue"):
        slurm.submit(run, TrainJob(str(run.path), 1, ()), "#!/bin/bash\n")


def test_an_sbatch_that_says_no_job_is_one_line(tmp_path: Path) -> None:
    env = install(tmp_path / "bin", sbatch="#!/bin/bash\nprintf 'Welcome\\xff\\n'\n", sinfo=SINFO)
    done = call("-c", "2", write_config(tmp_path), module=REAL, env=env)
    assert done.code == 2 and len(done.err.splitlines()) == 1 and "Welcome" in done.err
    assert list((tmp_path / "artifacts").iterdir()) == []


@pytest.mark.parametrize("how", [[], ["--dry-run"]])
def test_what_slurm_says_cannot_move_the_cursor(tmp_path: Path, how: list[str]) -> None:
    commands = {"sbatch": refusing(f"sbatch: error: no {NASTY}"), "sinfo": SINFO}
    done = call("-c", "2", *how, write_config(tmp_path), module=REAL, env=install(tmp_path / "bin", **commands))
    assert done.code == 2 and "gone" in done.err and harmless(done.err) == done.err
    commands = {"sbatch": SBATCH, "sinfo": refusing(NASTY)}
    done = call("-c", "2", *how, write_config(tmp_path), module=REAL, env=install(tmp_path / "bin", **commands))
    assert done.code == 0 and "gone" in done.err and harmless(done.err) == done.err


def test_words_that_are_not_utf8(tmp_path: Path) -> None:
    config, bad = write_config(tmp_path), "#!/bin/bash\nprintf 'caf\\xe9|\\xff\\n' | tee /dev/stderr\nexit "
    for code in "01":  # what sinfo says is a note, what sbatch says a refusal
        env = install(tmp_path / "bin", sbatch=bad + "1", sinfo=bad + code)
        done = call("-c", "2", "--dry-run", config, module=REAL, env=env)
        assert done.code == 0 and done.err.startswith("note: ") and len(done.err.splitlines()) == 1
    env = install(tmp_path / "bin", sbatch=bad + "1", sinfo=SINFO)
    for how in ([], ["--dry-run"]):
        done = call("-c", "2", *how, config, module=REAL, env=env)
        assert done.code == 2 and done.err.startswith("error: sbatch: caf") and len(done.err.splitlines()) == 1


def test_a_directory_whose_name_is_not_utf8(tmp_path: Path) -> None:
    here = Path(os.fsdecode(os.fsencode(tmp_path) + b"/s\xe9"))
    here.mkdir()
    env = install(tmp_path / "bin", sbatch=SBATCH, sinfo=SINFO)
    done = call("--json", "-c", "2", write_config(tmp_path), module=REAL, env=env, cwd=here)
    assert done.code == 0, done.err
    assert b"\\udce9" in (Path(done.json["run_dir"]) / "run.json").read_bytes()


def test_the_second_of_two_that_resume_a_run_is_told_of_the_first(tmp_path: Path) -> None:
    run = create_run(load_config(write_config(tmp_path)), "toy", [])
    lock = hold_lock(run, name="submit.lock")
    env = install(tmp_path / "bin", sbatch=SBATCH, sinfo=SINFO)
    done = call("-c", "2", "--resume", run.path, module=REAL, env=env)
    assert (done.code, done.err) == (2, f"error: {run.path}: another tmrc-submit is at work on this run\n")
    os.close(lock)
