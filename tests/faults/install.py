"""Installs Debian's strace where tests need it: `python -m tests.faults.install`, as root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys


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
    if shutil.which("strace") is None and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for words in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", "strace"]):
            subprocess.run(["apt-get", *words], env=environment, stdout=subprocess.DEVNULL, timeout=600)
    if problem := obstacle():
        print(f"The tests that make system calls fail cannot run: {problem}", file=sys.stderr)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(install())
