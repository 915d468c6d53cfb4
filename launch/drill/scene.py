"""What a fault gets to see and to use, and the registry of faults."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from launch.drill.processes import Process, living
from launch.drill.watch import Watcher
from tmrc.config.rundir import RunDir
from tmrc.config.schema import Config


class Trouble(Exception):
    """A run has not done what it must: one line that says what."""


@dataclass
class Scene:
    """A trial at the moment at which a fault hits.

    `after` is done once the attempt has ended, `options` are overrides for the attempt that comes next, `said` tells
    what was hit. `submit` calls `tmrc-submit` with the given arguments and waits for its end.
    """

    folder: Path
    watcher: Watcher
    config: Config
    random: Random
    submit: Callable[..., subprocess.CompletedProcess[str]]
    slurm: SlurmSide | None = None
    after: list[Callable[[], None]] = field(default_factory=list)
    options: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    @property
    def run(self) -> RunDir | None:
        """The run; None before it has a directory."""
        return self.watcher.run

    def processes(self, *roles: str) -> list[Process]:
        """The trial's processes on this machine, of some roles or all, in the order of their ids."""
        found = sorted(living(self.folder), key=lambda process: process.pid)
        return [process for process in found if not roles or process.role in roles]

    def one(self, *roles: str) -> Process | None:
        """One process at random: each role is as likely as any other, however many have it. None where there is none.

        What the run has started besides (`other`) is chosen only where it is asked for.
        """
        found = [process for process in self.processes(*roles) if roles or process.role != "other"]
        kinds = sorted({process.role for process in found})
        if not kinds:
            return None
        kind = self.random.choice(kinds)
        return self.random.choice([process for process in found if process.role == kind])

    def say(self, what: str) -> None:
        """Note what was done, for the report."""
        self.said.append(what)


@dataclass(frozen=True)
class SlurmSide:
    """The job of a trial on Slurm. `call` runs a command of Slurm's and returns its complaint, or nothing."""

    job_id: str
    call: Callable[..., str]


Strike = Callable[[Scene], None]


@dataclass(frozen=True)
class Fault:
    """A way to disturb a run: on this machine, on Slurm, or both (`where`)."""

    name: str
    help: str
    where: tuple[str, ...]
    strike: Strike


FAULTS: dict[str, Fault] = {}


def fault(name: str, *where: str) -> Callable[[Strike], Strike]:
    """Register a function as the fault `name`, for "local", "slurm" or both; its docstring is its help."""

    def register(strike: Strike) -> Strike:
        FAULTS[name if "local" in where else f"slurm:{name}"] = Fault(
            name, (strike.__doc__ or "").split("\n")[0], where, strike
        )
        return strike

    return register


def faults_of(where: str) -> Mapping[str, Fault]:
    """Name -> fault, of those that can be had there."""
    return {one.name: one for one in FAULTS.values() if where in one.where}
