"""Whole processes, timed from start to end, on both sides with the same Python and the same environment."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.harness import ROOT, timed


def environment(scratch: Path, **more: str) -> dict[str, str]:
    """That of this process, with compiled modules kept in `scratch`, as a user has them from the second command on."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**kept, "PYTHONPYCACHEPREFIX": str(scratch / "pycache"), "PYTHONPATH": paths, **more}


def process(
    arguments: Sequence[str], env: Mapping[str, str], after: Callable[[], object] | None = None
) -> Callable[[], float]:
    """A measurement of `python ARGUMENTS`, which must succeed; `after` undoes it and does not count."""

    def start() -> None:
        done = subprocess.run([sys.executable, *arguments], env=env, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments)}: exit code {done.returncode}: {done.stderr[-2000:]}")

    return timed(start, after)


def with_processor(measurement: Callable[[], float], found: list[float]) -> Callable[[], float]:
    """The same measurement, which leaves in `found` what its processes computed: other work does not change that."""

    def start() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = measurement()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return seconds

    return start
