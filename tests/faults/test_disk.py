"""Disks that are full, over quota, failing, read-only or gone: what was saved stays, and the run says what to do."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults import children, writer
from tests.faults.children import calls, finish, give_to_nobody, needs_strace, public_folder, start, traced
from tests.train.conftest import LENGTH, TINY, NewTrial, Trial, saved_at_once, tokens_that_can_be_learnt, write_dataset
from tmrc.config.load import load_config, write_config
from tmrc.config.rundir import RunDir
from tmrc.train import keeper, loop

Train = Callable[..., Trial]
FAST = "training.save_every=0.000001"  # a save after every step, and no patience
ROOM = 4 << 20  # bytes of the small disk

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of a few megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "none", str(place)], check=True)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def trial_on(disk: Path, dataset: Path, *overrides: str) -> Trial:
    run = RunDir(disk / "run")
    run.path.mkdir()
    write_config(load_config("default", [*TINY, f"datasets.path={dataset}", *overrides]), run.config)
    return Trial(run)


def fill(disk: Path) -> None:
    """Leave not a byte on the disk."""
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 12))


def before_save(patch: pytest.MonkeyPatch, number: int, do: Callable[[], Any]) -> list[int]:
    """Do something before a save; returns the list of steps at which saves were tried."""
    original, tried = keeper.save_checkpoint, []

    def save(*args: Any) -> Path:
        tried.append(args[-1].step)
        if len(tried) == number:
            do()
        return original(*args)

    patch.setattr(keeper, "save_checkpoint", save)
    return tried


def kind(trial: Trial, attempt: int = 1) -> str:
    return str(json.loads((trial.run.attempt(attempt) / "rank_0.json").read_text())["kind"])


def require_equal(one: Trial, other: Trial) -> None:
    assert one.exact_rows == other.exact_rows
    assert one.tensor_files() == other.tensor_files()
    assert one.run.ledger.read_bytes() == other.run.ledger.read_bytes()


@needs_root
def test_a_disk_that_becomes_full_and_stays_so(
    small: Path, dataset: Path, train: Train, capfd: pytest.CaptureFixture[str]
) -> None:
    trial = trial_on(small, dataset, FAST)
    with pytest.MonkeyPatch.context() as patch:
        before_save(patch, 3, lambda: fill(small))
        train(again=trial, expect=1)
    said = capfd.readouterr().err.splitlines()
    lines = [line for line in said if "checkpoint" in line]
    assert len(lines) == 1 and "earlier ones are intact" in lines[0] and "make room and resume" in lines[0]
    assert not any("Traceback" in line for line in said)
    assert trial.saved_steps() == [1, 2]
    outcome = json.loads((trial.run.attempt(1) / "rank_0.json").read_text())  # there was room for it
    assert outcome["kind"] == "disk" and "earlier ones are intact" in outcome["message"]
    capfd.readouterr()
    train(again=trial, expect=1)  # still full: that is found out before anything is trained
    assert trial.saved_steps() == [1, 2] and len(capfd.readouterr().err.splitlines()) <= 2
    (small / "filler").unlink()
    train(again=trial)
    require_equal(trial, train())


@needs_root
def test_while_there_is_no_room_training_goes_on_and_nothing_is_lost(
    small: Path, dataset: Path, train: Train, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither rows of metrics nor records of the ledger nor events; the save is made up for."""
    trial = trial_on(small, dataset, "training.save_every=60")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Loop, "_save_is_due", lambda self: self.parts.world.leads)
        saved_at_once(patch)
        tried = before_save(patch, 2, lambda: fill(small))
        validate = loop.Loop._validate

        def make_room(self: loop.Loop) -> bool:
            if self.progress.step == 3:
                (small / "filler").unlink()
            return validate(self)

        patch.setattr(loop.Loop, "_validate", make_room)
        train(again=trial)
    assert tried[:2] == [1, 2] and tried[-1] == 6
    said = capfd.readouterr().err
    assert "checkpoint of step 2 cannot be written (No space left on device): tries again" in said
    assert [row["step"] for row in trial.events("save_failed")] == [2]
    assert next(row["step"] for row in trial.events("checkpoint")) == 1
    require_equal(trial, train())


