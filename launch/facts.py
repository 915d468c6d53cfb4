"""What the files of a run tell, read quickly and without trusting any of them: a run may be half-written or damaged."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tmrc.config.rundir import RunDir, checkpoint_steps

EVENTS = 1 << 14  # bytes at the end of events.jsonl that are read: some 100 events
MORE_EVENTS = 1 << 18  # the same, where the attempt's start is not among these
METRICS = 1 << 14  # bytes at the end of metrics.jsonl that are read: some 60 rows
VALIDATION = 1 << 19  # bytes at its end in which the last validation is looked for
LARGEST = 1 << 20  # bytes of a JSON file that are read
Row = dict[str, Any]


@dataclass(frozen=True)
class Attempt:
    """One attempt as its owner.json and job.json tell of it; None and empty are what they do not tell."""

    number: int
    host: str = ""
    pid: int | None = None
    started: int | None = None
    job_id: str | None = None
    executor: str = ""
    nodes: tuple[str, ...] = ()
    logs: tuple[str, ...] = ()
    log_offset: int | None = None
    began: float | None = None
    ended: float | None = None
    status: str = ""
    kind: str = ""
    cause: str = ""
    exit_code: int | None = None
    step: int | None = None
    node: str = ""  # the host that is blamed
    action: str = ""

    @property
    def over(self) -> bool:
        """Whether somebody has said how it ended."""
        return bool(self.status)


@dataclass(frozen=True)
class Facts:
    """A run by its files alone."""

    run: RunDir
    created: float  # unix time, as far as the file system has kept it
    events: tuple[Row, ...]  # the last ones
    last: Attempt | None  # the newest attempt
    row: Row  # the newest row of metrics.jsonl with a loss
    earlier: Row  # the oldest of those read that the same attempt has logged; empty if it has logged none
    val_loss: float | None
    checkpoint: tuple[int, float] | None  # step and time of the newest
    cancel: Row  # cancel.json: who has asked for the run to be cancelled, and when; empty when nobody has

    def of_attempt(self, *names: str) -> list[Row]:
        """The newest attempt's events, of the kinds `names`."""
        number = self.last.number if self.last else 0
        return [row for row in self.events if row.get("attempt") == number and row["event"] in names]

    def newest(self, *names: str) -> Row | None:
        """The newest event of the kinds `names`."""
        return next((row for row in reversed(self.events) if row["event"] in names), None)


def read_facts(run: RunDir) -> Facts:
    """Look at all files once. Never raises for what is in them."""
    numbers = attempt_numbers(run)
    events = _latest_events(run)
    begun = next((row for row in reversed(events) if row["event"] in ("started", "resumed")), {})
    row, earlier, val_loss = read_metrics(run.metrics, integer(begun, "step") or 0)
    return Facts(
        run,
        _modified(run.run_json) or _modified(run.path) or 0.0,
        events,
        read_attempt(run, numbers[-1]) if numbers else None,
        row,
        earlier,
        val_loss,
        newest_checkpoint(run),
        read_object(run.cancel),
    )


def attempt_numbers(run: RunDir) -> list[int]:
    """Numbers of the attempts that have begun, in order; 0 holds what was before the first."""
    return sorted(int(name) for name in _names(run.path / "attempts") if re.fullmatch(r"[1-9][0-9]{0,8}", name))


def read_attempt(run: RunDir, number: int) -> Attempt:
    """What is known of attempt `number`."""
    folder = run.attempt(number)
    owner, ending = read_object(folder / "owner.json"), read_object(folder / "job.json")
    job_id = owner.get("job_id")
    return Attempt(
        number,
        word(owner, "host"),
        integer(owner, "pid"),
        integer(owner, "started"),
        str(job_id) if isinstance(job_id, str | int) and not isinstance(job_id, bool) else None,
        word(owner, "executor") or ("slurm" if job_id else "local" if owner else ""),
        _words(owner, "nodes") or tuple(filter(None, [word(owner, "host")])),
        _words(owner, "logs"),
        integer(owner, "log_offset") if "logs" in owner else None,
        number_of(owner, "began") or _modified(folder / "owner.json") or _modified(folder),
        (number_of(ending, "ended") or _modified(folder / "job.json")) if ending else None,
        word(ending, "status") or ("failed" if ending else ""),
        word(ending, "kind"),
        word(ending, "message"),
        integer(ending, "exit_code"),
        _last_step(folder, ending),
        word(ending, "node"),
        word(ending, "action"),
    )


