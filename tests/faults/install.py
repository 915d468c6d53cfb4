"""Installs Debian's strace where tests need it: `python -m tests.faults.install`, as root."""

from __future__ import annotations

import os
import shutil
import sys

from tests import apt


def obstacle() -> str:
    """Why no system call can be made to fail here, with what would help; empty when that is possible."""
    if not sys.platform.startswith("linux"):
        return "strace needs Linux"
    if shutil.which("strace") is None:
        return "strace not found; install with: python -m tests.faults.install (Debian, as root)"
    if os.geteuid() != 0:
        return "only root may attach strace to a process everywhere; try: sudo make test"
    return ""


def install() -> int:
    """Install what is missing; returns 0 when it is there."""
    if shutil.which("strace") is None:
        apt.install("strace")
    return apt.exit_code("The tests that make system calls fail", obstacle())


if __name__ == "__main__":
    sys.exit(install())
