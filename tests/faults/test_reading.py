"""What happens to the data, and to the thread that reads them, while a run trains: one line, and never a hang."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.processes import command_line, descendants
from launch.verdict import why_silent
from tests.train.conftest import NewTrial, Trial, finish, spawn
from tests.train.test_fence import wait_until_stopped
from tests.train.test_stop import EVERY_STEP, before
from tmrc.train import feed as feeds
from tmrc.train.feed import Feed

Train = Callable[..., Trial]
AT_STEP_3 = ("-m", "tests.train.paused", "loop:Loop._train_step:3")


@pytest.fixture
def data(dataset: Path, tmp_path: Path) -> Path:
    """A copy of the data that a test may damage."""
    copy = tmp_path / "data"
    shutil.copytree(dataset, copy)
    metadata = copy / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace(str(dataset), str(copy)))
    return copy


@pytest.mark.parametrize("error", [SystemExit(3), MemoryError("none left"), KeyboardInterrupt()], ids=repr)
def test_whatever_ends_the_thread_ends_the_run(
    train: Train, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(feeds, "read_batch", fail)
    if isinstance(error, Exception):
        assert train("training.val_interval=0", expect=1).events("failed")
    else:
        with pytest.raises(type(error)):
            train("training.val_interval=0")


def test_a_thread_that_dies_without_a_word_is_an_error_and_no_hang(
    train: Train, new_trial: NewTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = Feed._fill
    monkeypatch.setattr(Feed, "_fill", lambda self, *about: fill(self, *about[:2], 0, 2, about[4]))
    trial = train(EVERY_STEP, expect=1)
    assert "the thread that reads data has ended without a word" in trial.events("failed")[0]["cause"]
    assert trial.saved_steps() == [1, 2]
    monkeypatch.undo()
    train(again=trial)
    assert trial.exact_rows == train().exact_rows


def test_a_read_that_stands_still_does_not_hold_the_end(monkeypatch: pytest.MonkeyPatch, train: Train) -> None:
    """The disk has gone away while the run is asked to stop: what was computed is saved, and the process ends."""
    monkeypatch.setattr(feeds, "_PATIENCE", 0.2)
    again, read, calls = threading.Event(), feeds.read_share, []

    def stall(*about: object) -> object:
        calls.append(1)
        if len(calls) > 4:
            again.wait(60)
        return read(*about)  # type: ignore[arg-type]

    monkeypatch.setattr(feeds, "read_share", stall)
    with before("loop", "Loop._train_step", 2, lambda: os.kill(os.getpid(), signal.SIGTERM)):
        trial = train(expect=75)
    again.set()
    assert trial.saved_steps() in ([2], [3])


@pytest.mark.parametrize("harm", ["unlinked", "replaced"])
def test_shards_that_are_mapped_stay_as_they_were_when_the_name_goes(
    train: Train, new_trial: NewTrial, data: Path, harm: str
) -> None:
    def act() -> None:
        for shard in data.glob("*.bin"):
            other = data / "other"
            other.write_bytes(bytes(shard.stat().st_size // 2))
            other.replace(shard) if harm == "replaced" else shard.unlink()

    trial = new_trial(f"datasets.path={data}", EVERY_STEP)
    with before("loop", "Loop._train_step", 3, act):
        train(again=trial)
    assert trial.exact_rows == train().exact_rows


@pytest.mark.parametrize("size", [1000, pytest.param(0, marks=pytest.mark.campaign)])
def test_a_shard_that_is_cut_short_is_named(new_trial: NewTrial, data: Path, size: int) -> None:
    """Within its last page there would be zeros in place of text; beyond it a SIGBUS."""
    trial = new_trial(f"datasets.path={data}", "training.train_steps=60", EVERY_STEP)
    process = spawn(trial, trainer=AT_STEP_3)
    wait_until_stopped(process.pid)
    os.truncate(data / "tiny_0.bin", size)
    process.send_signal(signal.SIGCONT)
    said = finish(process, expect=2)
    assert f"{data}/tiny_0.bin: the shard has changed since the run began: it has {size} bytes" in said
    assert len(said.splitlines()) == 1
    assert trial.saved_steps()


def test_a_shard_that_is_cut_short_in_the_middle_of_a_read_is_told_by_the_launcher(
    new_trial: NewTrial, data: Path
) -> None:
    """Between the look at its size and the read: the kernel ends the process, and faulthandler says where it was."""
    trial = new_trial(f"datasets.path={data}", "training.train_steps=60", EVERY_STEP)
    wrapper = (
        "import faulthandler, sys; faulthandler.enable(); from tmrc.data.dataset import TokenDataset; "
        "TokenDataset.require_whole = lambda *_: None; from tests.train import paused; "
        f"paused.pause_before({AT_STEP_3[2]!r}); sys.exit(paused.main(sys.argv[1:]))"
    )
    process = spawn(trial, trainer=("-c", wrapper))
    wait_until_stopped(process.pid)
    os.truncate(data / "tiny_0.bin", 0)
    process.send_signal(signal.SIGCONT)
    log = finish(process, expect=-signal.SIGBUS)
    torchrun = "failed (exitcode: -7) local_rank: 0 (pid: 1) of binary: python\n"
    cause, kind = why_silent(1, log + torchrun, out_of_memory=False)
    assert cause == (
        "rank 0 was killed by SIGBUS while it read data: a shard was cut short under it, or the disk has failed"
    )
    assert kind == "hardware"
    assert why_silent(1, torchrun, out_of_memory=False) == ("rank 0 was killed by SIGBUS", "hardware")


@pytest.mark.parametrize("mode", ["offline", pytest.param("disabled", marks=pytest.mark.campaign)])
def test_a_rank_has_no_child_but_the_tracker(new_trial: NewTrial, mode: str) -> None:
    """Data are read by a thread: there is no worker process that could be killed."""
    trial = new_trial(f"wandb_log.mode={mode}")
    process = spawn(trial, trainer=AT_STEP_3)
    wait_until_stopped(process.pid)
    children = [line for pid in descendants(process.pid) if (line := command_line(pid))]
    process.kill()
    process.communicate()
    assert bool(children) == (mode == "offline")
    assert all("wandb" in line for line in children), children
