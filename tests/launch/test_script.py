"""The batch script, rendered and run by bash with a stand-in for the supervisor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from launch.gpus import slurm_resources
from launch.script import EARLY_SIGNAL, FIRST_PATH, SETUP_FAILED, Array, batch_script, script_notes
from tests.launch.helpers import wait_for, write_config
from tmrc.config.errors import ConfigError
from tmrc.config.load import load_config
from tmrc.config.load import write_config as save_config
from tmrc.config.rundir import RunDir
from tmrc.config.schema import Config

# What becomes of bash: signals that come before it listens must not kill it
SUPERVISOR = f"""
import json, os, signal, sys
os.kill(os.getpid(), signal.SIGTERM)
os.kill(os.getpid(), signal.SIGUSR2)
os.kill(os.getpid(), signal.SIGUSR1)
os.kill(os.getpid(), signal.SIGHUP)
import tmrc.config.rundir
print(json.dumps({{"pid": os.getpid(), "arguments": sys.argv[1:], "early": os.environ.get({EARLY_SIGNAL!r}),
                   "path": os.environ["PYTHONPATH"], "cwd": os.getcwd(), "failed": os.environ.get({SETUP_FAILED!r}),
                   "first": os.environ[{FIRST_PATH!r}]}}))
"""


def make_run(tmp_path: Path, name: str = "toy-1", **launch: object) -> tuple[RunDir, Config]:
    run = RunDir(tmp_path / "runs" / name)
    (run.code / "launch").mkdir(parents=True)
    (run.code / "launch/__init__.py").touch()
    (run.code / "launch/supervise.py").write_text(SUPERVISOR)
    return run, load_config(write_config(tmp_path, launch=launch))


def render(what: RunDir | Array, config: Config) -> str:
    return batch_script(what, config.launch, slurm_resources(config))


def start(tmp_path: Path, script: str, **variables: str) -> subprocess.Popen[str]:
    file = tmp_path / "script.sh"
    file.write_text(script)
    environment = {**os.environ, "PYTHONPATH": "/elsewhere", **variables}
    return subprocess.Popen(
        ["bash", str(file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment,
        start_new_session=True,
    )  # fmt: skip


def test_bash_becomes_the_supervisor(tmp_path: Path) -> None:
    run, config = make_run(tmp_path, "a run, ünlike others", setup=["export SEEN=1"])
    process = start(tmp_path, render(run, config))
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    seen = json.loads(out)
    assert seen["pid"] == process.pid and seen["arguments"] == [str(run.path)]
    assert seen["early"] is None and seen["failed"] is None and seen["path"] == f"{run.code}:/elsewhere"
    assert seen["cwd"] == str(tmp_path)  # the submission's, so that relative paths stay what they were


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR2, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_during_set_up_is_passed_on(tmp_path: Path, signum: signal.Signals) -> None:
    run, config = make_run(
        tmp_path,
        setup=[
            f"touch {tmp_path / 'begun'}",
            f"until [ -e {tmp_path / 'go'} ]; do sleep 0.05; done",
            f"touch {tmp_path / 'ended'}",
        ],
    )
    process = start(tmp_path, render(run, config))
    wait_for((tmp_path / "begun").exists, "set-up")
    process.send_signal(signum)
    (tmp_path / "go").touch()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert json.loads(out)["early"] == signum.name.removeprefix("SIG") and (tmp_path / "ended").exists()


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("no-such-command", 127),
        ("(exit 7)", 7),
        ("f() { true; return 4; }; f", 4),
        ("exit 3", 3),
        ("exit 0", 0),
        ("cd /no/such/place", 1),
        ("source /no/such/file", 1),
        ("false '$(touch executed) `touch executed` \"é\"' ; true", 1),
        ("set -eu; echo $nothing", 1),
        ("echo 'never closed", 2),
        ("if true; then", 2),
        ("cat <<END", 0),
    ],
)
def test_a_set_up_line_that_fails_is_told_to_the_supervisor(tmp_path: Path, line: str, code: int) -> None:
    run, config = make_run(tmp_path, setup=["true", line, "touch went-on"])
    process = start(tmp_path, render(run, config))
    out, err = process.communicate(timeout=30)
    seen = json.loads(out.splitlines()[-1])
    assert seen["failed"] == f"line 2: {line}, exit code {code}", err
    assert seen["pid"] == process.pid and seen["arguments"] == [str(run.path)]
    assert not (tmp_path / "executed").exists() and not (tmp_path / "went-on").exists()


def test_set_up_that_copes_with_failures_goes_on(tmp_path: Path) -> None:
    (tmp_path / "sourced.sh").write_text("false\nSOURCED=1\n")
    lines = ["[ -d /no/such/place ] && exit 1", "false || true", "if ! false; then", "f() { false; true; }; f", "fi"]
    lines += ["# a remark", "source sourced.sh", "touch ended$SOURCED", "PATH=/purged"]
    run, config = make_run(tmp_path, setup=lines)
    out, err = start(tmp_path, render(run, config)).communicate(timeout=30)
    seen = json.loads(out)
    assert seen["failed"] is None and seen["first"] == os.environ["PATH"], err
    assert (tmp_path / "ended1").exists()


def test_set_up_that_was_ended_by_a_signal_has_not_failed(tmp_path: Path) -> None:
    run, config = make_run(tmp_path, setup=[f"touch {tmp_path / 'begun'}", "sleep 30"])
    process = start(tmp_path, render(run, config))
    wait_for((tmp_path / "begun").exists, "set-up")
    time.sleep(0.3)  # so that sleep runs
    os.killpg(process.pid, signal.SIGTERM)  # as Slurm does: to every process of the job
    seen = json.loads(process.communicate(timeout=20)[0])
    assert seen["failed"] is None and seen["early"] == "TERM"


def test_a_python_that_only_the_nodes_have_is_remarked_upon(tmp_path: Path) -> None:
    run, config = make_run(tmp_path, python="/no/such/python", cpus_per_task=1)
    assert list(script_notes(config.launch, render(run, config))) == [
        "launch.python: /no/such/python is not on this machine; the nodes must have it"
    ]
    run, config = make_run(tmp_path, "toy-2", python="/bin/sh -c", cpus_per_task=1)
    assert list(script_notes(config.launch, render(run, config))) == []


def test_a_task_of_an_array_finds_its_run_in_a_list_and_uses_that_ones_code(tmp_path: Path) -> None:
    make_run(tmp_path, "other run")
    run, config = make_run(tmp_path, "my run")
    array = Array("sweep", 10, 2, tmp_path / "a sweep")
    array.folder.mkdir()
    array.runs_file.write_text(f"{tmp_path / 'runs' / 'other run'}\n{run.path}\n")
    script = render(array, config)
    assert "#SBATCH --array=0-9%2\n" in script and "#SBATCH --job-name=sweep\n" in script
    assert f"#SBATCH --output='{array.submitit}/%A_%a_0_log.out'\n" in script
    assert "#SBATCH --array=0-9\n" in render(replace(array, parallel=None), config)
    out, err = start(tmp_path, script, SLURM_ARRAY_TASK_ID="1").communicate(timeout=30)
    seen = json.loads(out)
    assert seen["arguments"] == ["--runs", str(array.runs_file)], err
    assert seen["path"] == f"{run.code}:/elsewhere"


def test_a_job_renders_its_successors_script_from_the_run_alone(tmp_path: Path) -> None:
    given = {"partition": "gpu", "gpus_per_node": 0, "sbatch": {"reservation": "lab"}, "mem": "4G", "warning": 300}
    run, config = make_run(tmp_path, "toy-1", **given)
    script = render(run, config)
    save_config(config, run.config)
    again = load_config(run.config)
    assert render(run, again) == script
    resources = slurm_resources(again)
    longer = batch_script(run, replace(again.launch, exclude="node[1-3],node7"), resources)
    assert longer.replace("#SBATCH --exclude='node[1-3],node7'\n", "") == script


def test_a_path_that_would_be_shell_or_slurms_own_is_refused(tmp_path: Path) -> None:
    _, config = make_run(tmp_path)
    for name in ("a%j", "a$(id)", "a'b", "a\nb", 'a"b', "a`b"):
        with pytest.raises(ConfigError, match=r"training.artifacts_path"):
            render(RunDir(tmp_path / name), config)
