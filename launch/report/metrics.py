"""metrics.jsonl as columns. Rows that are damaged are left out and counted; nothing raises for what is in the file."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEYS = ("step", "loss", "val_loss", "lr", "grad_norm", "tokens", "tokens_per_s", "time")
BLOCK = 1 << 22  # bytes that are taken apart at once, so that a long file does not fill the memory
LONGEST = 1 << 20  # bytes of a line that can still be a row
PLAIN = {int, float, type(None)}
Column = NDArray[np.float64]
DRAWN = 1e30  # larger numbers are as good as infinite


@dataclass(frozen=True)
class Metrics:
    """The rows in the order of their steps: a column of each key, and `key?` that is 1 where a row has a number."""

    columns: dict[str, Column]
    damaged: int = 0  # lines that are no row of a step

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.columns["step"])

    def having(self, key: str) -> NDArray[np.intp]:
        """Indices of the rows that have `key`, NaN and infinities in the file among them."""
        return np.flatnonzero(self.columns[f"{key}?"])


def read_metrics(path: Path) -> Metrics:
    """All rows of `path`; none when it is not there."""
    parts: dict[str, list[Column]] = {key: [] for key in (*KEYS, *(f"{key}?" for key in KEYS))}
    damaged = 0
    for block in _blocks(path):
        rows, bad = _rows(block)
        columns = _columns(rows)
        usable = np.isfinite(columns["step"]) & (np.abs(columns["step"]) < 2**53)
        damaged += bad + int(np.count_nonzero(~usable))
        for key, column in columns.items():
            parts[key].append(column[usable])
    whole = {key: np.concatenate(found) if found else np.zeros(0) for key, found in parts.items()}
    order = np.argsort(whole["step"], kind="stable")
    return Metrics({key: column[order] for key, column in whole.items()}, damaged)


def _blocks(path: Path) -> Iterator[bytes]:
    """Whole lines, some megabytes at a time; a last line without an end is being written and no damage."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe in its place must not hold us
    except (OSError, ValueError):
        return
    try:
        yield from _whole_lines(descriptor) if stat.S_ISREG(os.fstat(descriptor).st_mode) else ()
    except OSError:  # a disk or a server that fails: what was read until then counts
        return
    finally:
        os.close(descriptor)


def _whole_lines(descriptor: int) -> Iterator[bytes]:
    rest = b""
    while block := os.read(descriptor, BLOCK):
        whole, newline, rest = (rest + block).rpartition(b"\n")
        if newline:
            yield whole
        elif len(rest) > LONGEST:
            rest = b"#"  # no row, however it goes on


def _rows(block: bytes) -> tuple[list[dict[str, Any]], int]:
    """The objects in the lines of `block`, and how many lines hold no object. One call for all is twice as fast."""
    lines = block.count(b"\n") + 1
    try:
        found = json.loads(b"[" + block.replace(b"\n", b",") + b"]")
    except (ValueError, RecursionError):
        found = []
    if len(found) != lines:
        found = [_parsed(line) for line in block.split(b"\n") if line.strip()]
    rows = [row for row in found if isinstance(row, dict)]
    return rows, len(found) - len(rows)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _columns(rows: list[dict[str, Any]]) -> dict[str, Column]:
    """A column of numbers for each key, and with `?` behind its name one that tells which rows have a number there."""
    found = {}
    for key in KEYS:
        values = [row.get(key) for row in rows]
        if not set(map(type, values)) <= PLAIN:
            values = [value if type(value) in PLAIN else None for value in values]
        numbers = _numbers(values)
        if key not in ("step", "time"):
            numbers[np.abs(numbers) > DRAWN] = np.inf  # diverged; no axis of so many digits can be drawn
        found[key] = numbers
        found[f"{key}?"] = np.array([value is not None for value in values], np.float64)
    return found


def _numbers(values: list[Any]) -> Column:
    try:
        return np.array(values, np.float64)
    except OverflowError:  # a whole number of more than 308 digits
        return np.array([value if isinstance(value, float) else _float(value) for value in values], np.float64)


def _float(value: int | None) -> float:
    try:
        return float("nan") if value is None else float(value)
    except OverflowError:
        return float("inf")
