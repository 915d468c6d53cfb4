"""Where the time of a run went, as `tmrc status` shows it and as each attempt leaves it in the events."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from launch.progress import duration
from launch.standing import ACTIVE
from launch.status import RunStatus
from tmrc.config.goodput import BUCKETS, Place, RunAccount, account
from tmrc.config.rundir import RunDir, append_event

SHOWN = ("step", "data_wait", "validation", "save", "lost", "compile", "start", "idle")
MARKED = 2.0  # factor between the recommended and the configured save_every from which on it is said


def record_goodput(run: RunDir, number: int) -> None:
    """Leave in events.jsonl where the time of attempt `number` went, which has just ended. Raises OSError."""
    found = next((one for one in account(run).attempts if one.attempt == number), None)
    if found is not None:
        append_event(run, "goodput", attempt=number, seconds=_rounded(found.seconds))


def account_of(one: RunStatus, run: RunDir) -> RunAccount:
    """The account of a run whose state is known."""
    return account(run, place=_place(one))


def as_object(found: RunAccount) -> dict[str, Any]:
    """The account for `--json`."""
    attempts = [
        {
            "attempt": attempt.attempt,
            "began": attempt.began,
            "ended": None if attempt.going_on else attempt.ended,
            "seconds": _rounded(attempt.seconds),
            "interrupted": attempt.interrupted,
        }
        for attempt in found.attempts
    ]
    return {
        "share": found.goodput,
        "wall": found.wall,
        "seconds": _rounded(found.seconds),
        "interruptions": found.interruptions,
        "save_every": found.save_every,
        "attempts": attempts,
    }


def goodput_lines(found: RunAccount, run: RunDir) -> list[tuple[str, str]]:
    """(label, text) of the lines about it: none before anything was measured."""
    if found.goodput is None:
        return []
    parts = [
        f"{name.replace('_', ' ')} {duration(found.seconds[name])}" for name in SHOWN if found.seconds[name] >= 1.0
    ]
    nodes = f"{found.goodput:.1%} of {duration(found.allocated)} on its nodes"
    queue = f"; {duration(found.seconds['queue'])} in the queue" if found.seconds["queue"] >= 1.0 else ""
    return [("goodput", nodes + (": " if parts else "") + ", ".join(parts) + queue), *_advice(found, run)]


def _advice(found: RunAccount, run: RunDir) -> list[tuple[str, str]]:
    """A word on training.save_every where another value would lose markedly less."""
    best, given = found.save_every, None
    if best is not None:
        given = _configured(run)
    if best is None or given is None or 1 / MARKED < best / given < MARKED:
        return []
    cost = found.stall_seconds / found.saves
    times = "once" if found.interruptions == 1 else f"{found.interruptions} times"
    lost = f"unsaved steps were lost {times} in {duration(found.allocated)} on its nodes"
    why = f"a save holds training up for {_short(cost)}, and {lost}"
    return [("save_every", f"{float(f'{best:.2g}'):g} seconds would lose less time than {given:g}: {why}")]


def _short(seconds: float) -> str:
    return f"{seconds:.2g}s" if seconds < 10 else duration(seconds)


def _configured(run: RunDir) -> float | None:
    """training.save_every in seconds; None where the configuration cannot be read."""
    from tmrc.config.errors import UserError
    from tmrc.config.load import load_config

    with contextlib.suppress(UserError, OSError):
        return load_config(run.config).training.save_every
    return None


def _place(one: RunStatus) -> Place | None:
    if not one.sure:
        return None
    if one.state == "pending":
        return "queued"
    return "running" if one.state in ACTIVE else "over"


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds by bucket, to a millisecond."""
    return {name: round(seconds[name], 3) for name in BUCKETS}
