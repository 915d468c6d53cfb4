"""What the files of a run tell about its time: when attempts began and ended, when it was in the queue, what they did.

Anything may be missing, cut off, damaged or of another version of tmrc. What cannot be understood is left out; nothing
in here raises for what is in a file.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tmrc.config.rundir import RunDir

SPENT = "spent.json"  # in attempts/<n>/, written by rank 0 (tmrc.train.spent)
LATEST = 1e11  # seconds; no time and no duration in a file is meant that is longer
_LARGEST = 1 << 26  # bytes of a file that are read
_AFTER = {"requeued": True, "cancelled": False, "held": False}  # what comes after an attempt -> into the queue?
_QUEUEING = {"submitted": True, **_AFTER}
Row = dict[str, Any]


@dataclass(frozen=True)
class Spent:
    """attempts/<n>/spent.json: the `seconds` of each bucket from `began` until `at`, when `step` steps were done.

    `phase` is the bucket of what was going on then.
    """

    began: float
    at: float
    phase: str
    step: int
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Saved:
    """A checkpoint of `step`, where the event says: the seconds it took, those of them in which training stood still
    (all of them in versions that did not write beside training), and what the attempt had spent by then.
    """

    step: int
    seconds: float | None
    stall: float | None
    spent: Mapping[str, float] | None


@dataclass(frozen=True)
class Trace:
    """One attempt. Times are unix times; None is what nobody has said."""

    number: int
    began: float
    ended: float | None
    last_sign: float  # when it was last heard of
    over: bool  # somebody has said that it is
    status: str
    requeued: bool  # its end put the run back into the queue
    job_id: str  # of Slurm, empty without
    first_step: int | None  # that it went on from
    trains_from: float | None  # when it had started
    saved: tuple[Saved, ...]
    spent: Spent | None


@dataclass(frozen=True)
class Wish:
    """Somebody put the run into the queue (`opens`) or took it off at `time`.

    `before` is the number of the attempt that was to come of it, `after` that of the one that it followed.
    """

    opens: bool
    time: float
    before: int | None = None
    after: int | None = None


@dataclass(frozen=True)
class Traces:
    """A run: its attempts and wishes, each in order, and when its directory was made."""

    attempts: tuple[Trace, ...]
    wishes: tuple[Wish, ...]
    created: float | None


def read_traces(run: RunDir) -> Traces:
    """Look at the files of `run` once."""
    rows = [row for row in _rows(run.events) if isinstance(row.get("event"), str)]
    of: dict[int, list[Row]] = {}
    for row in rows:
        if (number := _whole(row.get("attempt"))) is not None:
            of.setdefault(number, []).append(row)
    found = [_trace(run, number, of.get(number, ())) for number in _attempts(run)]
    wishes = [wish for row in rows if (wish := _wish(row)) is not None]
    if (cancelled := moment(_object(run.cancel).get("time"))) is not None:
        wishes.append(Wish(False, cancelled))
    return Traces(tuple(trace for trace in found if trace is not None), tuple(wishes), _created(run))


def moment(value: object) -> float | None:
    """A time or duration in seconds that can be meant; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < LATEST else None


def _trace(run: RunDir, number: int, events: Sequence[Row]) -> Trace | None:
    """One attempt; None when nothing says when it began."""
    folder = run.attempt(number)
    owner, ending, spent = _object(folder / "owner.json"), _object(folder / "job.json"), read_spent(folder / SPENT)
    own = [row for row in events if row["event"] not in _QUEUEING]
    signs = [time for row in own if (time := moment(row.get("time"))) is not None]
    began = (moment(owner.get("began")) or _modified(folder / "owner.json")) if owner else None
    if began is None:
        began = min([*signs, *([spent.began] if spent else [])], default=None)
    if began is None:
        return None
    left = _modified(folder / "rank_0.json")  # rank 0 has said how it ended
    signs += [time for time in (spent.at if spent else None, left) if time is not None]
    ended = (moment(ending.get("ended")) or _modified(folder / "job.json")) if ending else None
    if ended is not None and spent is not None:  # who found it dead knows only its last event
        ended = max(ended, spent.at)
    start = next((row for row in own if row["event"] in ("started", "resumed")), {})
    action, job_id = ending.get("action"), owner.get("job_id")
    return Trace(
        number,
        began,
        ended,
        max([began, *signs]),
        bool(ending) or (left is not None and not owner) or any(row["event"] in _AFTER for row in events),
        str(ending.get("status", "")) or _said(own),
        action in ("requeued", "resubmitted"),
        job_id if isinstance(job_id, str) and owner.get("executor") == "slurm" else "",
        _whole(start.get("step")),
        moment(start.get("time")),
        tuple(_saved(row, step) for row in own if (step := _checkpoint(row)) is not None),
        spent,
    )


def _said(events: Sequence[Row]) -> str:
    """How it ended, by the trainer's own events."""
    last = events[-1]["event"] if events else ""
    return last if last in ("finished", "failed") else ""


def _checkpoint(row: Row) -> int | None:
    return _whole(row.get("step")) if row["event"] == "checkpoint" else None


def _saved(row: Row, step: int) -> Saved:
    spent = row.get("spent")
    seconds, stall = moment(row.get("seconds")), moment(row.get("stall"))
    stall = seconds if stall is None else stall
    return Saved(step, seconds, stall, _durations(spent) if isinstance(spent, dict) else None)


def _wish(row: Row) -> Wish | None:
    opens, time = _QUEUEING.get(row["event"]), moment(row.get("time"))
    if opens is None or time is None:
        return None
    number = _whole(row.get("attempt"))
    return Wish(opens, time, before=number) if row["event"] == "submitted" else Wish(opens, time, after=number)


def read_spent(path: Path) -> Spent | None:
    """What a spent.json tells; None without one that can be understood."""
    row = _object(path)
    began, at, seconds = moment(row.get("began")), moment(row.get("at")), row.get("seconds")
    if began is None or at is None or not isinstance(seconds, dict):
        return None
    return Spent(began, max(began, at), str(row.get("phase", "")), _whole(row.get("step")) or 0, _durations(seconds))


def _durations(found: Mapping[str, object]) -> dict[str, float]:
    return {name: time for name, value in found.items() if (time := moment(value)) is not None}


def _attempts(run: RunDir) -> list[int]:
    """The numbers of the attempts that have a directory, in order."""
    try:
        names = [path.name for path in (run.path / "attempts").iterdir()]
    except (OSError, ValueError):
        return []
    return sorted(int(name) for name in names if re.fullmatch(r"[1-9][0-9]{0,8}", name, re.ASCII))


def _whole(value: object) -> int | None:
    number = moment(value)
    return int(number) if number is not None else None


def _object(path: Path) -> Row:
    """The object in a JSON file; empty when it is not there, not whole, or something else."""
    return _parsed(_content(path))


def _rows(path: Path) -> list[Row]:
    """The objects in a .jsonl file; a last line without an end is left out."""
    return [row for line in _content(path).split(b"\n")[:-1] if (row := _parsed(line))]


def _parsed(text: bytes) -> Row:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.is_file() and path.stat().st_size < _LARGEST else b""
    except (OSError, ValueError):
        return b""


def _created(run: RunDir) -> float | None:
    """When the run was made: by run.json's word, or else by its age."""
    try:
        return moment(datetime.datetime.fromisoformat(str(_object(run.run_json).get("created"))).timestamp())
    except (ValueError, OverflowError, OSError):
        return _modified(run.run_json)


def _modified(path: Path) -> float | None:
    try:
        return moment(path.stat().st_mtime)
    except (OSError, ValueError):
        return None
