"""The logs of a run, attempt by attempt: one file may hold several attempts, and an attempt has a file for each node.

A requeued job appends to the file that it had; `log_offset` in an attempt's owner.json says where it begins there.
What stands in a file before its first attempt (the output of set-up lines) belongs to that attempt.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.facts import Attempt, attempt_numbers, read_attempt, read_events
from launch.words import clock
from tmrc.config.errors import UserError
from tmrc.config.rundir import RunDir

BLOCK = 1 << 16


@dataclass(frozen=True)
class Segment:
    """The part of a log file from `start` to `end` (None: to its end, wherever that is by then)."""

    path: Path
    start: int
    end: int | None
    heading: str
    attempt: int | None
    when: float  # unix time of its beginning or, where there was no attempt, of its last line
    job: str | None = None
    node: int = 0
    host: str | None = None

    def size(self) -> int:
        """Bytes that are there now."""
        try:
            there = self.path.stat().st_size
        except OSError:
            return 0
        return max(0, (there if self.end is None else min(there, self.end)) - self.start)

    def read(self, position: int, limit: int = BLOCK) -> bytes:
        """Up to `limit` bytes from `position` bytes after its start."""
        limit = min(limit, self.size() - position)
        if limit <= 0:
            return b""
        try:
            with self.path.open("rb") as file:
                file.seek(self.start + position)
                return file.read(limit)
        except OSError:
            return b""


def segments(run: RunDir, node: int = 0) -> list[Segment]:
    """The logs of node number `node` of all attempts, in order, with those of jobs that never began an attempt."""
    attempts = [read_attempt(run, number) for number in attempt_numbers(run)]
    placed = [(path, attempt) for attempt in attempts if (path := _log_of(run, attempt, node)) is not None]
    found: list[Segment] = []
    for n, (path, attempt) in enumerate(placed):
        first = all(one.path != path for one in found)
        start = attempt.log_offset if node == 0 and not first else 0 if first else None
        if start is None:  # where it begins in the file is not known: it stays with the one before
            continue
        following = (later.log_offset for other, later in placed[n + 1 :] if other == path and node == 0)
        end = next((offset for offset in following if offset is not None), None)
        host = attempt.nodes[node] if node < len(attempt.nodes) else None
        about = (attempt.job_id if attempt.executor == "slurm" else None, node, host)
        found.append(Segment(path, start, end, _heading(attempt), attempt.number, attempt.began or 0.0, *about))
    return found if node else _with_unclaimed(run, found)


def _with_unclaimed(run: RunDir, found: list[Segment]) -> list[Segment]:
    """`found` and, where they belong by time, the logs of jobs whose set-up failed, or of older versions of tmrc."""
    claimed = {one.path for one in found}
    for path, when in _files(run):
        if path not in claimed:
            at = next((n for n, one in enumerate(found) if one.when > when), len(found))
            job = path.name.removesuffix("_0_log.out")
            found.insert(at, Segment(path, 0, None, f"{path.name}, no attempt", None, when, job))
    return found


def log_files(run: RunDir) -> list[Path]:
    """The log files of the run's first nodes, the newest last."""
    return list(dict.fromkeys(one.path for one in segments(run)))


def chosen(run: RunDir, node: int, attempt: int | None) -> list[Segment]:
    """The segments asked for. Raises UserError when there was no such attempt or node."""
    numbers = attempt_numbers(run)
    if attempt is not None and attempt not in numbers:
        there = f"1 to {numbers[-1]}" if numbers else "none so far"
        raise UserError(f"--attempt: got {attempt}, valid: {there}")
    nodes = max((len(read_attempt(run, number).logs) for number in numbers), default=1) or 1
    if not 0 <= node < nodes:
        raise UserError(f"--node: got {node}, valid: {'0' if nodes == 1 else f'0 to {nodes - 1}'}")
    return [one for one in segments(run, node) if attempt in (None, one.attempt)]


def beginning(parts: Sequence[Segment], lines: int) -> tuple[int, int]:
    """Which segment, and where in it, the last `lines` lines of them all begin."""
    for n in reversed(range(len(parts))):
        if lines <= 0:
            return n + 1, 0
        position, seen = _position_of_last(parts[n], lines)
        lines -= seen
        if lines <= 0:
            return n, position
    return (0, 0) if lines > 0 else (len(parts), 0)


def _position_of_last(part: Segment, lines: int) -> tuple[int, int]:
    """Where the last `lines` lines of a segment begin, and how many lines come after that."""
    position, seen = part.size(), 0
    end = position
    while position > 0:
        size = min(BLOCK, position)
        block = part.read(position - size, size)
        position -= size
        at = len(block) - (1 if position + size == end and block.endswith(b"\n") else 0)
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            seen += 1
            if seen == lines:
                return position + at + 1, lines
    return 0, seen + (1 if end else 0)


def _heading(attempt: Attempt) -> str:
    words = [f"attempt {attempt.number}"]
    if attempt.job_id and attempt.executor == "slurm":
        words.append(f"job {attempt.job_id}")
    if attempt.nodes:
        words.append(f"on {','.join(attempt.nodes)}")
    if attempt.began:
        words.append(clock(attempt.began))
    return ", ".join(words)


def _log_of(run: RunDir, attempt: Attempt, node: int) -> Path | None:
    """The log that an attempt names, or the one that Submitit wrote for its job (runs of older versions)."""
    if attempt.logs:
        return Path(attempt.logs[node]) if node < len(attempt.logs) else None
    if node == 0 and attempt.job_id and re.fullmatch(r"[0-9_]+", attempt.job_id):
        path = run.submitit / f"{attempt.job_id}_0_log.out"
        return path if path.is_file() else None
    return None


def _files(run: RunDir) -> list[tuple[Path, float]]:
    """The run's logs with the time of their last line, the oldest first; a sweep's tasks have theirs beside them."""
    jobs = {str(row.get("job_id")) for row in read_events(run) if row["event"] == "submitted"}
    folders = list(run.path.parent.glob("submissions/*/submitit"))
    shared = [one / f"{job}_0_log.out" for one in folders for job in jobs if re.fullmatch(r"[0-9_]+", job)]
    found = []
    for path in [*run.submitit.glob("*_0_log.out"), *shared]:
        with contextlib.suppress(OSError):
            found.append((path, path.stat().st_mtime))
    return sorted(found, key=lambda one: one[1])
