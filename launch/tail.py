"""Reading .jsonl files that another process is still writing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Tail:
    """New whole lines of a .jsonl file since the last look. A file that was replaced or cut is read from its start."""

    path: Path
    offset: int = 0
    inode: int | None = None

    def skip(self) -> None:
        """Leave out what is there now."""
        self.rows()

    def rows(self) -> list[dict[str, Any]]:
        """The objects on lines completed since the last call; lines that are no objects are left out."""
        try:
            file = self.path.open("rb")
        except OSError:
            return []
        with file:
            status = self.path.stat()
            if status.st_ino != self.inode or status.st_size < self.offset:
                self.offset, self.inode = 0, status.st_ino
            file.seek(self.offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self.offset += len(whole) + len(newline)
        return [row for line in whole.split(b"\n") if (row := _row(line)) is not None]


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None
