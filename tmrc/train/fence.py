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
import os
import re
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from tmrc.config.rundir import RunDir
from tmrc.train import durable
from tmrc.train.failures import DiskError, RunFailure, SupersededError, disk_error
from tmrc.train.saved import begun_attempts

_ENDED = re.compile(r"\.ended_[0-9]+_by_[0-9]+")


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
            if stat.S_ISDIR(self.folder.lstat().st_mode):  # a link would lead out of the run
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

    def require_room(self, size: int) -> None:
        """Raise DiskError unless a checkpoint of `size` bytes can be written beside what is there."""
        self.require()
        try:
            durable.reserve(self.folder / "room", size)
        except OSError as error:
            what = f"{self.run.checkpoints}: there is no room for a checkpoint of {size:,} bytes beside those it holds"
            raise disk_error(what, error) from None

    def draft(self, name: str) -> Path:
        """An empty directory to write `name` in."""
        self.require()
        path = self.folder / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path

    def discard(self, path: Path) -> None:
        """Delete a directory of the run; at no moment does a part of it look whole."""
        self.require()
        doomed = self.folder / f"deleted_{path.name}"
        path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def set_aside(self, path: Path) -> None:
        """Rename a damaged directory of the run, so that it neither counts nor is deleted."""
        self.require()
        held = path.rename(self.folder / f"damaged_{path.name}")
        held.rename(_free_name(self.run, held.name))


def take_over(run: RunDir, attempt: int) -> Fence:
    """Shut out all earlier attempts. Raises SupersededError when a later one has begun, or another process as this."""
    _make_room(run.checkpoints)
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
    for path in list(run.checkpoints.iterdir()):
        if _ENDED.fullmatch(path.name):
            _remove(run, path)
    durable.sync(run.checkpoints)
    return fence


def _make_room(checkpoints: Path) -> None:
    """Make the directory of checkpoints. It may be a link to another disk, if that is there."""
    try:
        checkpoints.mkdir(exist_ok=True)
    except FileExistsError as error:
        what = "leads to a directory that is not there" if checkpoints.is_symlink() else "is not a directory"
        raise disk_error(f"{checkpoints} {what}", error) from None


def _remove(run: RunDir, folder: Path) -> None:
    """Remove an ended attempt's directory with all in it but damaged checkpoints that were on their way out."""
    if folder.is_symlink():  # what it leads to is not ours
        folder.unlink(missing_ok=True)
        return
    with contextlib.suppress(FileNotFoundError):  # another attempt that begins removes it too
        for path in list(folder.glob("damaged_*")):
            with contextlib.suppress(OSError):
                path.rename(_free_name(run, path.name))
    shutil.rmtree(folder, ignore_errors=True)


def _free_name(run: RunDir, name: str) -> Path:
    """The name in the directory of checkpoints, with a number when it is taken."""
    numbered = (f"{name}_{number}" for number in itertools.count(1))
    paths = (run.checkpoints / one for one in itertools.chain([name], numbered))
    return next(path for path in paths if not os.path.lexists(path))