@needs_root
def test_patience_at_the_end_does_not_count_what_was_full_before(small: Path, dataset: Path, train: Train) -> None:
    """The disk has been full since step 2, for longer than a stop has patience."""
    trial = trial_on(small, dataset, "training.save_every=60")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Loop, "_save_is_due", lambda self: self.progress.step == 1)
        patch.setattr(loop, "LOOK_FOR_ROOM", 0.01)
        saved_at_once(patch)
        tried = before_save(patch, 1, lambda: fill(small))
        failed = keeper.Keeper._bear

        def make_room(self: keeper.Keeper, *args: Any) -> None:
            failed(self, *args)
            if len(tried) == 1:
                self._full_since = -1e9
            if len(tried) == 3:
                (small / "filler").unlink()

        patch.setattr(keeper.Keeper, "_bear", make_room)
        train(again=trial)
    assert tried == [2, 6, 6, 6] and trial.saved_steps() == [6]


@needs_root
def test_a_stop_while_the_last_save_waits_has_its_own_patience(small: Path, dataset: Path, train: Train) -> None:
    """It comes when the run has waited for 50 seconds, which is more than a stop has."""
    trial = trial_on(small, dataset, "training.save_every=60")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "LOOK_FOR_ROOM", 0.01)
        tried = before_save(patch, 1, lambda: fill(small))
        failed = keeper.Keeper._bear

        def stop(self: keeper.Keeper, *args: Any) -> None:
            failed(self, *args)
            if len(tried) == 1:
                self._full_since = self._patient_since = time.monotonic() - 50
                os.kill(os.getpid(), signal.SIGUSR2)
            if len(tried) == 3:
                (small / "filler").unlink()

        patch.setattr(keeper.Keeper, "_bear", stop)
        train(again=trial)
    assert tried == [6] * 4 and trial.saved_steps() == [6]


@needs_root
def test_the_last_save_waits_for_room(small: Path, dataset: Path, train: Train) -> None:
    trial = trial_on(small, dataset, "training.save_every=60")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "LOOK_FOR_ROOM", 0.01)
        tried = before_save(patch, 1, lambda: fill(small))
        failed = keeper.Keeper._bear

        def make_room(self: keeper.Keeper, *args: Any) -> None:
            failed(self, *args)
            if len(tried) == 3:
                (small / "filler").unlink()

        patch.setattr(keeper.Keeper, "_bear", make_room)
        train(again=trial)
    assert tried[0] == 6 and trial.saved_steps() == [6]
    require_equal(trial, train())


@needs_root
def test_a_run_that_is_asked_to_stop_waits_less(
    small: Path, dataset: Path, train: Train, capfd: pytest.CaptureFixture[str]
) -> None:
    trial = trial_on(small, dataset, "training.save_every=60")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "LOOK_FOR_ROOM", 0.01)
        patch.setattr(loop, "PATIENCE_WHEN_STOPPED", 0.05)

        def stop() -> None:
            fill(small)
            os.kill(os.getpid(), signal.SIGUSR2)

        before_save(patch, 1, stop)  # the last save waits, and the signal comes
        train(again=trial, expect=1)
    assert "cannot be written" in capfd.readouterr().err.splitlines()[-1] or trial.saved_steps() == []
    (small / "filler").unlink()
    train(again=trial)
    require_equal(trial, train())


@needs_root
def test_a_disk_that_is_full_or_read_only_at_the_start(
    small: Path, dataset: Path, train: Train, capfd: pytest.CaptureFixture[str]
) -> None:
    trial = trial_on(small, dataset)
    with (small / "filler").open("wb") as file:
        file.write(bytes(ROOM - (64 << 10)))  # enough for what a start writes, not for a checkpoint
    train(again=trial, expect=1)
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1 and "no room for a checkpoint" in said[0] and "make room" in said[0]
    assert kind(trial) == "disk" and trial.rows == []
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    train(again=trial, expect=1)
    said = capfd.readouterr().err.splitlines()
    assert all(line.startswith("error: rank 0: ") for line in said) and "can only be read" in said[0]
    subprocess.run(["mount", "-o", "remount,rw", str(small)], check=True)
    (small / "filler").unlink()
    train(again=trial)
    require_equal(trial, train())


def test_a_run_directory_that_is_moved_away(
    train: Train, new_trial: NewTrial, capfd: pytest.CaptureFixture[str]
) -> None:
    trial = new_trial(FAST)
    away = trial.run.path.with_name("away")
    with pytest.MonkeyPatch.context() as patch:
        before_save(patch, 3, lambda: trial.run.path.rename(away))
        train(again=trial, expect=1)
    said = capfd.readouterr().err.splitlines()
    assert all(line.startswith("error: rank 0: ") for line in said) and "is gone" in said[0]
    assert not trial.run.path.exists()  # nothing is made where it was
    moved = Trial(RunDir(away))
    assert moved.saved_steps() == [1, 2]
    train(again=moved)
    require_equal(moved, train())


