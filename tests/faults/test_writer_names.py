"""What else can lie in a run's directory: links that lead elsewhere, leftovers, things of other people."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults import writer
from tests.train.conftest import NewTrial, Trial
from tmrc.config.rundir import RunDir, append_event, read_jsonl
from tmrc.train.checkpoint import find_checkpoint
from tmrc.train.failures import DiskError
from tmrc.train.fence import take_over
from tmrc.train.metrics import rewind

Train = Callable[..., Trial]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Somebody's directory, with names that the run uses."""
    path = tmp_path / "elsewhere"
    for name in ("step_00000003", "damaged_step_00000001", "deleted_step_00000001"):
        (path / name).mkdir(parents=True)
        (path / name / "model.safetensors").write_text("mine")
    (path / "metrics.jsonl").write_text("mine\n")
    return path


def listing(path: Path) -> dict[str, str]:
    return {str(one.relative_to(path)): one.read_text() if one.is_file() else "" for one in sorted(path.rglob("*"))}


def test_a_link_in_place_of_the_attempts_directory(run: RunDir, elsewhere: Path) -> None:
    """It has been swapped under the writer: nothing is written there, deleted there, or taken from there."""
    before = listing(elsewhere)
    fence = take_over(run, 2)
    fence.folder.rmdir()
    fence.folder.symlink_to(elsewhere)
    assert isinstance(fence.lost(), DiskError)
    changes: list[Callable[[], object]] = [
        lambda: fence.draft("step_00000003"),
        lambda: fence.discard(run.checkpoints / "step_00000001"),
        lambda: fence.set_aside(run.checkpoints / "step_00000001"),
        lambda: fence.require_room(100),
        lambda: rewind(fence, 2, False),
    ]
    for change in changes:
        with pytest.raises((DiskError, OSError)):
            change()
    assert listing(elsewhere) == before
    writer.attempt(str(run.path), 3, keep=2)  # which clears the link away
    assert listing(elsewhere) == before
    assert sorted(path.name for path in run.checkpoints.iterdir()) == [".attempt_3", "step_00000001", "step_00000002"]


def test_links_in_place_of_checkpoints_and_of_ended_attempts(run: RunDir, elsewhere: Path) -> None:
    before = listing(elsewhere)
    (run.checkpoints / ".ended_1_by_2").symlink_to(elsewhere)
    (run.checkpoints / "step_00000003").symlink_to(elsewhere)
    (run.checkpoints / "step_00000000").symlink_to(elsewhere)
    writer.attempt(str(run.path), 3, until=4, keep=2)
    assert listing(elsewhere) == before
    assert {path.name for path in run.checkpoints.glob("step_*")} == {"step_00000003", "step_00000004"}
    assert (run.checkpoints / "damaged_step_00000003").is_symlink()


@pytest.mark.parametrize("name", ["events.jsonl", "metrics.jsonl", "ledger.bin"])
def test_a_link_in_place_of_a_file_leads_nowhere(run: RunDir, elsewhere: Path, name: str) -> None:
    before = listing(elsewhere)
    (run.path / name).unlink()
    (run.path / name).symlink_to(elsewhere / "metrics.jsonl")
    if name == "events.jsonl":
        with pytest.raises(OSError, match="symbolic links"):
            writer.attempt(str(run.path), 2)
    else:
        writer.attempt(str(run.path), 2)
    assert listing(elsewhere) == before


