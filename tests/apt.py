"""Debian's packages, which some tests need. Runs before there is an environment: the standard library only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

PATIENCE = 900.0  # seconds, of each of the two calls of apt-get


def usable() -> bool:
    """Whether this is Debian or its like, and we may install packages."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(*packages: str) -> None:
    """Try to install `packages`, where that is possible. apt-get itself tells what fails."""
    if not usable():
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *packages]):
        subprocess.run(["apt-get", *words], env=environment, stdout=subprocess.DEVNULL, timeout=PATIENCE)


def exit_code(tests: str, problem: str) -> int:
    """0 where there is no problem; else says which tests cannot run and why, and returns 1."""
    if problem:
        print(f"{tests} cannot run: {problem}", file=sys.stderr)
    return 1 if problem else 0
