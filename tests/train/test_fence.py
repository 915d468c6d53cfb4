"""One writer: an old attempt that wakes up, wherever it was held up, changes nothing of its successor's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.train.conftest import NewTrial, Trial, finish, spawn
from tests.train.test_resume import pid_of, wait_for_step
from tmrc.config.rundir import RunDir
from tmrc.train import fence as fences
from tmrc.train.failures import DiskError, SupersededError
from tmrc.train.fence import begun_attempts, take_over
from tmrc.train.metrics import MetricsFile, rewind

SHORT = ["training.train_steps=40", "training.log_interval=3", "training.val_interval=10", "training.save_every=0.0001"]
LONG = ["training.train_steps=1000", "training.log_interval=7", "training.val_interval=100", "training.save_every=0.1"]

# Where the old attempt is held up. It saves after every step.
PLACES = [
    "start:take_over:1",  # before anything
    "fence:begun_attempts:1",  # its own directory stands, and it looks for others
    "checkpoint:checkpoint_steps:1",  # it holds the run, and looks at what there is
    "start:rewind:1",  # it knows what the run is, and opens the metrics next
    "metrics:MetricsFile.__init__:1",  # the rows of metrics are read
    "start:set_aside:1",  # they are in their place
    "checkpoint:save_file:5",
    "durable:commit:3",
    "fence:Fence.discard:2",
    "metrics:MetricsFile.write:5",
    "keeper:Keeper.event:8",  # after a checkpoint is in its place
]

# One of each phase: the start, a save, the training between; the others are for the campaign.
TELLING = (
    "start:take_over:1",
    "start:rewind:1",
    "checkpoint:save_file:5",
    "durable:commit:3",
    "metrics:MetricsFile.write:5",
)

SpawnAt = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[SpawnAt]:
    """`start(trial, place)`; whatever a failed test leaves is killed."""
    started = []

    def go(trial: Trial, place: str | None = None, processes: int = 1) -> subprocess.Popen[str]:
        trainer = ("-m", "tests.train.paused", place) if place else ("-m", "tmrc.train")
        started.append(spawn(trial, processes, trainer))
        return started[-1]

    yield go
    for process in started:
        process.kill()
        process.wait()


def wait_until_stopped(pid: int) -> None:
    """Return when the process has been stopped by SIGSTOP."""
    deadline = time.monotonic() + 90
    while "\nState:\tT" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < deadline, "it does not come to the place"
        time.sleep(0.02)


def contents(run: RunDir) -> dict[str, bytes]:
    """Metrics and checkpoints, byte for byte."""
    files = [run.metrics, *(path for path in run.checkpoints.rglob("*") if path.is_file())]
    return {str(path.relative_to(run.path)): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    "place", [pytest.param(place, marks=[] if place in TELLING else [pytest.mark.campaign]) for place in PLACES]
)
def test_a_process_that_was_held_up_and_wakes_up_later_writes_nothing(
    new_trial: NewTrial, start: SpawnAt, train: Callable[..., Trial], place: str
) -> None:
    trial = new_trial(*SHORT)
    old = start(trial, place)
    uninterrupted = train(*SHORT)
    wait_until_stopped(old.pid)
    train(again=trial)
    after = contents(trial.run)
    old.send_signal(signal.SIGCONT)
    said = finish(old, expect=1)
    assert contents(trial.run) == after
    assert trial.exact_rows == uninterrupted.exact_rows
    assert trial.tensor_files() == uninterrupted.tensor_files()
    assert "attempt 2 has taken over this run" in said
    assert "Traceback" not in said and len(said.splitlines()) == 1
    assert json.loads((trial.run.attempt(1) / "rank_0.json").read_text())["kind"] == "superseded"


def test_an_old_attempt_that_wakes_up_beside_the_new_one_ends(new_trial: NewTrial, start: SpawnAt) -> None:
    """Both train at the same time for a while; what is left is what one alone would have left."""
    whole, trial = new_trial(*LONG), new_trial(*LONG)
    finish(start(whole))
    old = start(trial)
    wait_for_step(trial, 100)
    old.send_signal(signal.SIGSTOP)
    new = start(trial)
    while not trial.events("resumed"):
        assert new.poll() is None
        time.sleep(0.02)
    old.send_signal(signal.SIGCONT)
    assert "attempt 2 has taken over" in finish(old, expect=1)
    finish(new)
    assert trial.exact_rows == whole.exact_rows
    assert trial.tensor_files() == whole.tensor_files()


@pytest.mark.campaign
def test_of_two_ranks_that_wake_up_neither_writes(new_trial: NewTrial, start: SpawnAt) -> None:
    few = [*LONG, "training.train_steps=300"]
    whole, trial = new_trial(*few), new_trial(*few)
    finish(start(whole, processes=2))
    old = start(trial, processes=2)
    wait_for_step(trial, 100)
    ranks = [pid_of(trial, 1, rank) for rank in (0, 1)]
    for pid in ranks:
        os.kill(pid, signal.SIGSTOP)
    finish(start(trial, processes=2))
    after = contents(trial.run)
    for pid in ranks:
        os.kill(pid, signal.SIGCONT)
    assert "attempt 2 has taken over" in finish(old, expect=1)
    assert contents(trial.run) == after
    assert trial.exact_rows == whole.exact_rows
    assert trial.tensor_files() == whole.tensor_files()


def test_attempts_follow_the_launchers_numbers(
    new_trial: NewTrial, start: SpawnAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The later number has the run, whichever process started last."""
    trial = new_trial("training.train_steps=3")
    monkeypatch.setenv("TMRC_ATTEMPT", "5")
    finish(start(trial))
    for number in ("3", "5"):
        monkeypatch.setenv("TMRC_ATTEMPT", number)
        assert "attempt 5 has" in finish(start(trial), expect=1)
    monkeypatch.delenv("TMRC_ATTEMPT")
    finish(start(trial))
    assert list(begun_attempts(trial.run)) == [6]


