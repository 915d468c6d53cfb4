"""One writer: an attempt that begins shuts out the processes of earlier ones, wherever they still run.

Rank 0 of attempt n owns `checkpoints/.attempt_<n>/`, and all it changes in the run goes through there by a rename: what
it writes is written there and renamed to its place, what it deletes or sets aside is renamed to there first. An attempt
that begins renames the directories of earlier attempts away and empties them. From then on every rename of an earlier
attempt fails, at whatever line it was held up, and what it has open has no name any more. Only then does the new
attempt look at what there is.

The rename alone does this where all nodes see one file system. NFS clients remember directories for up to a minute, and
may still reach one that another node has renamed; emptying and removing it is what stops them.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from tmrc.config.rundir import RunDir
from tmrc.train import durable
from tmrc.train.failures import DiskError, RunFailure, SupersededError

_ATTEMPT = re.compile(r"^\.attempt_(\d+)$")


@dataclass(frozen=True)
class Fence:
    """What rank 0 of one attempt may write through, as long as no later attempt has begun."""

    run: RunDir
    attempt: int

    @property
    def folder(self) -> Path:
        """This attempt's own directory."""
        return self.run.checkpoints / f".attempt_{self.attempt}"

    def lost(self) -> RunFailure | None:
        """Why this attempt may write no more; None while it may."""
        with contextlib.suppress(OSError):
            self.folder.stat()
            return None
        latest = max(begun_attempts(self.run), default=0)
        if latest > self.attempt:
            return SupersededError(
                f"attempt {latest} has taken over this run; attempt {self.attempt} writes nothing more and ends"
            )
        return DiskError(f"{self.folder} is gone: somebody has removed files of a run that is under way")

    def require(self) -> None:
        """Raise SupersededError, or DiskError when the directory is gone, unless this attempt may write."""
        if error := self.lost():
            raise error

    def draft(self, name: str) -> Path:
        """An empty directory to write `name` in."""
        path = self.folder / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path

    def discard(self, path: Path) -> None:
        """Delete a directory of the run; at no moment does a part of it look whole."""
        doomed = self.folder / f"deleted_{path.name}"
        path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def set_aside(self, path: Path) -> None:
        """Rename a damaged directory of the run, so that it neither counts nor is deleted."""
        held = path.rename(self.folder / f"damaged_{path.name}")
        held.rename(_free_name(self.run, held.name))


def begun_attempts(run: RunDir) -> dict[int, Path]:
    """Number -> own directory of the attempts that have begun and have not been shut out."""
    if not run.checkpoints.is_dir():
        return {}
    return {int(match[1]): path for path in run.checkpoints.iterdir() if (match := _ATTEMPT.match(path.name))}


def take_over(run: RunDir, attempt: int) -> Fence:
    """Shut out all earlier attempts. Raises SupersededError when a later one has begun, or another process as this."""
    run.checkpoints.mkdir(exist_ok=True)
    fence = Fence(run, attempt)
    try:
        fence.folder.mkdir()
    except FileExistsError:
        raise SupersededError(f"attempt {attempt} has begun already, in another process ({fence.folder})") from None
    # Only after one's own stands: of two that begin at once, the earlier sees the later's directory or is shut out.
    others = begun_attempts(run)
    if max(others) > attempt:
        with contextlib.suppress(OSError):
            fence.folder.rmdir()
        raise SupersededError(f"attempt {max(others)} has taken over this run; attempt {attempt} ends before it begins")
    for number, path in others.items():
        if number < attempt:
            with contextlib.suppress(FileNotFoundError):  # a still later attempt was faster
                path.rename(run.checkpoints / f".ended_{number}_by_{attempt}")
    for path in run.checkpoints.glob(".ended_*"):
        _remove(run, path)
    durable.sync(run.checkpoints)
    return fence


def _remove(run: RunDir, folder: Path) -> None:
    """Remove an ended attempt's directory with all in it but damaged checkpoints that were on their way out."""
    for path in folder.glob("damaged_*"):
        with contextlib.suppress(OSError):
            path.rename(_free_name(run, path.name))
    shutil.rmtree(folder, ignore_errors=True)


def _free_name(run: RunDir, name: str) -> Path:
    numbered = (run.checkpoints / f"{name}_{number}" for number in itertools.count(1))
    return next(path for path in (run.checkpoints / name, *itertools.islice(numbered, 1000)) if not path.exists())
