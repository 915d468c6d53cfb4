"""Signs of life: a small file for each rank, which the trainer writes in memory and a watchdog on the same node reads.

All ranks go through the same sequence of beats, so the one with the lowest counter is the one the others wait for.
"""

from __future__ import annotations

import mmap
import struct
import time
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "TMRC_HEARTBEAT"  # environment variable with the directory of the files; unset: nobody watches
_FORM = struct.Struct("=Qqd40s")  # counter, step, time, phase


@dataclass(frozen=True)
class Beat:
    """The last sign of life of one rank."""

    counter: int  # beats so far
    step: int  # optimizer steps done
    phase: str  # what began with this beat
    changed: float  # when, by this node's time.monotonic()


def heartbeat_file(folder: Path, rank: int) -> Path:
    """Where `rank` leaves its beats in `folder`, the value of TMRC_HEARTBEAT."""
    return folder / f"rank_{rank}"


class HeartbeatFile:
    """Writes the beats of one rank. A beat costs no system call. Raises OSError when the file cannot be made."""

    def __init__(self, path: Path) -> None:
        with path.open("w+b") as file:
            file.write(bytes(_FORM.size))  # real blocks: a full disk must fail here and not in a later beat
            file.flush()
            self._memory = mmap.mmap(file.fileno(), _FORM.size)
        self._counter = 0

    def beat(self, phase: str, step: int) -> None:
        """Say that `phase` begins, after `step` steps."""
        self._counter += 1
        self._memory[:] = _FORM.pack(self._counter, step, time.monotonic(), phase.encode())


def read_heartbeat(path: Path) -> Beat | None:
    """The last beat in the file `path`; None before the first."""
    data = _read(path)
    while data != (again := _read(path)):  # the writer was at it
        data = again
    if len(data) != _FORM.size:
        return None
    counter, step, changed, phase = _FORM.unpack(data)
    return Beat(counter, step, phase.rstrip(b"\0").decode("utf8", "replace"), changed) if counter else None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
