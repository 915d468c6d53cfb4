"""Whether the kernel has killed processes of ours for want of memory, as this process's control group counts it."""

from __future__ import annotations

import re
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


def out_of_memory_kills() -> int:
    """How often so far; 0 where nothing counts it. Linux, control groups of version 1 and 2."""
    try:
        groups = Path("/proc/self/cgroup").read_text("utf8").splitlines()
    except OSError:
        return 0
    return sum(_kills(file) for line in groups if (file := _counter(*line.split(":", 2))) is not None)


def _counter(_number: str, controllers: str, group: str) -> Path | None:
    below = group.lstrip("/")
    if controllers == "":
        return _ROOT / below / "memory.events"
    return _ROOT / "memory" / below / "memory.oom_control" if "memory" in controllers.split(",") else None


def _kills(file: Path) -> int:
    try:
        found = re.search(r"^oom_kill (\d+)", file.read_text("utf8"), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0
