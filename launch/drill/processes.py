"""The processes of one trial: found by what they carry in their environment, told apart by their command lines."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from launch.processes import alive, command_line, start_time

MARK = "DRILL_TRIAL"  # environment variable with the trial's directory, which every process of a trial inherits
# What is in a process's command line -> what it is; the first that fits
_ROLES = (
    ("torch.distributed.run", "torchrun"),
    ("launch.supervise", "supervisor"),
    ("launch.node_main", "task"),
    ("submitit.core._submit", "job"),
    ("submitit.local._local", "controller"),
    (".submit --", "tmrc-submit"),
    ("-m tmrc.train", "rank"),
    (".standin.train", "rank"),
    ("srun ", "srun"),
)
_RANK = re.compile(rb"(?:^|\0)RANK=(\d+)\0")


@dataclass(frozen=True)
class Process:
    """One process; id and start time together name it."""

    pid: int
    started: int | None
    role: str
    rank: int | None = None

    @property
    def name(self) -> str:
        """What it is, for people."""
        return f"rank {self.rank}" if self.role == "rank" and self.rank is not None else self.role

    def alive(self) -> bool:
        """Whether it still runs."""
        return alive(self.pid, self.started)

    def send(self, signum: int) -> None:
        """Send it a signal, unless it is gone."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self.alive():
                os.kill(self.pid, signum)


def living(trial: Path) -> list[Process]:
    """Every process of the trial that runs here now, in no order. Those that Slurm started are known by their paths."""
    mark, path = f"{MARK}={trial}\0".encode(), f"{trial}/".encode()
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        around = _read(f"{entry.path}/environ")
        pid = int(entry.name)
        ours = mark in around
        if not ours and path not in around:
            continue
        process = _process(pid, around)
        if process is not None and (ours or process.role != "other"):
            found.append(process)
    return found


def _process(pid: int, around: bytes) -> Process | None:
    words, started = command_line(pid), start_time(pid)
    if started is None:
        return None
    role = next((role for part, role in _ROLES if part in words), "other")
    rank = _RANK.search(around)
    return Process(pid, started, role, int(rank[1]) if rank and role == "rank" else None)


def wait_until_gone(trial: Path, patience: float) -> list[Process]:
    """What is left of the trial's processes after at most `patience` seconds."""
    deadline = time.monotonic() + patience
    while (left := living(trial)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def end_all(trial: Path, patience: float = 10.0) -> None:
    """SIGKILL every process of the trial until none is left."""
    deadline = time.monotonic() + patience
    while (left := living(trial)) and time.monotonic() < deadline:
        send_all(left, signal.SIGKILL)
        time.sleep(0.02)


def send_all(processes: Iterable[Process], signum: int) -> None:
    """Send all of them a signal, one right after the other."""
    for process in processes:
        process.send(signum)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""