def test_checkpoints_that_may_not_be_written_any_more(train: Train) -> None:
    """As a user whom modes bind: root is not one."""
    if os.geteuid() != 0:
        pytest.skip("only root can become nobody")
    with public_folder() as folder:
        data = write_dataset(folder / "tiny", [tokens_that_can_be_learnt(LENGTH * 100)])
        trial = trial_on(folder, data, FAST)
        give_to_nobody(folder)
        assert finish(start(lose_right, str(trial.run.path), log=folder / "log", nobody=True)) == 1
        said = [
            line
            for line in (folder / "log").read_text().splitlines()
            if not line.startswith(("step", "attempt", "this CPU"))
        ]
        assert len(said) == 1 and "Permission denied" in said[0] and "no right" in said[0], said
        assert kind(trial) == "disk" and trial.saved_steps() == [1, 2]
        trial.run.checkpoints.chmod(0o755)
        train(again=trial)
        require_equal(trial, train(f"datasets.path={data}"))


def lose_right(run: str) -> int:
    """Train until the third save, for which the directory may not be written to any more."""
    before_save(pytest.MonkeyPatch(), 3, lambda: RunDir(Path(run)).checkpoints.chmod(0o555))
    return children.train(run, {})


def test_a_log_on_a_full_disk_changes_nothing(new_trial: NewTrial, train: Train) -> None:
    trial = new_trial()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "tmrc.train", str(trial.run.path)]
        assert subprocess.run(command, env=environment, stdout=full, stderr=full).returncode == 0
    require_equal(trial, train())


# Calls that can fail for lack of room or of a disk, and that the trainer's own functions make
WRITING = ("write", "ftruncate", "fsync", "rename", "renameat", "mkdir", "unlink", "unlinkat")


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("begun") / "run"
    path.mkdir()
    writer.attempt(str(path), 1, until=1)
    return path


def failing_calls(begun: Path, folder: Path) -> list[tuple[str, int]]:
    """Every call of a second attempt that may fail, by its name and its number."""
    shutil.copytree(begun, folder / "counted")
    child = start(writer.attempt_in_words, str(folder / "counted"), 2, log=folder / "log", stopped=True)
    with traced(child, "-o", str(folder / "trace"), "-e", f"trace={','.join(WRITING)}"):
        assert finish(child) == 0
    counts = Counter(name for name, _, _ in calls(folder / "trace"))
    return [(name, number) for name in counts for number in range(1, counts[name] + 1)]


def fail_from(begun: Path, folder: Path, point: tuple[str, int], error: str) -> None:
    """Let a call and all such calls after it fail in the second attempt, and a third go on."""
    name, number = point
    shutil.copytree(begun, folder / "run")
    log = folder / "log"
    child = start(writer.attempt_in_words, str(folder / "run"), 2, log=log, stopped=True)
    with traced(child, "-o", "/dev/null", "-e", f"trace={name}", "-e", f"inject={name}:error={error}:when={number}+"):
        code = finish(child)
    said = [line for line in log.read_text().splitlines() if not line.startswith("step ")]
    assert code in (0, 1) and len(said) <= 1, said  # 0 where only tidying up has failed
    if code and name != "write":  # which is how it would speak
        assert said[0].startswith("error: ") and os.strerror(getattr(errno, error)) in said[0], said
    writer.require_goes_on(folder / "run", 3)
    shutil.rmtree(folder / "run")


@needs_strace
def test_a_call_that_fails(begun: Path, tmp_path: Path) -> None:
    points = failing_calls(begun, tmp_path)
    sample = points[:: len(points) // 9]
    for index, (point, error) in enumerate(zip(sample, ["ENOSPC", "EDQUOT", "EIO"] * 9, strict=False)):
        (tmp_path / str(index)).mkdir()
        fail_from(begun, tmp_path / str(index), point, error)


@needs_strace
@pytest.mark.campaign
@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT", "EIO", "EROFS"])
def test_every_call_that_can_fail(begun: Path, tmp_path: Path, error: str) -> None:
    for index, point in enumerate(failing_calls(begun, tmp_path)):
        (tmp_path / str(index)).mkdir()
        fail_from(begun, tmp_path / str(index), point, error)
