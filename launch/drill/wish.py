"""What is asked of a drill, and what is said of it in its report."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import platform
import shlex
from dataclasses import dataclass
from typing import Any

from launch.drill.outcome import SUBMIT, Setting
from launch.rundirs import LIBRARIES


@dataclass(frozen=True)
class Wish:
    """What is asked for. `options` are those of tmrc-submit for a job."""

    source: str | None
    overrides: tuple[str, ...]
    faults: tuple[str, ...]
    trials: int
    seed: int
    slurm: bool = False
    reference: str | None = None
    only: int | None = None
    parallel: int = 1
    keep: bool = False
    options: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    submit: str = SUBMIT


def about_drill(wish: Wish, setting: Setting) -> dict[str, Any]:
    """What the drill was, enough to do it again."""
    found = {name: importlib.metadata.version(name) for name in LIBRARIES if _is_installed(name)}
    return {
        "command": shlex.join(wish.command),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": ", ".join(
            [*(f"{name} {number}" for name, number in found.items()), f"Python {platform.python_version()}"]
        ),
        "seed": wish.seed,
        "trials": wish.trials,
        "only": wish.only,
        "faults": list(setting.faults),
        "slurm": wish.slurm,
        "parallel": wish.parallel,
        "overrides": list(wish.overrides),
    }


def _is_installed(name: str) -> bool:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return bool(importlib.metadata.version(name))
    return False
