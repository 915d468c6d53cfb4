"""Watching one torchrun: passing on requests to stop, and ending what a crash leaves behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from launch.attempts import read_json, read_pid
from launch.processes import alive, kill_descendants

POLL = 0.1  # seconds between looks at processes
FILES_EVERY = 20  # looks between two at what the ranks have written: the run may lie on a shared filesystem
CRASH_GRACE = 10.0  # seconds that the other ranks have to end after one has crashed
KILLED = "killed on request before it could save; resuming goes on from the last checkpoint"


@dataclass
class Requests:
    """How often the run was asked to stop, and how often of these by a person (INT)."""

    stops: int = 0
    interrupts: int = 0


@dataclass
class Watch:
    """torchrun and the ranks under it, as their files in `attempt` tell of them."""

    attempt: Path
    processes: int
    torchrun: subprocess.Popen[bytes]
    requests: Requests
    crashed_at: float | None = None
    pids: dict[int, int] = field(default_factory=dict)  # of the ranks whose signal handlers stand
    delivered: dict[int, int] = field(default_factory=dict)

    def until_end(self, also: Callable[[], None]) -> str:
        """Wait for torchrun to end, calling `also` at every look. Returns why it was killed on request, or nothing."""
        looks = 0
        while self.torchrun.poll() is None:
            also()
            self._find_ranks()
            # The first INT saves, the second is patience running out: it ends what has nothing to save yet.
            if self.requests.interrupts >= 3 or (self.requests.interrupts == 2 and not self.pids):
                kill_descendants(os.getpid())
                self.torchrun.wait()
                return KILLED
            self._deliver()
            self._end_after_crash(read_files=looks % FILES_EVERY == 0)
            looks += 1
            time.sleep(POLL)
        return ""

    def _find_ranks(self) -> None:
        for rank in range(self.processes):
            if rank not in self.pids and (pid := read_pid(self.attempt / f"rank_{rank}.pid")) is not None:
                self.pids[rank] = pid

    def _deliver(self) -> None:
        """USR2 to each rank that has not had the latest request. A rank that is not ready gets it when it is."""
        for rank, pid in self.pids.items():
            if self.delivered.get(rank, 0) < self.requests.stops:
                self.delivered[rank] = self.requests.stops
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGUSR2)

    def _end_after_crash(self, read_files: bool) -> None:
        """Ranks that wait for a dead one do not always notice; torchrun itself would give them 30 seconds."""
        if self.crashed_at is None and any(self._crashed(rank, read_files) for rank in self.pids):
            self.crashed_at = time.monotonic()
        if self.crashed_at is not None and time.monotonic() - self.crashed_at > CRASH_GRACE:
            kill_descendants(self.torchrun.pid)  # torchrun is left, to say which rank failed first

    def _crashed(self, rank: int, read_files: bool) -> bool:
        """Whether the rank ended badly: it said so, or is gone without a word."""
        gone = not alive(self.pids[rank], None)
        if not (gone or read_files):
            return False
        said = read_json(self.attempt / f"rank_{rank}.json")  # read after looking: it may have ended in between
        return gone if said is None else said.get("status") == "failed"
