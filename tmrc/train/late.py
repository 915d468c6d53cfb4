"""Patience with files that another node has written: on a network file system they can appear late.

NFS clients remember for up to a minute that a name was not there, and what a directory held; Lustre and others have
caches of their own. On a disk of this machine what is missing is missing, and nobody waits.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tmrc.config.rundir import RunDir, read_jsonl
from tmrc.train.failures import warn

PATIENCE = 30.0  # seconds until what is missing is taken for lost
SAY_AFTER = 2.0
_LOOK_EVERY = 0.25
_LOCAL = {
    "bcachefs", "btrfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "ramfs", "squashfs",
    "tmpfs", "vfat", "xfs", "zfs",
}  # fmt: skip
_MOUNTS = Path("/proc/self/mountinfo")


class Patience:
    """Time to wait for what should be in the directory `path`: `while missing and patience.lasts(missing): look`."""

    def __init__(self, path: Path) -> None:
        self._ends = time.monotonic() + (PATIENCE if can_be_late(path) else 0.0)
        self._says = time.monotonic() + SAY_AFTER

    def lasts(self, missing: str) -> bool:
        """Wait a moment for `missing`; False when that has been done for long enough."""
        now = time.monotonic()
        if now >= self._ends:
            return False
        if now >= self._says:
            self._says = self._ends
            warn(f"{missing}: files can appear late on a network file system; waits {PATIENCE:g} seconds in all")
        time.sleep(_LOOK_EVERY)
        return True


def expected_step(run: RunDir) -> int | None:
    """The step of the newest checkpoint by events.jsonl; None when it names none, or one that has been set aside."""
    told = ("checkpoint", "resumed", "started")
    rows = [row for row in read_jsonl(run.events) if row.get("event") in told]
    step = rows[-1].get("step") if rows and rows[-1]["event"] != "started" else None
    if not isinstance(step, int) or not 0 <= step < 10**15:
        return None
    return None if any(run.checkpoints.glob(f"damaged_step_{step:08d}*")) else step


def can_be_late(path: Path) -> bool:
    """Whether what another node has written to `path` may be seen late here: on all but the disks of this machine."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        return _kind_of_mount(path.resolve()) not in _LOCAL
    except OSError:
        return True


def _kind_of_mount(path: Path) -> str:
    """The type of the file system that `path` is on; of several mounts at one place the last one counts."""
    found, kind = Path("/"), ""
    for line in _MOUNTS.read_text(errors="surrogateescape").splitlines():
        about, _, rest = line.partition(" - ")
        mounted = Path(_unescaped(about.split(" ")[4]))
        if path.is_relative_to(mounted) and mounted.is_relative_to(found):
            found, kind = mounted, rest.split(" ")[0]
    return kind


def _unescaped(text: str) -> str:
    """A path of mountinfo: blanks and backslashes stand there as three octal digits."""
    for code in ("040", "011", "012", "134"):
        text = text.replace(f"\\{code}", chr(int(code, 8)))
    return text
