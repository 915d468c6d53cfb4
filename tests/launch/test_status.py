from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.find import runs_in
from launch.status import Asker, RunStatus, statuses
from tests.launch.fake_queue import FakeSlurm, HandMade
from tests.launch.helpers import Done, call
from tmrc.config.rundir import RunDir

ROOT = Path(__file__).parents[2]


def look(run: HandMade) -> RunStatus:
    (one,), _ = statuses([RunDir(run.path)])
    return one


def tmrc(*arguments: object, cwd: Path = ROOT, **env: str) -> Done:
    return call(*arguments, module="launch.cli.main", cwd=cwd, env={"PYTHONPATH": str(ROOT), **env})


def dead_process() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


PENDING = "7|PENDING||N/A|1:00:00|Priority"
RUNNING = "7|RUNNING|node[1-2]|1|1:00:00|None"
# a run's files, squeue's line and sacct's line -> state, and a part of the cause
CASES: dict[str, tuple[Callable[[HandMade], object], str, str, str, str]] = {
    "never submitted": (lambda run: run, "", "", "created", ""),
    "its attempts were deleted": (
        lambda run: run.submitted("7").trains().event("finished", attempt=1), "", "", "finished", "",
    ),
    "its attempts were deleted while it trained": (
        lambda run: run.submitted("7", "local").trains(), "", "", "lost", "nobody knows",
    ),
    "waits": (lambda run: run.submitted("7"), PENDING, "", "pending", ""),
    "starts, no attempt yet": (lambda run: run.submitted("7"), RUNNING, "", "starting", ""),
    "nodes boot": (lambda run: run.submitted("7"), RUNNING.replace("RUNNING", "CONFIGURING"), "", "starting", ""),
    "starts": (lambda run: run.submitted("7").began(), RUNNING, "", "starting", ""),
    "trains": (lambda run: run.submitted("7").began().trains(), RUNNING, "", "running", ""),
    "saves": (lambda run: run.submitted("7").began().trains().event("signal", attempt=1), RUNNING, "", "saving", ""),
    "ends": (
        lambda run: run.submitted("7").began().trains(), RUNNING.replace("RUNNING", "COMPLETING"), "", "running", "",
    ),
    "suspended": (
        lambda run: run.submitted("7").began().trains(), RUNNING.replace("RUNNING", "SUSPENDED"), "", "suspended", "",
    ),
    "requeued": (
        lambda run: run.submitted("7").began().trains().ended(1, "stopped", action="requeued", kind="preempted"),
        PENDING, "", "pending", "preempted",
    ),
    "requeued, still on its nodes": (
        lambda run: run.submitted("7").began().trains().ended(1, "stopped", action="requeued"),
        RUNNING.replace("RUNNING", "COMPLETING"), "", "pending", "",
    ),
    "requeued, Slurm has yet to end it": (
        lambda run: run.submitted("7").began().trains().ended(1, "stopped", action="requeued"),
        RUNNING, "", "pending", "",
    ),
    "requeued, on nodes again": (
        lambda run: run.submitted("7").began().trains().ended(1, "stopped", action="requeued"),
        RUNNING.replace("|1|", "|SOON|"), "", "starting", "",
    ),
    "requeued by Slurm after a node was lost": (
        lambda run: run.submitted("7").began().trains(), PENDING, "", "pending", "",
    ),
    "resumed after that": (
        lambda run: run.submitted("7").began().trains().began(2).trains(2, 10), RUNNING, "", "running", "",
    ),
    "resubmitted": (
        lambda run: run.submitted("6").began(1, "6").ended(1, "stopped", action="resubmitted")
        .submitted("7", previous="6")
        .event("requeued", attempt=1, action="resubmitted", job_id="6", cause="preempted"),
        PENDING, "", "pending", "",
    ),
    "submitted anew after a failure": (
        lambda run: run.submitted("6").began(1, "6").ended(1, "failed").event("failed", attempt=1).submitted("7"),
        PENDING, "", "pending", "",
    ),
    "finished": (lambda run: run.submitted("7").began().trains().ended(), "", "", "finished", ""),
    "finished, by its events": (
        lambda run: run.submitted("7").began().trains().event("finished", attempt=1, step=100), "", "", "finished", "",
    ),
    "failed": (
        lambda run: run.submitted("7").began().ended(1, "failed", message="no such file"), "", "", "failed", "no such",
    ),
    "held": (
        lambda run: run.submitted("7").began().ended(1, "failed", action="held", message="again"), "", "", "held",
        "again",
    ),
    "cancelled": (lambda run: run.submitted("7").began().ended(1, "cancelled"), "", "", "cancelled", ""),
    "cancelled while it waited": (lambda run: run.submitted("7").event("cancelled"), "", "", "cancelled", ""),
    "gone": (lambda run: run.submitted("7").began().trains(), "", "", "lost", "has left no word"),
    "cancelled with scancel": (
        lambda run: run.submitted("7"), "", "7|CANCELLED by 0|0:0||1", "cancelled", "job 7 was cancelled by root",
    ),
    "cancelled with scancel, as squeue has it": (
        lambda run: run.submitted("7"), PENDING.replace("PENDING", "CANCELLED"), "", "cancelled", "with scancel",
    ),
    "cancelled with scancel before it could save": (
        lambda run: run.submitted("7").began().trains(), "", "7|CANCELLED by 0|0:0||1", "cancelled", "by root with",
    ),
    "gone, out of time": (lambda run: run.submitted("7").began(), "", "7|TIMEOUT|0:0|n|1", "lost", "time limit"),
    "gone, out of memory": (lambda run: run.submitted("7").began(), "", "7|OUT_OF_MEMORY|0:125|n|1", "lost", "memory"),
    "gone, node lost": (lambda run: run.submitted("7").began(), "7|NODE_FAIL|n|1|1:00|", "", "lost", "lost its node"),
    "an array's task": (
        lambda run: run.submitted("9_4"), "9_[2-6%2]|PENDING||N/A|1:00|JobArrayTaskLimit", "", "pending", "",
    ),
    "local, gone": (
        lambda run: run.submitted("1", "local", attempt=1).began(1, None, pid=dead_process()).trains(), "", "", "lost",
        "is gone without a word",
    ),
    "local": (lambda run: run.submitted("1", "local", attempt=1).began(1, None).trains(), "", "", "running", ""),
    "local, stopped": (
        lambda run: run.submitted("1", "local", attempt=1).began(1, None).trains().ended(1, "stopped"), "", "",
        "stopped", "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_states(slurm: FakeSlurm, run: HandMade, case: str) -> None:
    make, row, account, state, cause = CASES[case]
    make(run)
    slurm.queue(row.replace("SOON", str(int(time.time()) + 60)))
    slurm.accounts(account)
    one = look(run)
    assert (one.state, one.sure) == (state, True)
    assert cause in (one.cause or "")


@pytest.mark.parametrize(("executor", "row", "sure"), [("slurm", RUNNING, True), ("local", "", False)])
def test_an_attempt_that_has_not_yet_said_whose_it_is_is_not_called_lost(
    slurm: FakeSlurm, run: HandMade, executor: str, row: str, sure: bool
) -> None:
    """Its directory is made a moment before owner.json is in it."""
    slurm.queue(row)
    run.submitted("7", executor, attempt=1)
    (run.path / "attempts/1").mkdir(parents=True)
    one = look(run)
    assert (one.state, one.sure) == ("starting", sure), one.cause
    assert one.job_id == ("7" if executor == "slurm" else None)
    os.utime(run.path / "attempts/1", (time.time() - 600,) * 2)
    assert look(run).state == ("starting" if executor == "slurm" else "lost")


def test_what_is_known_of_a_run_that_trains(slurm: FakeSlurm, run: HandMade) -> None:
    slurm.queue(RUNNING)
    run.submitted("7").began().trains(1, 0, 50, 200).saved(20).saved(40)
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 50, "val_loss": 2.5}\n{"step": 51, "loss": 1')  # a row that is still being written
    one = look(run)
    assert (one.step, one.total_steps, one.loss, one.val_loss, one.tokens_per_s) == (50, 200, 0.2, 2.5, 12345)
    assert one.eta == pytest.approx(150)  # a second a step, by the rows' times
    assert (one.attempts, one.checkpoint_step, one.where, one.time_left) == (1, 40, "node[1-2]", 3600)


def test_speed_and_time_left_are_those_of_this_attempts_rows(slurm: FakeSlurm, run: HandMade) -> None:
    slurm.queue(RUNNING)
    run.submitted("7").began().trains(1, 0, 20, 200).saved(20)
    run.clock += 5000  # in the queue
    run.began(2).trains(2, 20, 0, 200)
    one = look(run)
    assert one.tokens_per_s is None and one.eta is None
    run.began(3).trains(3, 20, 1, 200)
    one = look(run)  # one row: its own word, for both
    assert one.tokens_per_s == 24690 and one.eta == pytest.approx(179 / 2)
    run.clock += 5000
    run.began(4).trains(4, 21, 9, 200)
    one = look(run)
    assert one.tokens_per_s == 12345 and one.eta == pytest.approx(170)


def test_a_validation_long_ago_is_found(slurm: FakeSlurm, run: HandMade) -> None:
    slurm.queue(RUNNING)
    run.submitted("7").began()
    (run.path / "metrics.jsonl").write_text('{"step": 0, "val_loss": 4.5}\n')
    run.trains(1, 0, 2000, 4000)
    assert look(run).val_loss == 4.5


def test_a_start_many_events_ago_is_found(slurm: FakeSlurm, run: HandMade) -> None:
    slurm.queue(RUNNING)
    run.submitted("7").began().trains()
    with (run.path / "events.jsonl").open("a") as file:
        file.write('{"event": "checkpoint", "attempt": 1, "step": 10}\n' * 1000)
    one = look(run)
    assert (one.state, one.total_steps) == ("running", 100)


def test_the_queue_is_unknown_but_the_files_speak(slurm: FakeSlurm, run: HandMade) -> None:
    slurm.fails("squeue", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    run.submitted("7").began().trains()
    one = look(run)
    assert (one.state, one.sure, one.cause) == ("running", False, None)
    done = tmrc("status", run.path.parent)
    assert done.code == 0 and "running?" in done.out
    assert "queue unknown: slurm_load_jobs error: Unable to contact slurm controller" in done.out


@pytest.mark.parametrize(("at_once", "state"), [(True, "cancelled"), (False, "saving")])
def test_what_was_cancelled_before_the_controller_went_away(
    slurm: FakeSlurm, run: HandMade, at_once: bool, state: str
) -> None:
    slurm.fails("squeue", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    run.submitted("7").began().trains()
    (run.path / "cancel.json").write_text(json.dumps({"time": time.time(), "user": "anna", "at_once": at_once}))
    one = look(run)
    assert (one.state, one.sure) == (state, False)


def test_the_larger_of_last_row_and_last_checkpoint_is_the_step(slurm: FakeSlurm, run: HandMade) -> None:
    slurm.queue(PENDING)
    run.submitted("7").began().trains(1, 0, 40).saved(45).ended(1, "stopped", action="requeued")
    assert look(run).step == 45
    slurm.queue(RUNNING)
    run.began(2)
    assert look(run).step == 45


def test_a_changed_total_is_shown_before_the_next_attempt_starts(slurm: FakeSlurm, run: HandMade) -> None:
    slurm.queue(PENDING)
    run.submitted("6").began(1, "6").trains(1, 0, 10, 100).ended(1, "cancelled").submitted("7", attempt=2)
    assert look(run).total_steps == 100
    run.event("changed", attempt=2, changes={"launch.time": ["1", "2"], "training.train_steps": [100, 300]})
    assert look(run).total_steps == 300
    run.event("changed", attempt=2, changes={"launch.time": ["2", "3"]})
    assert look(run).total_steps == 300
    run.event("changed", attempt=2, changes={"training.epochs": [1, 2]})
    assert look(run).total_steps is None  # how many steps that makes, training has to say
    run.began(2).trains(2, 10, 1, 500).event("changed", attempt=3, changes={"training.train_steps": [600, 700]})
    assert look(run).total_steps == 500  # the epochs end it
    run.event("changed", attempt=3, changes={"training.train_steps": [700, 400]})
    assert look(run).total_steps == 400


def test_without_slurm(tmp_path: Path, run: HandMade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    run.submitted("7")
    assert (look(run).state, look(run).sure) == ("pending", False)
    run.began().trains().ended()
    assert (look(run).state, look(run).sure) == ("finished", True)


def test_a_local_run_on_another_host_is_not_called_lost(slurm: FakeSlurm, run: HandMade) -> None:
    run.submitted("1", "local", attempt=1).began(1, None, host="elsewhere", pid=1).trains()
    one = look(run)
    assert (one.state, one.sure, one.where) == ("running", False, "elsewhere")


def test_last_words_that_come_while_slurm_is_asked(slurm: FakeSlurm, run: HandMade) -> None:
    run.submitted("7").began().trains()
    words = run.path / "attempts/1/job.json"
    (slurm.folder / "squeue").write_text(
        f"""#!/bin/bash\necho '{{"status": "finished", "exit_code": 0}}' > {words}\n"""
    )
    assert look(run).state == "finished"


def test_only_the_runs_that_may_be_in_the_queue_are_asked_for(slurm: FakeSlurm, tmp_path: Path) -> None:
    slurm.queue(RUNNING)
    for n in range(20):
        HandMade(tmp_path / "artifacts", f"old-{n}").submitted(str(100 + n)).began(1, str(100 + n)).ended()
    runs = runs_in(tmp_path / "artifacts")
    statuses(runs)
    assert slurm.calls == []
    for job_id in ("7", "8"):
        runs.append(RunDir(HandMade(tmp_path / "artifacts", f"new-{job_id}").submitted(job_id).path))
    statuses(runs)
    assert [line.split()[-1] for line in slurm.calls] == ["7,8", "8"]  # one squeue for both, one sacct for the lost one


def test_watching_does_not_ask_slurm_at_every_look(slurm: FakeSlurm, run: HandMade, tmp_path: Path) -> None:
    slurm.queue(PENDING, PENDING.replace("7", "8", 1))
    run.submitted("7")
    asker, runs = Asker(patience=60), [RunDir(run.path)]
    for _ in range(3):
        assert statuses(runs, asker)[0][0].state == "pending"
    assert len(slurm.calls) == 1
    runs.append(RunDir(HandMade(tmp_path / "artifacts", "new").submitted("8").path))
    assert [one.state for one in statuses(runs, asker)[0]] == ["pending", "pending"]  # but about a new job
    assert len(slurm.calls) == 2
    slurm.queue(RUNNING, PENDING.replace("7", "8", 1))
    run.began()
    assert statuses(runs, asker)[0][0].state == "starting" and len(slurm.calls) == 3  # or when one has begun


def test_how_far_a_killed_attempt_came_stays_known(slurm: FakeSlurm, run: HandMade) -> None:
    run.submitted("7").began(1).trains().ended(1, "failed", kind="killed", action="requeued")
    (run.path / "attempts/1/spent.json").write_text(json.dumps({"step": 9, "seconds": {}}))
    run.began(2).trains(2, begun=4)
    slurm.queue(RUNNING)
    assert "steps 0 to 9" in tmrc("status", run.path, **slurm.env).out


def test_points_of_a_sweep_are_shown_in_their_order(slurm: FakeSlurm, tmp_path: Path) -> None:
    sweep = tmp_path / "artifacts" / "toy-12345678"
    for name, began in (("toy-12345678-002-aa", 1), ("toy-12345678-001-bb", 2), ("toy-12345678-003-cc", 3)):
        HandMade(sweep, name, time.time() + began).submitted("7").began().ended()
    points = [{"run_id": path.name, "overrides": ["optimizer.lr=0.1"]} for path in sweep.iterdir()]
    (sweep / "sweep.json").write_text(json.dumps({"points": points}))
    shown = [line.split()[0] for line in tmrc("status", sweep, **slurm.env).out.splitlines()[1:4]]
    assert shown == sorted(shown)
    refused = tmrc("logs", sweep.name, cwd=sweep.parent)
    assert refused.code == 2 and "'toy-12345678' is a sweep; name one of its runs" in refused.err
    assert "is a sweep" in tmrc("logs", sweep, cwd=sweep.parent).err
