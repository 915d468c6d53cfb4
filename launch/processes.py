"""What Linux says about processes: whether one still lives, what it has started, and how to end all of it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def start_time(pid: int) -> int | None:
    """When process `pid` began, in clock ticks since boot; None when it is gone or only waits to be reaped.

    Process ids are used again; id and start time together name one process.
    """
    fields = _stat(pid)
    return None if fields is None or fields[0] in "ZX" else int(fields[19])


def state(pid: int) -> str:
    """The kernel's letter for what the process does (R, S, D, T, Z ...); empty when it is gone."""
    fields = _stat(pid)
    return fields[0] if fields else ""


def alive(pid: int, started: int | None) -> bool:
    """Whether the process `pid` that began at `started` still runs (any process of that id when `started` is None)."""
    now = start_time(pid)
    return now is not None and started in (None, now)


def command_line(pid: int) -> str:
    """The words that process `pid` was started with; empty when it is gone. It tells an id that is used again."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf8", "replace")
    except OSError:
        return ""


def descendants(pid: int) -> list[int]:
    """Every process below `pid`, children first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) is not None:
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, level = [], [pid]
    while level:
        level = [child for parent in level for child in children.get(parent, [])]
        found += level
    return found


def adopt_orphans() -> None:
    """From now on, processes below this one whose parent dies become its children, so that none is lost sight of."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent(with_signal: int = signal.SIGTERM) -> None:
    """Run in a new child before exec: it gets `with_signal` when its parent dies, even by SIGKILL."""
    _prctl(_PR_SET_PDEATHSIG, with_signal)


def wait_for_descendants(pid: int, patience: float) -> None:
    """Give what is below `pid` up to `patience` seconds to end by itself."""
    deadline = time.monotonic() + patience
    while _living(pid) and time.monotonic() < deadline:
        time.sleep(0.05)


def kill_descendants(pid: int, patience: float = 5.0) -> list[int]:
    """SIGKILL everything below `pid` until nothing is left; returns what was killed. Reaps them when `pid` is us."""
    killed: list[int] = []
    deadline = time.monotonic() + patience
    while living := _living(pid):
        for child in living:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(child, signal.SIGKILL)
        killed += [child for child in living if child not in killed]
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    if pid == os.getpid():
        reap()
    return killed


def _living(pid: int) -> list[int]:
    """Descendants that are more than zombies."""
    return [child for child in descendants(pid) if start_time(child) is not None]


def reap() -> None:
    """Collect every dead child, so that adopted orphans do not stay as zombies."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/<pid>/stat from the third on (state, parent, ...); the second, the name, may hold anything."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes().decode("ascii", "replace")
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()


def _prctl(option: int, value: int) -> None:
    """Best effort: a system without prctl loses only what it is for."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