@pytest.mark.parametrize("name", ["events.jsonl", "metrics.jsonl", "ledger.bin", "checkpoints", "attempts"])
def test_a_pipe_or_a_directory_in_place_of_a_file_is_one_line(
    train: Train, new_trial: NewTrial, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """It never hangs, and never prints a traceback."""
    for make in (os.mkfifo, os.mkdir):
        trial = new_trial("training.train_steps=2")
        make(trial.run.path / name)
        if name in ("checkpoints", "attempts") and make is os.mkdir:
            continue  # as it should be
        replaced = name in ("metrics.jsonl", "ledger.bin") and make is os.mkfifo
        capfd.readouterr()
        train(again=trial, expect=0 if replaced else 1)
        said = capfd.readouterr().err
        assert "Traceback" not in said
        assert replaced or len(said.splitlines()) in (1, 2), said


def test_checkpoints_may_be_on_another_disk(run: RunDir, tmp_path: Path) -> None:
    moved = tmp_path / "other disk"
    run.checkpoints.rename(moved)
    run.checkpoints.symlink_to(moved)
    writer.attempt(str(run.path), 2, until=3, keep=2)
    assert {path.name for path in moved.glob("step_*")} == {"step_00000002", "step_00000003"}
    assert run.checkpoints.is_symlink()
    moved.rename(tmp_path / "not mounted")
    with pytest.raises(DiskError, match="leads to a directory that is not there"):
        take_over(run, 3)


@pytest.mark.parametrize(("umask", "files", "folders"), [(0, 0o664, 0o775), (0o22, 0o644, 0o755), (0o77, 0o600, 0o700)])
def test_who_may_read_and_write(train: Train, new_trial: NewTrial, umask: int, files: int, folders: int) -> None:
    """As the umask says, for all files alike, but the world writes nothing."""
    trial = new_trial("training.train_steps=2")
    trial.run.path.chmod(folders)
    before = os.umask(umask)
    try:
        train(again=trial)
    finally:
        os.umask(before)
    for path in trial.run.path.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        if path != trial.run.config and path.name != "wandb.log":
            assert mode == (folders if path.is_dir() else files & (0o644 if path == trial.run.events else 0o777)), path


def test_what_a_hundred_dead_attempts_left_costs_nothing_and_nothing_else_is_touched(run: RunDir) -> None:
    kept = ["notes.txt", "step_1", "step_00000001_old", "step_000000002", "step_٠٠٠٠٠٠٠٩", ".ended_by_me", ".attempt_x",
            "damaged_step_00000009", "STEP_00000009", "step_00000007.tar", ".attempt_", "a\nb", "best"]  # fmt: skip
    for name in kept:
        (run.checkpoints / name).mkdir()
        (run.checkpoints / name / "mine").write_text("mine")
    for number in range(2, 102):
        half = run.checkpoints / f".attempt_{number}" / "step_00000005"
        half.mkdir(parents=True)
        (half / "model.safetensors").write_bytes(b"half")
        (run.checkpoints / f".ended_{number - 1}_by_{number}" / "deleted_step_00000001").mkdir(parents=True)
        (run.path / "attempts" / str(number)).mkdir(parents=True)
    found = writer.attempt(str(run.path), 102, until=3, keep=2)
    assert found.step == 2
    left = {path.name for path in run.checkpoints.iterdir()}
    assert left == {*kept, ".attempt_102", "step_00000002", "step_00000003"}
    assert all((run.checkpoints / name / "mine").read_text() == "mine" for name in kept)


def test_names_for_damaged_checkpoints_never_run_out(run: RunDir) -> None:
    (run.checkpoints / "damaged_step_00000002").symlink_to("nothing")
    for number in range(1, 1200):
        (run.checkpoints / f"damaged_step_00000002_{number}").touch()
    (run.checkpoints / "step_00000002" / "model.safetensors").unlink()
    writer.attempt(str(run.path), 2, keep=2)
    assert (run.checkpoints / "damaged_step_00000002_1200").is_dir()


def test_a_checkpoint_that_is_seen_late_does_not_push_out_the_runs_own(run: RunDir) -> None:
    """An attempt that did not see it has gone on from an earlier one, and its metrics do not lead there."""
    hidden = run.path / "hidden"
    (run.checkpoints / "step_00000002").rename(hidden)
    (run.path / "events.jsonl").unlink()
    fence_of_late = run.checkpoints / "step_00000009"
    hidden.rename(fence_of_late)
    fence_of_late.rename(hidden)
    original = writer.Keeper.record

    def appear(self: writer.Keeper, step: int, sums: writer.Sums) -> None:
        if step == 2:
            hidden.rename(fence_of_late)
        original(self, step, sums)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer.Keeper, "record", appear)
        writer.attempt(str(run.path), 2, until=3, keep=2)
    found, damaged = find_checkpoint(run)
    assert found is not None and found.step == 3 and not damaged
    assert (run.checkpoints / "damaged_step_00000009").is_dir()


def test_a_line_that_a_full_disk_cut_off_takes_no_other_with_it(run: RunDir) -> None:
    with run.events.open("a") as file:
        file.write('{"event": "cut o')
    append_event(run, "whole")
    assert read_jsonl(run.events)[-1]["event"] == "whole"
