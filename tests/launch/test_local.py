from __future__ import annotations

import json
import os
import signal
import stat
from pathlib import Path

import pytest

from tests.launch.helpers import Started, call, events, living, processes_of, steps, tags, wait_for, write_config


def test_a_run_that_finishes(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    slurm = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "3", "RANK": "5", "SECRET_TOKEN": "hunter2", "PET_NNODES": "2"}
    done = call("--local", "--json", config, "launch.processes_per_node=2", "launch.name=toy-run", env=slurm)
    assert done.code == 0, done.err
    run = Path(done.json["run_dir"])
    assert done.json["run_id"] == run.name and run.name.startswith("toy-run-")
    assert (done.json["exit_code"], done.json["status"], done.json["step"], done.json["loss"]) == (
        0,
        "finished",
        20,
        0.5,
    )
    assert steps(run) == list(range(1, 21)) * 1
    assert [row["event"] for row in events(run)] == ["submitted", "started", "checkpoint", "finished", "goodput"]
    assert stat.S_IMODE((run / "submitit").stat().st_mode) == 0o700
    assert json.loads((run / "run.json").read_text())["command"][-1] == "launch.name=toy-run"
    everything = b"".join(
        file.read_bytes() for file in run.rglob("*") if file.suffix in (".json", ".yaml", ".jsonl", ".pkl")
    )
    assert b"hunter2" not in everything
    for rank in (0, 1):
        env = json.loads((run / f"attempts/1/rank_{rank}.env").read_text())
        assert not [name for name in env if name.startswith(("SLURM_", "SUBMITIT_", "PET_N"))]
        assert env["RANK"] == str(rank) and env["TMRC_ATTEMPT"] == "1"
        assert env["OMP_NUM_THREADS"] == os.environ.get(
            "OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // 2))
        )
        assert env["PYTHONPATH"].split(":")[0] == str(run / "code")
        assert env["CUDA_VISIBLE_DEVICES"] == ""
        assert (run / f"attempts/1/rank_{rank}.code").read_text().startswith(str(run / "code"))
    assert living(run) == []


@pytest.mark.parametrize(("tag", "code"), [("error", 2), ("crash", 1)])
def test_what_a_rank_says_reaches_the_user(tmp_path: Path, tag: str, code: int) -> None:
    done = call("--local", write_config(tmp_path), tags(**{tag: "the moon is in the wrong phase"}))
    assert done.code == code
    assert "error: the moon is in the wrong phase" in done.err.splitlines()
    log = next(tmp_path.glob("artifacts/*/submitit/*_log.out"))
    assert log.read_text().splitlines()[-1].endswith("the moon is in the wrong phase")


def test_a_killed_rank_is_named_and_leaves_no_orphan(tmp_path: Path) -> None:
    done = call(
        "--local", write_config(tmp_path), "launch.processes_per_node=2", tags(kill=1, child=1, step_seconds=0.02)
    )
    run = next(tmp_path.glob("artifacts/*"))
    assert done.code == 1
    assert "error: rank 1 was killed by SIGKILL" in done.err
    (failed,) = events(run, "failed")
    assert failed["attempt"] == 1 and "rank 1 was killed by SIGKILL" in failed["cause"]
    assert living(run) == []


def test_a_rank_that_waits_for_a_dead_one_does_not_hold_the_run(tmp_path: Path) -> None:
    config = write_config(tmp_path, launch={"processes_per_node": 2})
    done = call("--local", config, tags(kill=1, hang=0, deaf=1, step_seconds=0.02))
    assert done.code == 1 and "error: rank 1 was killed by SIGKILL" in done.err
    run = next(tmp_path.glob("artifacts/*"))
    ended = json.loads((run / "attempts/1/job.json").read_text())["ended"]
    last_step = (run / "metrics.jsonl").stat().st_mtime
    assert ended - last_step < 28  # torchrun alone gives the other rank 30 seconds
    assert living(run) == []