def _last_step(folder: Path, ending: Row) -> int | None:
    """The last step of an attempt that has ended; of one that was killed, as it has noted now and then."""
    step = integer(ending, "step")
    return integer(read_object(folder / "spent.json"), "step") if ending and step is None else step


def read_events(run: RunDir, limit: int = MORE_EVENTS) -> tuple[Row, ...]:
    """The last events, oldest first."""
    rows = (_row(line) for line in _last_lines(run.events, limit))
    return tuple(row for row in rows if isinstance(row.get("event"), str))


def _latest_events(run: RunDir) -> tuple[Row, ...]:
    """The last events, back to a start of training if it is not too far away."""
    for limit in (EVENTS, MORE_EVENTS):
        rows = read_events(run, limit)
        if any(row["event"] in ("started", "resumed") for row in rows):
            break
    return rows


def read_metrics(path: Path, begun: int) -> tuple[Row, Row, float | None]:
    """The newest row with a loss, the oldest at hand of a step after `begun`, and the newest validation loss."""
    lines = _last_lines(path, METRICS)
    newest = next(_losses(reversed(lines), 0), {})
    return newest, next(_losses(lines, begun + 1), {}), _last_validation(path, lines)


def _losses(lines: Iterable[bytes], first: int) -> Iterator[Row]:
    """Rows with a loss, of step `first` and later ones."""
    for line in lines:
        row = _row(line)
        step = integer(row, "step")
        if "loss" in row and step is not None and step >= first:
            yield row


def newest_checkpoint(run: RunDir) -> tuple[int, float] | None:
    """Step and time of the newest checkpoint that is there under its name."""
    try:
        step, path = next(iter(checkpoint_steps(run).items()))
    except (OSError, StopIteration):
        return None
    made = _modified(path)
    return None if made is None else (step, made)


def read_object(path: Path, largest: int = LARGEST) -> Row:
    """The object in a JSON file of up to `largest` bytes; empty when it is not there, not whole, or something else."""
    return _row(_end_of(path, largest)[0])


def number_of(row: Row, key: str) -> float | None:
    """A number in a row, NaN and infinities too; None for anything else."""
    value = row.get(key)
    try:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    except OverflowError:
        return None


def integer(row: Row, key: str) -> int | None:
    """A whole number in a row, of a size that can be meant; None for anything else."""
    value = number_of(row, key)
    return int(value) if value is not None and math.isfinite(value) and abs(value) < 2**63 else None


def word(row: Row, key: str) -> str:
    """A text in a row; empty for anything else."""
    value = row.get(key)
    return value if isinstance(value, str) else ""


def _words(row: Row, key: str) -> tuple[str, ...]:
    value = row.get(key)
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def _last_validation(path: Path, lines: list[bytes]) -> float | None:
    """Validations may be thousands of rows apart, so that only lines that have one are taken apart."""
    for text in (b"\n".join(lines), None):
        block = _end_of(path, VALIDATION)[0] if text is None else text
        end = len(block)
        while (found := block.rfind(b'"val_loss"', 0, end)) >= 0:
            end = block.rfind(b"\n", 0, found) + 1
            line = block[end:].partition(b"\n")[0]
            if (loss := number_of(_row(line), "val_loss")) is not None:
                return loss
    return None


def _last_lines(path: Path, limit: int) -> list[bytes]:
    """The whole lines in the last `limit` bytes."""
    block, cut = _end_of(path, limit)
    return block.split(b"\n")[1 if cut else 0 : -1]


def _end_of(path: Path, limit: int) -> tuple[bytes, bool]:
    """The last `limit` bytes of a file, and whether there are more before them."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe in its place must not hold us
    except (OSError, ValueError):
        return b"", False
    try:
        before = max(0, os.fstat(descriptor).st_size - limit)
        return os.pread(descriptor, limit, before), before > 0
    except OSError:
        return b"", False
    finally:
        os.close(descriptor)


def _row(line: bytes) -> Row:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208  hundreds of runs: Path objects cost more than the listing
    except OSError:
        return []


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except (OSError, ValueError):
        return None
