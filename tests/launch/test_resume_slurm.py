"""Continuing a run on the queue, with stand-ins for Slurm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launch.attempts import Ending, Owner, begin_attempt, last_attempt, write_json
from launch.resume import check_resumable
from tests.launch.fake_slurm import REFUSING, SBATCH, SINFO, install, refusing
from tests.launch.helpers import call, events, steps, tags, write_config
from tmrc.config.errors import UserError
from tmrc.config.load import load_config
from tmrc.config.rundir import RunDir

GONE = refusing("slurm_load_jobs error: Invalid job id specified")  # squeue of Slurm 22.05 for the only job asked for


def squeue(job_id: str, state: str) -> str:
    return f"#!/bin/bash\necho '{job_id}|{state}|node1|N/A|1:00|None'\n"


def submitted(tmp_path: Path, *arguments: str, **launch: object) -> tuple[RunDir, dict[str, str]]:
    """A run whose job 4242 has left the queue, and the environment with a cluster."""
    env = install(tmp_path / "bin", sbatch=SBATCH, sinfo=SINFO, squeue=GONE)
    config = write_config(tmp_path, launch=launch, training={"train_steps": 6})
    done = call("--json", config, *arguments, env=env)
    assert done.code == 0, done.err
    return RunDir(Path(done.json["run_dir"])), env


@pytest.mark.parametrize("state", ["PENDING", "RUNNING"])
def test_a_run_that_is_queued_or_running_is_refused(tmp_path: Path, state: str) -> None:
    run, env = submitted(tmp_path)
    install(tmp_path / "bin", squeue=squeue("4242", state))
    for how in ([], ["--dry-run"], ["--local"]):
        done = call("--resume", run.path, *how, env=env)
        assert (done.code, done.out) == (2, "") and len(done.err.splitlines()) == 1
        assert f"job 4242 is still {state.lower()}" in done.err
    install(tmp_path / "bin", squeue=squeue("4242", "FAILED"))
    assert call("--resume", run.path, env=env).code == 0


def test_a_job_that_slurm_is_ending_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, env = submitted(tmp_path)
    looks = tmp_path / "looks"
    ends = f"echo >> {looks}; [ $(wc -l < {looks}) -gt 2 ] && state=CANCELLED || state=COMPLETING"
    install(tmp_path / "bin", squeue=f'#!/bin/bash\n{ends}\necho "4242|$state|node1|N/A|1:00|None"\n')
    done = call("--resume", run.path, env=env)
    assert done.code == 0, done.err
    install(tmp_path / "bin", squeue=squeue("4242", "COMPLETING"))
    monkeypatch.setattr("launch.resume.ENDING_PATIENCE", 0.0)
    monkeypatch.setenv("PATH", env["PATH"])
    with pytest.raises(UserError, match=r"job 4242 is still completing \(Slurm is ending it: try again"):
        check_resumable(run, load_config(run.config))


def test_a_queue_that_does_not_answer_is_a_refusal(tmp_path: Path) -> None:
    run, env = submitted(tmp_path)
    install(tmp_path / "bin", squeue=refusing("slurm_load_jobs error: Unable to contact slurm controller"))
    done = call("--resume", run.path, env=env)
    assert done.code == 2 and "cannot tell whether job 4242 still runs: " in done.err
    install(tmp_path / "bin", squeue=refusing("squeue: fatal: Could not establish a configuration source"))
    assert call("--resume", run.path, "--dry-run", env=env).code == 0  # commands without a cluster


def test_other_resources_from_another_directory(tmp_path: Path) -> None:
    run, env = submitted(tmp_path, "-p", "gpu", "-N", "2", "-t", "1-0", "--mem", "4G")
    before = run.config.read_text()
    options = ["-N", "1", "-p", "long", "-t", "2:00:00", "training.train_steps=8"]
    done = call("--json", "--resume", run.path, *options, env=env, cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.json == {"run_id": run.run_id, "run_dir": str(run.path), "job_id": "4242"}
    script = (tmp_path / "bin/submitted.sh").read_text()
    for line in (
        "--nodes=1",
        "--partition=long",
        "--time=2:00:00",
        "--mem=4G",
        f"--output={run.submitit}/%j_0_log.out",
    ):
        assert f"#SBATCH {line}\n" in script
    changed = {
        "launch.nodes": [2, 1], "launch.partition": ["gpu", "long"], "launch.time": ["1-0", "2:00:00"],
        "training.train_steps": [6, 8],
    }  # fmt: skip
    assert [row["changes"] for row in events(run.path, "changed")] == [changed]
    assert load_config(run.config).training.train_steps == 8
    assert (run.attempt(0) / "config.yaml").read_text() == before


def test_a_template_for_the_rest_of_the_run(tmp_path: Path) -> None:
    run, env = submitted(tmp_path, "-p", "gpu", "-t", "1-0")
    (tmp_path / "other.yaml").write_text("partition: long\ntime: 2:00:00\nmem: 8G\n")
    for how in (["--template", "other"], ["launch.template=other"]):
        done = call("--dry-run", "--resume", run.path, *how, "--mem", "9G", env=env, cwd=tmp_path)
        assert "--partition=long\n" in done.out and "--time=2:00:00\n" in done.out and "--mem=9G\n" in done.out


def test_a_cancelled_run_goes_on_when_it_is_wanted(tmp_path: Path) -> None:
    run, env = submitted(tmp_path)
    cancel, config = run.path / "cancel.json", run.config.read_text()
    cancel.write_text('{"time": 1}')
    assert call("--resume", run.path, "--dry-run", env=env).code == 0 and cancel.exists()
    install(tmp_path / "bin", sbatch=REFUSING)
    done = call("--resume", run.path, "-t", "60", env=env)
    assert done.code == 2 and "Invalid account" in done.err
    assert cancel.read_text() == '{"time": 1}' and run.config.read_text() == config  # as it was
    assert events(run.path, "changed") == []
    install(tmp_path / "bin", sbatch=SBATCH)
    assert call("--resume", run.path, env=env).code == 0 and not cancel.exists()


def test_a_run_whose_waiting_job_was_taken_off_the_queue_says_so_when_it_goes_on(tmp_path: Path) -> None:
    run, env = submitted(tmp_path)
    install(tmp_path / "bin", squeue=squeue("4242", "CANCELLED"))
    assert call("--resume", run.path, "--dry-run", env=env).code == 0 and events(run.path, "cancelled") == []
    assert call("--resume", run.path, env=env).code == 0
    assert [row["event"] for row in events(run.path)] == ["submitted", "cancelled", "submitted"]
    (said,) = events(run.path, "cancelled")
    assert said["cause"] == "job 4242 was cancelled with scancel" and said["job_id"] == "4242"


@pytest.mark.parametrize("how", [[], ["--dry-run"], ["--local"]])
def test_an_end_that_lies_behind_the_run_is_refused_and_changes_nothing(tmp_path: Path, how: list[str]) -> None:
    run, env = submitted(tmp_path, "-c", "2")
    (run.checkpoints / "step_00000005").mkdir(parents=True)
    before = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    done = call("--resume", run.path, *how, "training.train_steps=4", env=env)
    assert (done.code, done.out) == (2, "") and len(done.err.splitlines()) == 1
    assert "end it at step 4, but its newest checkpoint is of step 5" in done.err
    assert {file: file.read_bytes() for file in before} == before and last_attempt(run) == 0
    assert call("--resume", run.path, "--dry-run", "training.train_steps=5", env=env).code == 0


def test_another_number_of_processes_is_spoken_of(tmp_path: Path) -> None:
    run, env = submitted(tmp_path, "-c", "2")
    number = begin_attempt(run, Owner("elsewhere", 1, None, "4242", executor="slurm"))
    for rank in range(4):
        (run.attempt(number) / f"rank_{rank}.pid").write_text("elsewhere 1\n")
    write_json(run.attempt(number) / "job.json", vars(Ending(75, "stopped")))
    done = call("--resume", run.path, "--dry-run", env=env)
    assert done.code == 0 and "the last attempt had 4 training processes and the next has 1" in done.err
    assert call("--resume", run.path, "--dry-run", "-N", "4", env=env).err == ""
    for rank in range(1, 4):
        (run.attempt(number) / f"rank_{rank}.pid").unlink()
    done = call("--resume", run.path, "--dry-run", "-N", "4", env=env)
    assert "the last attempt had 1 training process and the next has 4: " in done.err


def test_a_run_of_slurm_goes_on_here_and_back(tmp_path: Path) -> None:
    run, env = submitted(tmp_path, "-p", "gpu")
    done = call("--local", "--json", "--resume", run.path, "training.train_steps=4", env=env)
    assert done.code == 0, done.err
    assert steps(run.path) == [1, 2, 3, 4]
    done = call("--json", "--resume", run.path, "training.train_steps=6", tags(step_seconds=0), env=env)
    assert done.code == 0, done.err
    assert [row["executor"] for row in events(run.path, "submitted")] == ["slurm", "local", "slurm"]
    assert json.loads((run.attempt(1) / "owner.json").read_text())["job_id"] is None
