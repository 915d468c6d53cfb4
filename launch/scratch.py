"""Directories that last as long as an attempt: in memory for heartbeats and torchrun's own files, or elsewhere.

Each goes with its owner or, should that be killed, when the next one is made. The owner holds a lock on it: one whose
lock is free is left from a process that was killed, whichever run it was of. Run ids do not tell, since a run's
directory can be copied.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MEMORY = Path("/dev/shm")


@contextmanager
def scratch(run_id: str, node: int) -> Iterator[Path]:
    """A directory in memory for an attempt of the run on its `node`-th node. Raises OSError when it cannot be made."""
    with held(_folder(), f"{run_id}.{node}") as own:
        yield own


@contextmanager
def held(folder: Path, name: str) -> Iterator[Path]:
    """A directory in `folder`, for our user alone, that goes at the end. Raises OSError when it cannot be made."""
    for left in folder.glob(f"{_prefix()}*"):
        _remove_if_left(left)
    draft = Path(tempfile.mkdtemp(prefix=f".{_prefix()}", dir=folder))  # has its name when it has its lock
    lock = os.open(draft, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: nobody gets it, and so nobody removes it
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        own = draft.rename(folder / f"{_prefix()}{name}.{draft.name[-8:]}")
        try:
            yield own
        finally:
            shutil.rmtree(own, ignore_errors=True)
    finally:
        os.close(lock)


def scratches(run_id: str, node: int = 0) -> list[Path]:
    """The directories of attempts of the run, also of those that were killed."""
    return list(_folder().glob(f"{_prefix()}{run_id}.{node}.*"))


def _folder() -> Path:
    return MEMORY if os.access(MEMORY, os.W_OK) else Path(tempfile.gettempdir())


def _prefix() -> str:
    return f"tmrc.{os.getuid()}."


def _remove_if_left(folder: Path) -> None:
    """Remove a directory of ours whose owner is gone."""
    with contextlib.suppress(OSError):
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if os.fstat(lock).st_uid == os.getuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
        finally:
            os.close(lock)
