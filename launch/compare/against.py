"""Whether a run is equal to another one, bit for bit, in words. No torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.compare.difference import Difference, compare, damage_of
from launch.compare.results import Results, read_results
from tmrc.config.changes import differing
from tmrc.config.errors import UserError, shown
from tmrc.config.rundir import RunDir

_CONFIG = "config"  # of the trainer's state: what was asked for, and nothing that has come of it
_NAMED = 4  # keys that a line names


@dataclass(frozen=True)
class Compared:
    """What the comparison of a run with `other` has found."""

    other: RunDir
    equal: bool
    steps: int  # that the run has done
    conclusion: str  # one line

    def as_object(self) -> dict[str, Any]:
        """The same as JSON holds it."""
        about = {"run_id": self.other.run_id, "run_dir": str(self.other.path), "equal": self.equal}
        return {**about, "steps": self.steps, "conclusion": self.conclusion}


def compared(run: RunDir, other: RunDir) -> Compared:
    """Compare all rows of metrics, the records of the samples, and the newest checkpoints.

    Two runs whose configurations differ are equal where nothing else does. Never raises for what is in their files.
    """
    name = other.run_id if other.run_id != run.run_id else str(other.path)
    try:
        here, there = read_results(run), read_results(other)
    except (UserError, OSError, ValueError, RecursionError, MemoryError) as error:
        return Compared(other, False, 0, f"cannot be compared with {name}: {error}")
    steps = _steps(here)
    if not steps:
        return Compared(other, False, 0, f"cannot be compared with {name}: the run has done no step")
    otherwise = _configured(here.state, there.state)
    if words := _first_difference(here, there):
        return Compared(other, False, steps, f"differs from {name}: {words}{otherwise}")
    return Compared(other, True, steps, f"equal to {name}, bit for bit: {_extent(here, steps)}{otherwise}")


def _extent(here: Results, steps: int) -> str:
    """What is equal, and what there was none of to compare."""
    parts, lacking = [f"{steps:,} step{'s' * (steps != 1)}"], ""
    if here.checkpoint is None:
        lacking = "; neither has a checkpoint"
    else:
        parts.append(f"weights, optimizer state{f' (both of step {here.step:,})' if here.step != steps else ''}")
    if here.ledger is None:
        lacking += "; neither has a record of its samples"
    else:
        parts.append("samples")
    return f"{', '.join(parts)}{lacking}"


def _steps(results: Results) -> int:
    """How many steps a run has done, as far as it has told."""
    numbers = [step for row in results.rows if type(step := row.get("step")) is int]
    return max([*numbers, results.first_record + len(results.ledger or ()) - 1])


def _first_difference(here: Results, there: Results) -> str:
    """Empty where there is none."""
    here, there = _without_config(here), _without_config(there)
    return next(_differences(here, there), "")


def _differences(here: Results, there: Results) -> Iterator[str]:
    for results, where in ((here, ""), (there, " there")):
        for flaw in damage_of(results):
            yield f"{_inside(flaw, results)}{where} is not what its manifest says"
    if found := compare(there, here):
        yield _words(found, here)
    if here.ledger is not None and there.ledger is None:  # that the run lacks something has been found
        yield "there is no ledger.bin there"
    if here.checkpoint is not None and there.checkpoint is None:
        yield "there is no checkpoint there"


def _words(found: Difference, here: Results) -> str:
    """A difference for a line: where, what it is, and what it is in the other run."""
    file = _inside(found, here)
    at = f"step {found.step:,}: " if found.step is not None else ""
    values = f" is {shown(found.found)}, there {shown(found.expected)}"
    if found.field in ("is missing", "holds no checkpoint"):
        return f"it has no {'checkpoint' if found.field.startswith('holds') else file}"
    if found.expected is found.found is None:
        return f"{at}{file}: {found.field}"
    if found.field == "rows":
        return f"it has {found.found:,} rows in {file}, there {found.expected:,}"
    if found.field == "steps":
        return f"it has records of {found.found:,} steps in {file}, there {found.expected:,}"
    if found.field == "newest":
        return f"its newest checkpoint is {found.found}, there {found.expected}"
    if isinstance(found.found, tuple) and isinstance(found.expected, tuple):  # step and kind of two rows
        if found.field.endswith("twice"):
            return f"{at}{found.field} in {file}"
        return f"{file} goes on with the {_row(found.found)}, there with the {_row(found.expected)}"
    if found.field == "samples":
        return f"{at}it used other samples, or other tokens of them ({file})"
    return f"{at}{found.field} in {file}{values}"


def _row(key: tuple[object, ...]) -> str:
    return f"{key[1]} row of step {shown(key[0])}"


def _inside(found: Difference, results: Results) -> str:
    """The file as a path within the run."""
    path = Path(found.file)
    return str(path.relative_to(results.run.path)) if path.is_relative_to(results.run.path) else found.file


def _without_config(results: Results) -> Results:
    return dataclasses.replace(results, state={name: value for name, value in results.state.items() if name != _CONFIG})


def _configured(here: Mapping[str, Any], there: Mapping[str, Any]) -> str:
    """The keys of the configuration that differ; empty where none does."""
    own, other = here.get(_CONFIG), there.get(_CONFIG)
    if not isinstance(own, dict) or not isinstance(other, dict) or not (keys := differing(other, own)):
        return ""
    told = [f"{key} is {shown(now, 40)}, there {shown(then, 40)}" for key, (then, now) in keys.items()]
    more = f" and {len(told) - _NAMED:,} more keys" if len(told) > _NAMED else ""
    return f"; configured otherwise: {', '.join(told[:_NAMED])}{more}"