def test_ctrl_c_saves_and_the_run_can_be_resumed(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    started = Started(config, tags(step_seconds=0.05, child=1), "training.train_steps=1000")
    started.wait_for_step(3)
    refused = call("--local", "--resume", started.run_dir)
    assert refused.code == 2 and "another tmrc-submit is at work" in refused.err and len(refused.err.splitlines()) == 1
    started.interrupt()
    done = started.end()
    assert done.code == 75, done.err
    assert "saving and stopping" in done.err
    run = started.run_dir
    assert f"tmrc-submit --local --resume {run}" in done.out
    assert living(run) == []
    stopped_at = steps(run)[-1]

    refused = call("--local", "--resume", run, "optimizer.lr=1.0")
    assert refused.code == 2 and "optimizer.lr from 0.0001 to 1.0" in refused.err and len(refused.err.splitlines()) == 1

    more = f"training.train_steps={stopped_at + 5}"
    resumed = call("--local", "--json", "--resume", run.name, config, more)
    assert resumed.code == 0, resumed.err
    assert resumed.json["run_dir"] == str(run)
    assert steps(run) == list(range(1, stopped_at + 6))
    assert [row["attempt"] for row in events(run, "submitted")] == [1, 2]
    assert "train_steps: 1000" in (run / "attempts/1/config.yaml").read_text()

    refused = call("--local", "--resume", run)
    assert refused.code == 2 and f"finished at step {stopped_at + 5}" in refused.err
    assert len(refused.err.splitlines()) == 1
    assert call("--local", "--resume", run, f"training.train_steps={stopped_at + 9}").code == 0


def test_the_environment_of_a_training_process_does_not_mislead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`tmrc-submit` from within a training process: the variables there are about another run."""
    other = {"TMRC_ATTEMPT": "5", "TMRC_RENDEZVOUS": "nowhere 1 2 3", "TMRC_HEARTBEAT": "/nowhere", "RANK": "3"}
    for name, value in other.items():
        monkeypatch.setenv(name, value)
    started = Started(write_config(tmp_path), tags(step_seconds=0.05), "training.train_steps=1000")
    started.wait_for_step(3)
    started.interrupt()
    done = started.end()
    assert done.code == 75, done.err
    run = started.run_dir
    assert living(run) == [] and [row["attempt"] for row in events(run, "submitted")] == [1]
    assert json.loads((run / "attempts/1/job.json").read_text())["status"] == "stopped"


def test_ctrl_c_during_start_up_waits_for_the_handlers(tmp_path: Path) -> None:
    started = Started(write_config(tmp_path), tags(start_seconds=2, step_seconds=0.05), "training.train_steps=1000")
    started.wait_for_file("attempts/1/owner.json")
    started.interrupt()
    done = started.end()
    assert done.code == 75 and "stopping ..." in done.err and "saving" not in done.err
    assert living(started.run_dir) == []


def test_the_third_ctrl_c_ends_a_run_that_does_not_stop(tmp_path: Path) -> None:
    started = Started(write_config(tmp_path), tags(step_seconds=0.05, deaf=1, child=1), "training.train_steps=1000")
    started.wait_for_step(2)
    run = started.run_dir
    for _ in range(2):
        before = steps(run)[-1]
        started.interrupt()
        started.wait_for_step(before + 10)  # it goes on
    started.interrupt()
    done = started.end()
    assert done.code == 1
    assert "error: killed on request" in done.err
    assert "killed on request" in events(run, "failed")[0]["cause"]
    assert living(run) == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_when_tmrc_submit_is_killed_the_run_saves_and_stops(tmp_path: Path, signum: signal.Signals) -> None:
    started = Started(write_config(tmp_path), tags(step_seconds=0.05), "training.train_steps=1000")
    started.wait_for_step(2)
    started.process.send_signal(signum)
    done = started.end()
    assert done.code == (-signum if signum == signal.SIGKILL else 75)
    job = started.wait_for_file("attempts/1/job.json")
    assert json.loads(job.read_text())["exit_code"] == 75
    wait_for(lambda: not living(started.run_dir), "the run's processes to end")


def test_a_killed_job_is_a_crash_and_leaves_nothing(tmp_path: Path) -> None:
    started = Started(write_config(tmp_path), tags(step_seconds=0.05, child=1), "training.train_steps=1000")
    started.wait_for_step(2)
    owner = json.loads((started.run_dir / "attempts/1/owner.json").read_text())
    os.kill(owner["pid"], signal.SIGKILL)
    done = started.end()
    assert done.code == 1 and "error: the job was killed" in done.err
    assert living(started.run_dir) == []
    assert (
        call("--local", "--resume", started.run_dir, f"training.train_steps={steps(started.run_dir)[-1] + 1}").code == 0
    )


def test_of_two_resumes_at_once_one_is_refused_and_touches_nothing(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    done = call("--local", config)
    assert done.code == 0, done.err
    run = next(tmp_path.glob("artifacts/*"))
    both = [Started(config, "--resume", run, f"training.train_steps={30 + n}") for n in (0, 1)]
    for one in both:  # Started names the configuration first, which --resume takes as the place to look
        assert one.run_dir == run
    ends = [one.end() for one in both]
    assert sorted(end.code for end in ends) == [0, 2], [end.err for end in ends]
    (lost,) = (end for end in ends if end.code == 2)
    assert "another tmrc-submit is at work" in lost.err and len(lost.err.splitlines()) == 1
    assert [row["attempt"] for row in events(run, "submitted")] == [1, 2]
    assert steps(run)[-1] == 30 + [end.code for end in ends].index(0)


def test_a_run_is_not_resumed_while_an_orphan_trains(tmp_path: Path) -> None:
    started = Started(write_config(tmp_path), tags(step_seconds=0.05, deaf=1), "training.train_steps=1000")
    started.wait_for_step(2)
    run = started.run_dir
    rank = int((run / "attempts/1/rank_0.pid").read_text().split()[1])
    others = [pid for pid in processes_of(run) if pid != rank]
    os.kill(started.process.pid, signal.SIGSTOP)  # so that nobody cleans up after the others
    for signum in (signal.SIGSTOP, signal.SIGKILL):
        for pid in {started.process.pid, *others}:
            os.kill(pid, signum)
    started.end()
    refused = call("--local", "--resume", run)
    os.kill(rank, signal.SIGKILL)
    assert refused.code == 2 and f"still running (training process {rank} on" in refused.err
    assert len(refused.err.splitlines()) == 1
    wait_for(lambda: not living(run), "the rank to end")
    assert call("--local", "--resume", run, f"training.train_steps={steps(run)[-1] + 1}").code == 0