def test_a_run_that_is_removed_under_its_process_is_one_line(new_trial: NewTrial, start: SpawnAt) -> None:
    trial = new_trial(*LONG, "training.train_steps=100000")
    process = start(trial)
    wait_for_step(trial, 10)
    trial.run.checkpoints.rename(trial.run.path / "removed")
    said = finish(process, expect=1)
    assert "is gone" in said and "Traceback" not in said
    assert json.loads((trial.run.attempt(1) / "rank_0.json").read_text())["kind"] == "disk"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


def test_the_earlier_of_two_that_begin_at_once_is_shut_out(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempt 1 is held up between making its directory and looking for others, while attempt 2 begins."""
    listed = fences.begun_attempts

    def late(run: RunDir) -> dict[int, Path]:
        monkeypatch.setattr(fences, "begun_attempts", listed)
        take_over(run, 2).require()
        return listed(run)

    monkeypatch.setattr(fences, "begun_attempts", late)
    with pytest.raises(SupersededError, match="attempt 2"):
        take_over(run, 1)
    assert list(begun_attempts(run)) == [2]


def test_of_many_that_begin_at_once_the_last_has_the_run(run: RunDir) -> None:
    held, lost = [], []
    barrier = threading.Barrier(8)

    def begin(attempt: int) -> None:
        barrier.wait()
        try:
            held.append(take_over(run, attempt))
        except SupersededError:
            lost.append(attempt)

    threads = [threading.Thread(target=begin, args=(attempt,)) for attempt in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [fence.attempt for fence in held if fence.lost() is None] == [8]
    assert len(held) + len(lost) == 8
    assert {path.name for path in run.checkpoints.iterdir()} == {".attempt_8"}


def test_the_number_belongs_to_one_process(run: RunDir) -> None:
    take_over(run, 1)
    with pytest.raises(SupersededError, match="begun already"):
        take_over(run, 1)


def test_nothing_can_be_changed_through_a_lost_fence(run: RunDir) -> None:
    old = take_over(run, 1)
    metrics = rewind(old, 0, False)
    step = run.checkpoints / "step_00000001"
    step.mkdir()
    take_over(run, 2)
    metrics.write({"step": 1, "loss": 1.0})  # into a file that has lost its name
    new = rewind(take_over(run, 3), 0, False)
    metrics.write({"step": 2, "loss": 2.0})
    new.write({"step": 1, "loss": 3.0})
    assert run.metrics.read_text() == '{"step": 1, "loss": 3.0}\n'
    for change in (old.discard, old.set_aside):
        with pytest.raises(SupersededError):
            change(step)
    with pytest.raises(SupersededError):
        old.draft("step_00000002")
    with pytest.raises(FileNotFoundError):
        MetricsFile(old, [])
    assert step.is_dir()


def test_what_dead_attempts_left_is_cleared_but_no_damaged_checkpoint(run: RunDir) -> None:
    old = take_over(run, 1)
    (old.draft("step_00000007") / "model.safetensors").write_bytes(b"half")
    (old.folder / "damaged_step_00000003").mkdir()  # it died between the two renames
    (run.checkpoints / ".ended_0_by_1").mkdir()  # it died while it removed this one
    take_over(run, 2)
    assert {path.name for path in run.checkpoints.iterdir()} == {".attempt_2", "damaged_step_00000003"}


def test_files_that_are_gone_are_not_taken_for_a_later_attempt(run: RunDir) -> None:
    fence = take_over(run, 3)
    fence.folder.rmdir()
    assert isinstance(fence.lost(), DiskError)
