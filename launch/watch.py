"""Watching one torchrun: passing on requests to stop, and ending what a crash or a hang leaves behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch.attempts import read_json, read_pid
from launch.hang import HangWatch, positions
from launch.processes import alive, kill_descendants

POLL = 0.1  # seconds between looks at processes
FIND_EVERY = 5  # looks between two for ranks that have begun
FILES_EVERY = 20  # looks between two at what the ranks have written: the run may lie on a shared filesystem
LEAVE_GRACE = 0.5  # seconds that torchrun has to end after ranks that were asked to stop
CRASH_GRACE = 10.0  # seconds that the other ranks have to end after one has crashed
ORPHAN_PATIENCE = 60.0  # seconds that ranks have to save when their torchrun was killed
STACK_SECONDS = 3.0  # for hung ranks to print where they are
KILLED = "killed on request before it could save; resuming goes on from the last checkpoint"


@dataclass
class Requests:
    """The signals that have asked the run to stop, by name."""

    signals: list[str] = field(default_factory=list)


@dataclass
class Watch:
    """torchrun and its `processes` ranks, as their files in `attempt` tell of them; `node` is ours among the job's."""

    attempt: Path
    processes: int
    torchrun: subprocess.Popen[bytes]
    requests: Requests
    heartbeats: HangWatch
    node: int = 0
    impatient: bool = True  # whether a second and third INT end the run without saving
    crashed_at: float | None = None
    ended_at: float | None = None  # when torchrun had
    left_at: float | None = None  # when the last rank had ended
    dismissed: bool = False  # whether torchrun was ended because its ranks had
    hung: bool = False
    beats: dict[str, dict[str, Any]] = field(default_factory=dict)
    pids: dict[int, int] = field(default_factory=dict)  # of the ranks here whose signal handlers stand
    delivered: dict[int, int] = field(default_factory=dict)

    def until_end(self, also: Callable[[], None]) -> str:
        """Wait for torchrun to end, calling `also` at every look. Returns why it was killed on request, or nothing."""
        looks = 0
        while self._going():
            also()
            if looks % FIND_EVERY == 0 and len(self.pids) < self.processes:
                self._find_ranks()
            # The first INT saves, the second is patience running out: it ends what has nothing to save yet.
            interrupts = self.requests.signals.count("SIGINT") if self.impatient else 0
            if interrupts >= 3 or (interrupts == 2 and not self.pids):
                kill_descendants(os.getpid())
                self.torchrun.wait()
                return KILLED
            self._deliver()
            self._end_after_crash(read_files=looks % FILES_EVERY == 0)
            self._end_when_left_alone()
            if self.crashed_at is None and looks % FILES_EVERY == 0 and self.heartbeats.hung():
                self._end_hang()
            looks += 1
            time.sleep(POLL)
        return ""

    def _going(self) -> bool:
        """Whether torchrun runs or, after it was killed, ranks that it leaves behind: those stop and save."""
        code = self.torchrun.poll()
        if code is None:
            return True
        self.ended_at = self.ended_at or time.monotonic()
        orphans = code < 0 and not self.hung and any(alive(pid, None) for pid in self.pids.values())
        return orphans and time.monotonic() - self.ended_at < ORPHAN_PATIENCE

    def _find_ranks(self) -> None:
        for file in self.attempt.glob("rank_*.pid"):
            rank = int(file.stem.removeprefix("rank_"))
            if rank not in self.pids and (pid := read_pid(file)) is not None:
                self.pids[rank] = pid

    def _deliver(self) -> None:
        """The latest signal to each rank that has not had it. A rank that is not ready gets it when it is."""
        came = list(self.requests.signals)  # one more may come at any moment
        for rank, pid in self.pids.items():
            if self.delivered.get(rank, 0) < len(came):
                self.delivered[rank] = len(came)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.Signals[came[-1]])

    def _end_after_crash(self, read_files: bool) -> None:
        """Ranks that wait for a dead one do not always notice; torchrun itself would give them 30 seconds."""
        if self.crashed_at is None and self._somebody_crashed(read_files):
            self.crashed_at = time.monotonic()
        if self.crashed_at is not None and time.monotonic() - self.crashed_at > CRASH_GRACE:
            self.beats = self.beats or positions(self.heartbeats.beats(), self.pids)
            kill_descendants(self.torchrun.pid)  # torchrun is left, to say which rank failed first

    def _end_when_left_alone(self) -> None:
        """A torchrun whose ranks are gone waits for the torchrun of another node, for minutes if that was killed.

        Where the run was asked to stop there is nothing to wait for: Slurm's patience may be at its end.
        """
        if self.left_at is None and len(self.pids) == self.processes:
            gone = not any(alive(pid, None) for pid in self.pids.values())
            self.left_at = time.monotonic() if gone else None
        patience = LEAVE_GRACE if self.requests.signals else CRASH_GRACE
        if self.left_at is not None and time.monotonic() - self.left_at > patience:
            self.dismissed = True
            self.torchrun.kill()

    def _somebody_crashed(self, read_files: bool) -> bool:
        return any(self._crashed(rank, read_files) for rank in self.pids) or (read_files and self._neighbour_failed())

    def _crashed(self, rank: int, read_files: bool) -> bool:
        """Whether the rank ended badly: it said so, or is gone without a word."""
        gone = not alive(self.pids[rank], None)
        if not (gone or read_files):
            return False
        said = read_json(self.attempt / f"rank_{rank}.json")  # read after looking: it may have ended in between
        return gone if said is None else said.get("status") == "failed"

    def _neighbour_failed(self) -> bool:
        """Whether the job's part on another node has ended badly, which ends ours as well."""
        others = (file for file in self.attempt.glob("node_*.json") if file.stem != f"node_{self.node}")
        reports = [report for file in others if (report := read_json(file)) is not None]
        return any(report.get("hung") or report.get("cause") or report.get("killed") for report in reports)

    def _end_hang(self) -> None:
        """End what stands still: first each rank prints its stacks (faulthandler does at ABRT), then all are killed."""
        self.hung, self.beats = True, positions(self.heartbeats.beats(), self.pids)
        print(f"tmrc: no step for {self.heartbeats.timeout:g} seconds; the stacks of the ranks here follow", flush=True)
        for pid in self.pids.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGABRT)
        time.sleep(STACK_SECONDS)
        kill_descendants(self.torchrun.pid)
        self.crashed_at = time.monotonic()
