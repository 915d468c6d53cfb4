"""Whether a run can be a reference: what is damaged in it must not be blamed on the trials."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from launch.compare.difference import damage_of
from launch.compare.results import MANIFEST, STATE, Results
from launch.drill.course import Course
from launch.facts import integer
from tmrc.config.errors import DataError, UserError


def require_sound(results: Results, course: Course, log_interval: int) -> None:
    """Raise UserError for the first thing in a finished run that does not fit to the rest of it.

    `log_interval` is how many steps can lie between two rows of metrics.
    """
    parts = (_checkpoint(results, course), _metrics(results, course, log_interval), _ledger(results, course))
    problem = next((line for part in parts for line in part), None)
    if problem is not None:
        raise UserError(f"the reference is damaged: {problem}")


def _checkpoint(results: Results, course: Course) -> Iterator[str]:
    """The newest checkpoint: every byte of it, and that it is the one of the last step."""
    newest = results.checkpoint
    if newest is None:
        return
    for difference in damage_of(results):
        yield f"{difference.file}: {difference.field} is not that of the file"
    listed = {*results.listed, MANIFEST}
    for name in sorted(results.digests.keys() - listed):
        yield f"{newest / name}: is not in the manifest"
    if STATE not in results.digests or integer(dict(results.state), "step") != results.step:
        yield f"{newest / STATE}: does not tell of step {results.step}"
    if results.step != course.steps:
        yield f"{newest}: is the newest checkpoint, though the run has finished at step {course.steps}"


def _metrics(results: Results, course: Course, log_interval: int) -> Iterator[str]:
    """Every line a row, the steps in order up to the last one, none left out."""
    file = results.run.metrics
    if not file.is_file():
        yield f"{file}: is missing"
        return
    lines = file.read_bytes().split(b"\n")
    if lines.pop():
        yield f"{file}: its last line is cut off"
    highest = {"loss": 0, "val_loss": -1}
    for number, line in enumerate(lines, 1):
        row = _row(line)
        kind = "val_loss" if "val_loss" in row else "loss"
        step = integer(row, "step")
        if step is None or kind not in row:
            yield f"{file}: line {number} is no row"
        elif not highest[kind] < step <= course.steps:
            yield f"{file}: line {number} has step {step} after step {max(highest[kind], 0)}"
        elif kind == "loss" and step - highest[kind] > log_interval:
            yield f"{file}: line {number} has step {step} after step {highest[kind]}: rows are missing"
        else:
            highest[kind] = step
    if highest["loss"] != course.steps:
        yield f"{file}: ends at step {highest['loss']}, though the run has finished at step {course.steps}"


def _ledger(results: Results, course: Course) -> Iterator[str]:
    """The chain of records, and that it ends as the newest checkpoint says."""
    file, head = results.run.ledger, results.state.get("ledger")
    if results.ledger is None:
        if head:
            yield f"{file}: is missing"
        return
    from tmrc.train.ledger import read_ledger

    try:
        ledger = read_ledger(file)
    except (DataError, OSError) as error:
        yield str(error)
        return
    if broken := ledger.broken():
        yield f"{file}: the record of step {broken[0]} is damaged"
    if ledger.rest or ledger.last != course.steps:
        yield f"{file}: ends at step {ledger.last}, though the run has finished at step {course.steps}"
    if isinstance(head, str) and re.fullmatch("[0-9a-f]+", head) and not ledger.leads_to(course.steps, head):
        yield f"{file}: does not end as {STATE} of the newest checkpoint says"


def _row(line: bytes) -> dict[str, object]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
