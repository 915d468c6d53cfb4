"""Looking at a run from outside: at which step it is and what it does, without disturbing it."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from launch.attempts import last_attempt
from launch.facts import integer
from launch.find import is_run
from launch.scratch import scratches
from tmrc.config.heartbeat import heartbeat_file, read_heartbeat
from tmrc.config.rundir import RunDir, read_jsonl

LOOK_EVERY = 0.05  # seconds between looks at directories
SAVING = "writing a checkpoint"
VALIDATING = "validating"  # as tmrc.train says in its heartbeat


@dataclass(frozen=True)
class Sight:
    """What was seen at one look: steps done, and what goes on in rank 0; empty where nobody says."""

    step: int = 0
    phase: str = ""
    attempt: int = 0


@dataclass
class Watcher:
    """Watches the one run below `folder`, once it is there. `tops` is the highest step seen of each attempt."""

    folder: Path
    tops: dict[int, int] = field(default_factory=dict)
    starts: dict[int, int] = field(default_factory=dict)  # attempt -> step that it went on from
    _run: RunDir | None = None
    _beats: Path | None = None
    _attempt: int = 0
    _looked: float = -LOOK_EVERY
    _searched: float = -LOOK_EVERY
    _before: int = 0  # attempts that had begun when `begin` was called
    _stale: frozenset[Path] = frozenset()  # what they have left in memory

    @property
    def run(self) -> RunDir | None:
        """The run; None before it has a directory."""
        if self._run is None and self.folder.is_dir():
            found = [entry for entry in self.folder.iterdir() if not entry.name.startswith(".") and is_run(entry)]
            self._run = RunDir(found[0]) if found else None
        return self._run

    def begin(self) -> None:
        """A new attempt is about to begin: what earlier ones have left is not to be taken for its own."""
        run = self.run
        self._beats, self._looked, self._searched = None, -LOOK_EVERY, -LOOK_EVERY
        if run is not None:
            self._before, self._stale = last_attempt(run), frozenset(scratches(run.run_id))

    def look(self) -> Sight:
        """What it does now."""
        run = self.run
        if run is None:
            return Sight()
        attempt = self._current(run)
        folder = self._heartbeats(run)
        beat = read_heartbeat(heartbeat_file(folder, 0)) if folder else None
        if beat is not None:
            step, phase = beat.step, beat.phase
        else:
            step, phase = self._by_files(run, attempt), ""
        if phase != VALIDATING and attempt > self._before and _is_writing(run, attempt):
            phase = SAVING
        if step and attempt > self._before:
            self.tops[attempt] = max(step, self.tops.get(attempt, 0))
        return Sight(step, phase, attempt)

    def note_end(self) -> None:
        """Take in what an attempt has left, which may be more than what was seen of it."""
        run = self.run
        if run is None:
            return
        attempt = last_attempt(run)
        self.starts |= _begun(run)
        if attempt in self.starts and (step := _last_logged(run)):
            self.tops[attempt] = max(step, self.tops.get(attempt, 0))
        self._beats = None

    def lost_steps(self) -> int:
        """Steps that were done more than once, as far as was seen."""
        lost, top = 0, 0
        for attempt, step in sorted(self.starts.items()):
            lost += max(0, top - step)
            top = self.tops.get(attempt, step)
        return lost

    def _current(self, run: RunDir) -> int:
        """The number of the last attempt; directories are looked through less often than beats."""
        now = time.monotonic()
        if now >= self._looked + LOOK_EVERY:
            self._attempt, self._looked = last_attempt(run), now
        return self._attempt

    def _heartbeats(self, run: RunDir) -> Path | None:
        """The directory in memory with the beats of the run's processes on this machine."""
        now = time.monotonic()
        if now >= self._searched + LOOK_EVERY and (self._beats is None or not self._beats.is_dir()):
            fresh = (path for path in scratches(run.run_id) if path not in self._stale)
            self._beats, self._searched = next(fresh, None), now
        return self._beats

    def _by_files(self, run: RunDir, attempt: int) -> int:
        """Steps that a run on other machines has done: what its files say."""
        return _last_logged(run) if attempt > self._before and attempt in _begun(run) else 0


def remove_scratch(run: RunDir) -> None:
    """Remove what killed attempts have left in memory on this machine; a run that is not resumed leaves it there."""
    for folder in scratches(run.run_id):
        shutil.rmtree(folder, ignore_errors=True)


def _is_writing(run: RunDir, attempt: int) -> bool:
    """Whether a checkpoint is being written, which goes on beside training."""
    return any((run.checkpoints / f".attempt_{attempt}").glob("step_*"))


def _begun(run: RunDir) -> dict[int, int]:
    """The attempts that have come to training, and the steps that they went on from."""
    rows = [row for row in read_jsonl(run.events) if row.get("event") in ("started", "resumed")]
    return {number: integer(row, "step") or 0 for row in rows if (number := integer(row, "attempt")) is not None}


def _last_logged(run: RunDir) -> int:
    rows = read_jsonl(run.metrics)
    return max((row["step"] for row in rows if "loss" in row and isinstance(row.get("step"), int)), default=0)
