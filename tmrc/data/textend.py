"""Where the text of a shard ends. Writers preallocate shards, so a shard may end in zeros that were never written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_FIRST_BLOCK = 1 << 16
_LARGEST_BLOCK = 1 << 23


def text_end(path: Path, size: int) -> int:
    """Number of bytes up to and with the last non-zero one, 0 when there is none. Raises OSError.

    Looks from the end backwards. Holes are skipped where the file system knows them, so a mostly unwritten shard of
    hundreds of gigabytes costs no more than a full one.
    """
    with path.open("rb", buffering=0) as file:
        for start, end in reversed(_written(file.fileno(), size)):
            if found := _last_nonzero(file.fileno(), start, end):
                return found
    return 0


def _written(fd: int, size: int) -> list[tuple[int, int]]:
    """The ranges of a file that are not holes; the whole file where holes cannot be told."""
    seek_data, seek_hole = getattr(os, "SEEK_DATA", None), getattr(os, "SEEK_HOLE", None)
    if seek_data is None or seek_hole is None:
        return [(0, size)]
    ranges: list[tuple[int, int]] = []
    end = 0
    try:
        while end < size:
            start = os.lseek(fd, end, seek_data)
            end = os.lseek(fd, start, seek_hole)
            ranges.append((start, min(end, size)))
    except OSError as error:
        if error.errno != errno.ENXIO:  # ENXIO: only a hole is left
            return [(0, size)]
    return ranges


def _last_nonzero(fd: int, start: int, end: int) -> int:
    """Offset just past the last non-zero byte in [start, end), 0 when all are zero."""
    block = _FIRST_BLOCK
    while end > start:
        begin = max(start, end - block)
        text = os.pread(fd, end - begin, begin).rstrip(b"\0")
        if text:
            return begin + len(text)
        end, block = begin, min(2 * block, _LARGEST_BLOCK)
    return 0
