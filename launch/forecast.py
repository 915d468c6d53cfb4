"""When Slurm would start a job, or why it would not, by `sbatch --test-only`: nothing is submitted or written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from launch.cluster import Partition
from launch.commands import SilentError, ask
from launch.plaintext import harmless
from tmrc.config.errors import UserError

PATIENCE = 5.0  # seconds
# What sbatch says only for now: the job itself would be taken and wait
_PASSING = re.compile(
    r"contact slurm controller|timed out|busy|not available now|down, drained or reserved|temporarily|try again", re.I
)
_NO_NODE = "Requested node configuration is not available"


@dataclass(frozen=True)
class Forecast:
    """The start that Slurm expects, as it writes times (local time, `2026-11-22T14:48:38`), or why there is none."""

    start: str | None
    why_not: str = ""

    def shown(self) -> str:
        """A few words for the plan."""
        if self.start is None:
            return f"unknown: {self.why_not}"
        return f"about {self.start.replace('T', ' ')} if submitted now, as Slurm sees it"


def forecast(script: str, partitions: Sequence[Partition] = ()) -> Forecast:
    """Ask sbatch about `script`. Raises UserError with sbatch's words when it would refuse the job."""
    try:
        asked = ask("sbatch", "--test-only", patience=PATIENCE, script=script, aloud=True)
    except SilentError as error:
        return Forecast(None, str(error))
    said = asked.stderr
    if match := re.search(r"to start at ([\w:./+-]+) using", said):
        return Forecast(match[1])
    words = sbatch_words(said)
    if asked.returncode == 0 or _PASSING.search(words):
        return Forecast(None, words)
    if _NO_NODE in words and (out := sum(one.out for one in partitions)):
        return Forecast(None, f"{words} ({out} nodes of the partition are down or drained)")
    raise UserError(f"sbatch: {words}")


def sbatch_words(text: str) -> str:
    """What sbatch said, as one line without its own prefixes, harmless for a terminal."""
    prefix = re.compile(r"^(sbatch: )?(error: |allocation failure: )?")
    lines = [prefix.sub("", line).strip() for line in harmless(text).splitlines()]
    return "; ".join(line for line in lines if line)[:500] or "failed without a word"
