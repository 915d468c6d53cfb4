"""What a node is, as far as compiled code is concerned, and where on it such code may lie."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import stat
from collections.abc import Mapping
from pathlib import Path

from launch.trust import NOT_OTHERS

ROOM = 2**30  # bytes that must be free for it


def kind_of_node() -> str:
    """A name for nodes on which the same compiled code runs: same torch, same Python, same CPU and GPUs."""
    try:
        torch = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        torch = ""
    facts = [torch, platform.python_version(), platform.machine(), platform.libc_ver(), _cpu(), _gpus()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def local_place(environ: Mapping[str, str]) -> Path | None:
    """A directory of this node in which to make one for compiled code, if there is any.

    It has room, its file system lets code be executed, and others cannot put theirs in the place of what is made there.
    """
    for name in (environ.get("TMPDIR", ""), "/tmp", "/var/tmp"):
        folder = Path(name)
        with contextlib.suppress(OSError):
            status, system = folder.stat(), os.statvfs(folder)
            safe = folder.is_absolute() and folder.is_dir() and status.st_uid in (0, os.geteuid())
            safe = safe and not any(map(_is_open_to_others, (folder, *folder.resolve().parents)))
            fits = not system.f_flag & os.ST_NOEXEC and system.f_bavail * system.f_frsize >= ROOM
            if safe and fits and os.access(folder, os.W_OK):
                return folder
    return None


def _is_open_to_others(folder: Path) -> bool:
    """Whether others can put something of theirs in the place of what is in `folder`."""
    mode = folder.stat().st_mode
    return bool(mode & NOT_OTHERS and not mode & stat.S_ISVTX)


def _cpu() -> list[str]:
    """Which CPU this is and what it can do: torch lets the compiler use all of it."""
    names = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    with contextlib.suppress(OSError):
        first = Path("/proc/cpuinfo").read_text("utf8", "replace").partition("\n\n")[0]
        return [line for line in first.splitlines() if line.partition(":")[0].strip() in names]
    return []


def _gpus() -> list[str]:
    """The models of NVIDIA's GPUs on this node. Torch's own keys tell those apart that do not show here."""
    found = set()
    for file in Path("/proc/driver/nvidia/gpus").glob("*/information"):
        with contextlib.suppress(OSError):
            found |= {line for line in file.read_text("utf8", "replace").splitlines() if line.startswith("Model")}
    return sorted(found)
