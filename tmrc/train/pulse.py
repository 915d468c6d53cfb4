"""This rank's signs of life, for the watchdog of its node and for the account of where the time goes."""

from __future__ import annotations

import os
from pathlib import Path

from tmrc.config.heartbeat import VARIABLE, HeartbeatFile, heartbeat_file
from tmrc.train.spent import Spent


class Pulse:
    """Beats with `pulse("phase")`; does nothing where nobody watches. `spent` is rank 0's account of its time.

    Every rank must call it as often as the others and in the same order. Work that one rank does for all stands between
    two beats, the second of them before the place where the others wait: then the one that works is the one behind.
    """

    def __init__(self, file: HeartbeatFile | None = None, spent: Spent | None = None) -> None:
        self._file = file
        self.spent = spent
        self.step = 0  # optimizer steps done

    def __call__(self, phase: str) -> None:
        """Say that `phase` begins."""
        if self._file is not None:
            self._file.beat(phase, self.step)
        if self.spent is not None:
            self.spent.begin(phase, self.step)


def pulse_of(rank: int, spent: Spent | None = None) -> Pulse:
    """The pulse of `rank` in the directory that the launcher named. Raises OSError when it cannot be written to."""
    folder = os.environ.get(VARIABLE)
    return Pulse(HeartbeatFile(heartbeat_file(Path(folder), rank)) if folder else None, spent)
