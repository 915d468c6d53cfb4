"""Following a run's logs while it goes on, from one attempt to the next, until nothing more is to come."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from launch.facts import read_facts
from launch.logs import BLOCK, Segment, beginning, chosen
from launch.standing import ACTIVE, executor, phase
from launch.status import Asker, statuses
from tmrc.config.rundir import RunDir

POLL = 0.5  # seconds between looks at the files
ASK_SLURM = 20.0  # seconds between questions to Slurm, which only tell of a job that died without a word
LAST_WORDS = 1.0  # seconds for the last line to be written after the files say that it is over


@dataclass
class Reader:
    """What of a run's logs has been read so far."""

    run: RunDir
    node: int = 0
    attempt: int | None = None
    read: dict[Path, int] = field(default_factory=dict)  # bytes

    def skip(self, lines: int) -> None:
        """Leave out all but the last `lines` lines of what is there."""
        parts = chosen(self.run, self.node, self.attempt)
        first, position = beginning(parts, lines)
        for n, part in enumerate(parts[: first + 1]):
            end = part.start + (position if n == first else part.size())
            self.read[part.path] = max(end, self.read.get(part.path, 0))

    def new(self) -> Iterator[tuple[Segment, bytes]]:
        """What has come since the last call, block by block."""
        # Only what is there before the attempts are looked at: what comes later may be the next one's.
        there = {part.path: part.start + part.size() for part in chosen(self.run, self.node, self.attempt)}
        for part in chosen(self.run, self.node, self.attempt):
            # An attempt's first lines may be there before its owner.json: they are not shown a second time.
            position = max(0, self.read.get(part.path, 0) - part.start)
            end = there.get(part.path, 0) - part.start
            while block := part.read(position, min(BLOCK, end - position)):
                position += len(block)
                self.read[part.path] = part.start + position
                yield part, block

    def follow(self) -> Iterator[tuple[Segment, bytes]]:
        """What comes, until the run is over."""
        asked = time.monotonic()
        while True:
            yield from self.new()
            ask = time.monotonic() - asked >= ASK_SLURM
            if over(self.run, ask):
                time.sleep(LAST_WORDS)
                yield from self.new()
                return
            asked = time.monotonic() if ask else asked
            time.sleep(POLL)


def over(run: RunDir, ask_slurm: bool) -> bool:
    """Whether nothing more is to come of the run by itself."""
    facts = read_facts(run)
    if phase(facts) not in ("waiting", "running"):
        return True
    if executor(facts) == "slurm" and not ask_slurm:
        return False
    (one,), _ = statuses([run], Asker(aloud=False))
    return one.state not in ACTIVE
