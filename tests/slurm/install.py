"""Installs Debian's Slurm packages where tests need them: `python -m tests.slurm.install`, as root.

No service is started, not even for a moment: policy-rc.d forbids it while apt works, and is put back as it was.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import apt

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "slurmdbd", "mariadb-server-core")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "slurmdbd", "mariadbd")
POLICY = Path("/usr/sbin/policy-rc.d")
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def missing() -> list[str]:
    """Programs that a private cluster needs and that are not there."""
    path = f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"
    return [program for program in PROGRAMS if shutil.which(program, path=path) is None]


def obstacle() -> str:
    """Why no private cluster can be started here, with what would help; empty when one can be."""
    if not sys.platform.startswith("linux"):
        return "a private Slurm cluster needs Linux"
    if os.geteuid() != 0:
        return "a private Slurm cluster needs root (its nodes have namespaces of their own); try: sudo make test"
    if absent := missing():
        return f"{', '.join(absent)} not found; install with: python -m tests.slurm.install (Debian, as root)"
    return ""


def install() -> int:
    """Install what is missing; returns 0 when a cluster can be started."""
    if missing() and apt.usable():
        with no_services():
            apt.install(*PACKAGES)
    return apt.exit_code("The tests on a private Slurm cluster", obstacle())


@contextmanager
def no_services() -> Iterator[None]:
    """Within it, packages that are installed start no service."""
    before = (POLICY.read_bytes(), POLICY.stat().st_mode) if POLICY.exists() else None
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        if before is None:
            POLICY.unlink()
        else:
            POLICY.write_bytes(before[0])
            POLICY.chmod(before[1])


if __name__ == "__main__":
    sys.exit(install())
