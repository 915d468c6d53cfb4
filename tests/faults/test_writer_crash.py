"""A machine that crashes at any moment of a save, and loses what was not synced, leaves a run that goes on."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import writer
from tests.faults.children import calls, finish, needs_strace, start, traced
from tests.faults.crash import RECORDED, Change, Disk, Recorder, crashes, read_disk


@pytest.fixture(scope="module")
def quick() -> Iterator[Path]:
    """A directory in memory, where there is one: thousands of small files are made, and synced for nothing."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    yield folder
    shutil.rmtree(folder)


def record(folder: Path, number: int) -> tuple[Disk, list[Change]]:
    """Run attempt `number` in folder/run; what was there before, and what it did."""
    before = read_disk(folder / "run")
    trace = folder / f"trace{number}"
    child = start(writer.attempt, str(folder / "run"), number, number, log=folder / "log", stopped=True)
    with traced(child, "-xx", "-s", "1000000", "-o", str(trace), "-e", f"trace={','.join(RECORDED)}"):
        assert finish(child) == 0, (folder / "log").read_text()
    changes = Recorder(folder / "run", before).read(calls(trace))
    replayed = before.copy()
    replayed.know(changes)
    for change in changes:
        replayed.apply(change)
    assert replayed.digest() == read_disk(folder / "run").digest(), "the record is not what happened"
    return before, changes


@needs_strace
@pytest.mark.parametrize("number", [1, 2])
def test_a_crash_at_any_call_with_any_loss(quick: Path, number: int) -> None:
    """Attempt 1 saves the first checkpoint, attempt 2 the second one and deletes the first."""
    folder = quick / f"attempt{number}"
    (folder / "run").mkdir(parents=True)
    if number == 2:
        writer.attempt(str(folder / "run"), 1, until=1)
    before, changes = record(folder, number)
    assert {"create", "mkdir", "write", "rename", "sync"} <= {change.kind for change in changes}
    seen: set[bytes] = set()
    for count, state in crashes(before, changes):
        if state.digest() in seen:
            continue
        seen.add(state.digest())
        state.write_to(quick / "crashed")
        try:
            require_goes_on(quick / "crashed", number)
        except BaseException as error:
            last = changes[count - 1] if count else None
            raise AssertionError(f"after {count} of {len(changes)} calls, the last being {last}: {error!r}") from error
        shutil.rmtree(quick / "crashed")
    assert len(seen) > 100


def require_goes_on(path: Path, number: int) -> None:
    """Fail unless the next attempt goes on from a whole checkpoint."""
    if number == 2:
        writer.require_goes_on(path, 3)
        return
    durable = writer.steps_durable(path)
    found = writer.attempt(str(path), 3)
    assert found.step >= durable and found.rows == list(range(1, found.step + 1)) and not found.complaint
