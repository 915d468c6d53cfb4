"""A process that is killed at any system call while it saves leaves a run that goes on."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.faults import writer
from tests.faults.children import calls, finish, needs_strace, start, traced

# What changes files, and what ends a change
CHANGING = (
    "openat", "write", "pwrite64", "ftruncate", "fallocate", "fsync", "fdatasync", "rename", "renameat", "renameat2",
    "mkdir", "mkdirat", "unlink", "unlinkat", "rmdir", "chmod", "fchmod", "fchmodat", "close",
)  # fmt: skip

pytestmark = needs_strace


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the checkpoint of step 1."""
    path = tmp_path_factory.mktemp("begun") / "run"
    path.mkdir()
    writer.attempt(str(path), 1, until=1)
    return path


@pytest.fixture(scope="module")
def points(begun: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, int]]:
    """Every system call of the second attempt, to the end of its save: its name and its number among those of it."""
    folder = tmp_path_factory.mktemp("counted")
    shutil.copytree(begun, folder / "run")
    child = start(writer.attempt, str(folder / "run"), 2, log=folder / "log", stopped=True)
    with traced(child, "-o", str(folder / "trace"), "-e", f"trace={','.join(CHANGING)}"):
        assert finish(child) == 0, (folder / "log").read_text()
    counts = Counter(name for name, _, _ in calls(folder / "trace"))
    assert counts["fsync"] > 10 and counts.total() > 80
    return [(name, number) for name in counts for number in range(1, counts[name] + 1)]


def die_at(begun: Path, folder: Path, name: str, number: int) -> None:
    """Kill the second attempt at a system call, and let a third go on."""
    shutil.copytree(begun, folder / "run")
    child = start(writer.attempt, str(folder / "run"), 2, log=folder / "log", stopped=True)
    with traced(child, "-o", "/dev/null", "-e", f"trace={name}", "-e", f"inject={name}:signal=KILL:when={number}"):
        code = finish(child)
    assert code == -9, f"{name} number {number} was never called"
    writer.require_goes_on(folder / "run", 3)
    shutil.rmtree(folder / "run")


def test_death_at_a_system_call(begun: Path, points: list[tuple[str, int]], tmp_path: Path) -> None:
    for index, point in enumerate(points[:: len(points) // 14]):
        die_at(begun, tmp_path / str(index), *point)


@pytest.mark.campaign
def test_death_at_every_system_call(begun: Path, points: list[tuple[str, int]], tmp_path: Path) -> None:
    for index, point in enumerate(points):
        die_at(begun, tmp_path / str(index), *point)
