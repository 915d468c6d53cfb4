"""A file of a run that grows: one attempt writes it, and what a full disk does not take is not lost."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

from tmrc.train import durable
from tmrc.train.failures import NO_SPACE
from tmrc.train.fence import Fence


class GrowingFile:
    """Appends to the run's file `final`, which begins with `content`.

    The file is made in the attempt's own directory and renamed over the earlier one while it is open. So an attempt
    that has been shut out has a file without a name, and can never open the next one's by mistake.

    While the disk is full, what is appended waits in memory and goes to the file, in order, as soon as there is room.
    One thread may append while another syncs.
    """

    def __init__(self, fence: Fence, final: Path, content: bytes = b"") -> None:
        fresh = fence.folder / final.name
        self._waiting = bytearray(content)
        self._lock = threading.Lock()  # of what is waiting; a sync, which can take long, does not hold it
        self._fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            self.sync()
            fresh.replace(final)
            durable.sync(final.parent)
        except BaseException:
            os.close(self._fd)
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise

    def add(self, data: bytes) -> None:
        """Append `data`, to be read by others after `flush`."""
        with self._lock:
            self._waiting += data

    def flush(self) -> None:
        """Let others read what was added, as far as the disk has room. Raises OSError for anything but a full disk."""
        try:
            self._write()
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise

    def sync(self) -> None:
        """Wait until all that was added is on stable storage. Raises OSError, also when the disk is full."""
        self._write()
        os.fsync(self._fd)

    def close(self) -> None:
        """Sync and close."""
        try:
            self.sync()
        finally:
            os.close(self._fd)

    def _write(self) -> None:
        with self._lock:
            while self._waiting:
                written = os.write(self._fd, self._waiting)
                del self._waiting[:written]
