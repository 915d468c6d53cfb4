"""One row a run as CSV, and the same facts as objects for --json."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from typing import Any

from launch.report.entries import Entry, Facts

HEADS = (
    "run", "state", "step", "total_steps", "loss", "val_loss", "best_val_loss", "best_val_step", "tokens",
    "device_hours", "goodput", "wall_seconds",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would take for one


def sheet(facts: Facts) -> str:
    """A heading and a row for each run. Texts that a spreadsheet would run as a formula get an apostrophe in front."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    buckets = list(facts.entries[0].seconds) if facts.entries else []
    rest = ["attempts", "interruptions", "command", "reproduce", "directory"]
    writer.writerow([*HEADS, *(f"{name}_seconds" for name in buckets), *map(_cell, facts.keys), *rest])
    for one in facts.entries:
        writer.writerow([_cell(value) for value in _row(one, buckets, facts.keys)])
    return text.getvalue()


def objects(facts: Facts) -> list[dict[str, Any]]:
    """The facts of each run under stable names; what is not known is None."""
    return [asdict(one) for one in facts.entries]


def _row(one: Entry, buckets: list[str], keys: tuple[str, ...]) -> list[Any]:
    return [
        one.run_id, one.state, one.step, one.total_steps, one.loss, one.val_loss, one.best_val_loss, one.best_val_step,
        one.tokens, one.device_hours, one.goodput, one.wall,
        *(one.seconds.get(name) for name in buckets),
        *(one.differs[key] for key in keys),
        one.attempts, one.interruptions, one.command, one.reproduce, one.directory,
    ]  # fmt: skip


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return f"'{value}" if value.startswith(_FORMULA) else value
