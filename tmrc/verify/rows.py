"""Reading .jsonl files that may be damaged, or be no such files at all, without filling the memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tmrc.train import durable

Row = dict[str, Any]
LARGEST_LINE = 1 << 20  # bytes; a longer line is no row


@dataclass(frozen=True)
class Rows:
    """The whole lines of a file. `lines`: None for what is no row; `cut_off`: numbers, from 1, of begun rows.

    `unended`: whether something follows the last whole line.
    """

    lines: tuple[Row | None, ...] = ()
    cut_off: tuple[int, ...] = ()  # a full disk, or a kill, leaves such a line, and the next row begins a new one
    unended: bool = False
    problem: str = ""  # why the file was not read


def read_rows(path: Path, largest: int) -> Rows:
    """Read a file of up to `largest` bytes. A last line that is being written, or was cut off by a kill, is no line.

    Never raises for what is there. No file: no lines.
    """
    try:
        with durable.open_file(path) as fd, os.fdopen(os.dup(fd), "rb") as file:
            if (size := os.fstat(fd).st_size) > largest:
                return Rows(problem=f"has {size:,} bytes, more than the {largest:,} that it can have: it was not read")
            return _rows(_lines(file, largest))
    except FileNotFoundError:
        return Rows()
    except OSError as error:
        return Rows(problem=f"cannot be read: {error.strerror or error}")
    except ValueError as error:
        return Rows(problem=str(error))


def _rows(lines: Iterable[bytes]) -> Rows:
    rows: list[Row | None] = []
    cut_off: list[int] = []
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            return Rows(tuple(rows), tuple(cut_off), unended=True)
        rows.append(row := _row(line))
        if row is None and _is_begun(line.removesuffix(b"\n")):
            cut_off.append(number)
    return Rows(tuple(rows), tuple(cut_off))


def _is_begun(line: bytes) -> bool:
    """Whether a line that is no row can be the beginning of an event."""
    start = b'{"event": "'
    return not line.endswith(b"}") and (line.startswith(start) or start.startswith(line))


def _lines(file: IO[bytes], largest: int) -> Iterator[bytes]:
    """The lines with their ends; of one that is too long only the beginning, which is no row, and its end."""
    left = largest  # the file may grow meanwhile
    while left > 0 and (line := file.readline(LARGEST_LINE)):
        left -= len(line)
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = file.readline(LARGEST_LINE)
            left -= len(rest)
        yield line if rest is line else line + rest[-1:]


def _row(line: bytes) -> Row | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
