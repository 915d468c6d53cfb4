"""What trials have in common, and what comes of each."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

from launch.compare.difference import Difference
from launch.compare.results import Results
from launch.drill.course import Course
from launch.drill.scene import Fault
from tmrc.config.schema import Config

SUBMIT = "launch.cli.submit"  # the module of tmrc-submit


@dataclass(frozen=True)
class Setting:
    """What all trials have in common.

    `source` and `overrides` say what is run, in the directory `folder`, with the code in `code`; `options` are those
    of tmrc-submit for a job.
    """

    folder: Path
    source: Path
    overrides: tuple[str, ...]
    code: Path
    config: Config
    reference: Results
    course: Course
    faults: dict[str, Fault]
    options: tuple[str, ...] = ()
    submit: str = SUBMIT
    stopping: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Blow:
    """What one fault has really hit, and when: the `step` that was done, `seconds` after the attempt's beginning."""

    fault: str
    reached: bool  # False: the run was over before the moment came
    moment: str
    step: int
    seconds: float
    said: str


@dataclass(frozen=True)
class Outcome:
    """How a trial ended. `seconds_lost` is what it took more than the reference, `directory` None once deleted."""

    number: int
    blows: tuple[Blow, ...]
    attempts: int
    steps_lost: int
    seconds: float
    seconds_lost: float
    equal: bool
    difference: Difference | None
    trouble: str
    directory: str | None
