"""The batch step of a job, with a stand-in Slurm that records what it is asked; tests/slurm has the real one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from launch import supervise
from launch.attempts import Ending, begin_attempt, this_process, write_json
from launch.history import close_unfinished, history
from launch.jobs import NoSlurmError, requeue, show_job
from launch.rendezvous import Rendezvous, choose_port, port_was_taken
from tests.launch.fake_slurm import SBATCH, install
from tests.launch.helpers import ROOT, call, events, living, processes_of, steps, tags, wait_for, write_config
from tmrc.config.rundir import RunDir, append_event

SRUN = """#!/bin/bash
while [[ "$1" == -* ]]; do
  case "$1" in --output|--nodes|--ntasks) [[ "$1" == --output ]] && out=$2; shift;; esac
  shift
done
exec "$@" >> "${out//%t/0}" 2>&1
"""
SCONTROL = """#!/bin/bash
here=$(dirname "$0")
echo "$*" >> "$here/calls"
case "$1" in
  show) cat "$here/job" ;;
  requeue) [ -e "$here/refuse" ] && { cat "$here/refuse" >&2; exit 1; }; exit 0 ;;
esac
"""
SCANCEL = '#!/bin/bash\necho "scancel $*" >> "$(dirname "$0")/calls"\n'
RUNNING = "JobId=4242 JobState=RUNNING Reason=None Restarts=0 EndTime=2099-01-01T00:00:00"
JOB = {
    "SLURM_JOB_ID": "4242", "SLURM_JOB_NUM_NODES": "1", "SLURM_NTASKS": "1", "SLURM_NODEID": "0",
    "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_NODELIST": "here",
}  # fmt: skip


class FakeJob:
    """A run that is submitted, and its batch script, to be run here as often as wanted."""

    def __init__(self, tmp_path: Path, *overrides: str, cwd: Path = ROOT, **sections: dict[str, Any]) -> None:
        self.bin = tmp_path / "bin"
        self.env = install(self.bin, sbatch=SBATCH, srun=SRUN, scontrol=SCONTROL, scancel=SCANCEL)
        (self.bin / "job").write_text(RUNNING)
        self.config = write_config(tmp_path, **sections)
        done = call("--json", self.config, *overrides, env={**self.env, "PYTHONPATH": str(cwd)}, cwd=cwd)
        assert done.code == 0, done.err
        self.run = Path(done.json["run_dir"])

    def start(self) -> subprocess.Popen[bytes]:
        log = (self.run / "submitit/4242_0_log.out").open("ab")
        script = ["bash", str(self.bin / "submitted.sh")]
        env = {**os.environ, **self.env, **JOB}
        return subprocess.Popen(script, env=env, stdout=log, stderr=log, start_new_session=True)

    def until_end(self) -> int:
        return self.start().wait(timeout=120)

    @property
    def calls(self) -> list[str]:
        file = self.bin / "calls"
        return [line for line in file.read_text().splitlines() if "show" not in line] if file.exists() else []

    @property
    def last_line(self) -> str:
        return (self.run / "submitit/4242_0_log.out").read_text().splitlines()[-1]

    def ending(self, attempt: int) -> dict[str, Any]:
        found = json.loads((self.run / f"attempts/{attempt}/job.json").read_text())
        assert isinstance(found, dict)
        return found


def test_a_submitted_run_uses_the_code_it_was_submitted_with(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for package in ("launch", "tmrc", "tests"):
        shutil.copytree(ROOT / package, checkout / package, ignore=shutil.ignore_patterns("__pycache__"))
    job = FakeJob(tmp_path, cwd=checkout)
    for file in [*checkout.glob("tmrc/**/*.py"), *checkout.glob("launch/**/*.py")]:
        file.write_text("raise SystemExit('edited since')\n")
    job.config.write_text("broken: [")
    assert job.until_end() == 0, job.last_line
    assert steps(job.run) == list(range(1, 21))
    owner = json.loads((job.run / "attempts/1/owner.json").read_text())
    assert (owner["job_id"], owner["executor"], owner["nodes"]) == ("4242", "slurm", ["here"])
    assert job.last_line == "tmrc: finished (exit code 0)" and job.calls == []
    variables = json.loads((job.run / "attempts/1/rank_0.env").read_text())
    compiled = Path(variables["TORCHINDUCTOR_CACHE_DIR"])
    assert compiled.parent == Path(tempfile.gettempdir()) and not compiled.exists()  # the node's, gone with the attempt


def test_a_failure_goes_back_to_the_queue_until_it_has_made_no_progress_three_times(tmp_path: Path) -> None:
    job = FakeJob(tmp_path, tags(crash="boom"))
    assert [job.until_end() for _ in range(3)] == [1, 1, 1]
    assert job.calls == ["requeue 4242", "requeue 4242"]
    assert [job.ending(n)["action"] for n in (1, 2, 3)] == ["requeued", "requeued", "held"]
    assert [row["kind"] for row in events(job.run, "requeued")] == ["code_error"] * 2
    assert events(job.run, "held")[0]["cause"] == "boom; 3 attempts without a new checkpoint"
    assert job.last_line == "tmrc: failed (exit code 1, held): boom; 3 attempts without a new checkpoint"


def test_an_error_of_the_user_is_not_tried_again(tmp_path: Path) -> None:
    job = FakeJob(tmp_path, tags(error="optimizer.lr: got 1"))
    assert job.until_end() == 2
    assert job.calls == [] and job.last_line == "tmrc: failed (exit code 2): optimizer.lr: got 1"
    assert events(job.run, "failed")[0]["kind"] == "config"


def test_a_signal_to_every_process_of_the_step_saves_and_goes_back_to_the_queue(tmp_path: Path) -> None:
    """As Slurm delivers it where it tracks processes by their parents, torchrun included."""
    sections = {"training": {"train_steps": 2000}, "launch": {"processes_per_node": 2}}
    job = FakeJob(tmp_path, tags(step_seconds=0.02), **sections)
    for signum in (signal.SIGUSR2, signal.SIGTERM):
        batch = job.start()
        done = len(events(job.run, "requeued"))
        wait_for(lambda done=done: (job.run / f"attempts/{done + 1}/rank_1.pid").exists(), "the second rank")
        time.sleep(0.5)
        step = [pid for pid, line in processes_of(job.run).items() if "supervise" not in line and "srun" not in line]
        assert len(step) >= 4  # the node's job, torchrun, two ranks
        for pid in step:
            os.kill(pid, signum)
        assert batch.wait(timeout=60) == 75
        assert living(job.run) == []
    assert job.calls == ["requeue 4242"] * 2
    assert [row["kind"] for row in events(job.run, "requeued")] == ["signal"] * 2


@pytest.mark.parametrize(
    ("facts", "action", "calls"),
    [
        (RUNNING, "requeued", ["scancel --signal=USR2 4242", "requeue 4242"]),
        (RUNNING.replace("RUNNING", "COMPLETING"), "none", []),
        (RUNNING.replace("RUNNING Reason=None", "COMPLETING Reason=TimeLimit"), "requeued", ["requeue 4242"]),
        (RUNNING.replace("RUNNING", "COMPLETING").replace("Restarts=0", "Restarts=1"), "requeued", []),
    ],
)
def test_what_a_signal_to_the_batch_step_means(tmp_path: Path, facts: str, action: str, calls: list[str]) -> None:
    job = FakeJob(tmp_path, tags(step_seconds=0.02), training={"train_steps": 2000})
    batch = job.start()
    wait_for(lambda: (job.run / "metrics.jsonl").exists(), "the first step")
    (job.bin / "job").write_text(facts)
    os.kill(batch.pid, signal.SIGTERM)
    time.sleep(0.5)
    rank = int((job.run / "attempts/1/rank_0.pid").read_text().split()[1])
    os.kill(rank, signal.SIGTERM)
    assert batch.wait(timeout=60) == 75
    assert (job.ending(1)["action"], job.calls) == (action, calls)
    assert bool(events(job.run, "cancelled")) == (action == "none")


def test_a_refused_requeue_becomes_a_new_job(tmp_path: Path) -> None:
    job = FakeJob(tmp_path, tags(crash="boom"))
    (job.bin / "refuse").write_text("Requested operation is presently disabled\n")
    (job.bin / "submitted.sh").rename(tmp_path / "first.sh")
    shutil.copy(tmp_path / "first.sh", job.bin / "submitted.sh")
    assert job.until_end() == 1
    assert job.ending(1)["action"] == "resubmitted"
    again = (job.bin / "submitted.sh").read_text()
    assert again == (tmp_path / "first.sh").read_text()
    variables = (job.bin / "submitted.env").read_text()
    assert "SLURM_PROCID" not in variables and "TMRC_ATTEMPT" not in variables


def test_what_people_write_into_a_job_record_is_no_fact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = install(tmp_path / "bin", scontrol=SCONTROL)
    monkeypatch.setenv("PATH", fakes["PATH"])
    told = f"{RUNNING} Command=/x Restarts=9 WorkDir=/y Restarts=7 Comment=caf\xe9 JobState=CANCELLED".encode("latin1")
    (tmp_path / "bin/job").write_bytes(told)
    facts = show_job("4242")
    assert facts is not None and (facts.state, facts.restarts, facts.preempted) == ("RUNNING", 0, False)
    monkeypatch.setenv("PATH", "/nonexistent")
    assert requeue("4242", 0, lambda: True) == "no scontrol on PATH"
    with pytest.raises(NoSlurmError):
        show_job("4242")


@pytest.mark.parametrize(
    ("log", "kind"),
    [
        ("slurmstepd-n1: error: *** JOB 5 ON n1 CANCELLED AT 2026-11-22T16:07:45 DUE TO PREEMPTION ***", "preempted"),
        ("*** JOB 5 ON n1 CANCELLED AT 2026-11-22T16:07:45 DUE TO TIME LIMIT ***\n", "time_limit"),
        ("*** JOB 5 ON n1 CANCELLED AT 2026-11-22T16:07:45 DUE TO JOB REQUEUE ***", "requeued"),
        ("*** JOB 5 ON n1 CANCELLED AT 2026-11-22T16:07:45 ***", "cancelled"),
        ("*** STEP 5.0 ON n1 CANCELLED AT 2026-11-22T16:07:45 ***", ""),
        ("all is well", ""),
    ],
)
def test_what_slurm_writes_into_the_log_tells_the_cause(tmp_path: Path, log: str, kind: str) -> None:
    run = RunDir(tmp_path)
    file = tmp_path / "log"
    file.write_text("of an earlier attempt DUE TO PREEMPTION ***\n")
    offset = file.stat().st_size
    begin_attempt(run, this_process("7", executor="slurm", nodes=("n1",), logs=(str(file),), log_offset=offset))
    with file.open("a") as more:
        more.write(log)
    close_unfinished(run, "7")
    assert history(run)[0].ending.kind == (kind or "lost")
    assert (history(run)[0].ending.status == "cancelled") == (kind == "cancelled")


def test_a_python_that_cannot_be_started_is_an_error_of_the_user(tmp_path: Path) -> None:
    job = FakeJob(tmp_path)
    text = "slurmstepd: error: execve(): apptainer: No such file or directory"
    (job.bin / "srun").write_text(f"#!/bin/bash\necho '{text}' >&2\nexit 2\n")
    assert job.until_end() == 2
    assert "launch.python" in job.last_line and "apptainer: No such file" in job.last_line
    assert job.calls == []


def test_a_cancelled_run_does_not_begin(tmp_path: Path) -> None:
    job = FakeJob(tmp_path)
    (job.run / "cancel.json").write_text("{}")
    assert job.until_end() == 75
    assert not (job.run / "attempts/1").exists() and "cancelled" in job.last_line


def test_a_signal_before_the_supervisor_listens_is_not_lost(tmp_path: Path) -> None:
    job = FakeJob(tmp_path, launch={"setup": ["touch ready", "sleep 1", "sleep 1"]})
    batch = job.start()
    wait_for((Path.cwd() / "ready").exists, "the set-up")
    (Path.cwd() / "ready").unlink()
    os.kill(batch.pid, signal.SIGTERM)
    assert batch.wait(timeout=60) == 75
    assert job.calls == ["requeue 4242"] and not (job.run / "attempts/1").exists()


def test_an_attempt_that_slurm_ended_gets_an_ending_from_the_next(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for number, job in ((1, "7"), (2, "7"), (3, "8")):
        append_event(run, "submitted", executor="slurm", job_id=job, attempt=number)
        begin_attempt(run, this_process(job, executor="slurm", nodes=("n1",)))
    close_unfinished(run, "8")
    row = events(tmp_path, "requeued")[0]
    assert (row["attempt"], row["kind"], row["job_id"]) == (3, "lost", "8")
    write_json(run.attempt(1) / "job.json", vars(Ending(1, "failed", kind="killed")))
    assert [past.ending.kind for past in history(run)] == ["lost"]  # a person's submission starts a new count
    close_unfinished(run, "8")
    assert len(events(tmp_path, "requeued")) == 1


def test_rendezvous_ports_of_neighbours_differ() -> None:
    import socket

    ports = {choose_port(number) for number in range(500, 520)}
    assert len(ports) == 20 and all(20_000 <= port < 32_768 for port in ports)
    with socket.socket() as taken:
        taken.bind(("", 0))
        assert taken.getsockname()[1] not in ports
    with socket.socket() as neighbour:
        neighbour.bind(("0.0.0.0", choose_port(777)))
        neighbour.listen()
        assert choose_port(777) != neighbour.getsockname()[1]
    assert "is_host=1" in Rendezvous("n1", 5, 2, "k").options(0)[-1]
    assert "is_host=0" in Rendezvous("n1", 5, 2, "k").options(1)[-1]


@pytest.mark.slow
def test_a_taken_port_is_recognised_in_what_torchrun_prints() -> None:
    import socket
    import sys

    with socket.socket(socket.AF_INET6) as neighbour:
        neighbour.bind(("", 0))
        neighbour.listen()
        meet = Rendezvous("localhost", neighbour.getsockname()[1], 1, "k")
        words = [sys.executable, "-m", "torch.distributed.run", *meet.options(0), "--no-python", "true"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and port_was_taken(done.stderr)


def test_a_job_whose_run_another_one_has_finished_does_nothing(tmp_path: Path) -> None:
    job = FakeJob(tmp_path, training={"train_steps": 3})
    assert job.until_end() == 0
    before = events(job.run)
    assert job.until_end() == 0
    assert events(job.run) == before and not (job.run / "attempts/2").exists()
    log = (job.run / "submitit/4242_0_log.out").read_text()
    assert "tmrc: finished (exit code 0): by another job; nothing is left to do" in log
    more = [call("--json", "--resume", job.run, "training.train_steps=5", env={**job.env, "PYTHONPATH": str(ROOT)})]
    assert more[0].code == 0, more[0].err
    assert job.until_end() == 0 and steps(job.run) == [1, 2, 3, 4, 5]  # what it was resumed for is done


def test_a_task_finds_its_pickle_though_the_submission_was_killed_before_naming_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "submissions/1/submitit"
    folder.mkdir(parents=True)
    (folder.parent / "runs.txt").write_text(f"{tmp_path / 'a'}\n{tmp_path / 'b'}\n")
    for number in range(2):
        (folder / f"array_{number}.pkl").write_bytes(b"job %d" % number)
    for name, value in {"JOB_ID": "4244", "ARRAY_JOB_ID": "4242", "ARRAY_TASK_ID": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    for _ in range(2):  # and again when it is requeued
        run, where = supervise._run_and_folder(["--runs", str(folder.parent / "runs.txt")])
        assert (run.path, where) == (tmp_path / "b", folder)
        assert (folder / "4242_1_submitted.pkl").read_bytes() == b"job 1"
