"""What `tmrc-submit -m` prints: the plan of a sweep, and what was submitted."""

from __future__ import annotations

import json
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from launch.multirun import Prepared
from launch.plaintext import harmless
from launch.plan import make_plan
from launch.points import NEW, Point, hours
from launch.progress import amount
from launch.standing import ACTIVE
from launch.times import clock
from launch.words import typed_command
from tmrc.config.errors import shortened

if TYPE_CHECKING:
    from launch.submit import Request


def show_plan(prepared: Prepared, request: Request) -> int:
    """The points, what they cost together, and the script; nothing is written."""
    say_notes(prepared)
    plans = [
        make_plan(point.config, prepared.resources, facts)
        for point, facts in zip(prepared.sweep.to_run, prepared.facts, strict=True)
    ]
    cost = _cost(prepared, request.local)
    if request.as_json:
        jobs = [_object(point, None) for point in prepared.sweep.to_run]
        for job, plan in zip(jobs, plans, strict=True):
            job["plan"] = plan
        start = prepared.start.start if prepared.start else None
        _print_json({**_about(prepared, jobs), **cost, "start_estimate": start, "script": prepared.script})
        return 0
    print(f"{'sweep':9}{prepared.sweep.folder.path}")
    print(f"{'points':9}{_counted(prepared.sweep.counts())}")
    print("\n".join(_point_lines(prepared.sweep.points, plans)))
    if prepared.sweep.to_run:
        print(f"{'asked':9}{_cost_words(prepared, cost)}")
    if prepared.start:
        print(f"{'start':9}{prepared.start.shown()}")
    if prepared.script is not None:
        print(f"\n{prepared.script}", end="")
    return 0


def say_submitted(prepared: Prepared, job_ids: Sequence[str], request: Request) -> None:
    """What is in Slurm's queue now."""
    sweep = prepared.sweep
    if request.as_json:
        jobs = [_object(point, job_id) for point, job_id in zip(sweep.to_run, job_ids, strict=True)]
        _print_json(_about(prepared, jobs))
        return
    others = Counter(point.state for point in sweep.points if not point.to_run)
    if job_ids:
        at_once = f", {prepared.parallel} at a time" if prepared.parallel else ""
        array = job_ids[0].partition("_")[0]
        print(f"submitted array {array}: {_points(len(job_ids))}{at_once}")
    else:
        print("nothing to submit")
    if others:
        print(f"{'left':9}{_counted(others)}")
    print(f"{'sweep':9}{sweep.folder.path}")
    print(f"{'next':9}{typed_command('tmrc')} status {shlex.quote(str(sweep.folder.path))}")


def say_notes(prepared: Prepared) -> None:
    """What is no reason to refuse, each thing once."""
    warnings = dict.fromkeys(warning for facts in prepared.facts for warning in facts.warnings)
    for line in [*(f"warning: {warning}" for warning in warnings), *(f"note: {note}" for note in prepared.notes)]:
        print(shortened(harmless(line)), file=sys.stderr, flush=True)


def about_points(prepared: Prepared, job_ids: Sequence[str | None]) -> dict[str, Any]:
    """The sweep and its points for `--json`."""
    points = prepared.sweep.to_run
    return _about(prepared, [_object(point, job_id) for point, job_id in zip(points, job_ids, strict=True)])


def _about(prepared: Prepared, jobs: list[dict[str, Any]]) -> dict[str, Any]:
    sweep = prepared.sweep
    others = [{**_object(point, None), "state": point.state} for point in sweep.points if not point.to_run]
    for other in others:
        del other["job_id"]
    about = {"sweep_id": sweep.folder.path.name, "sweep_dir": str(sweep.folder.path)}
    return {**about, "jobs": jobs, "left": others}


def _object(point: Point, job_id: str | None) -> dict[str, Any]:
    about = {"job_id": job_id, "run_id": point.run.path.name, "run_dir": str(point.run.path)}
    return {**about, "overrides": list(point.overrides)}


def _cost(prepared: Prepared, local: bool) -> dict[str, Any]:
    """What the points ask for together; None where nobody limits their time, or it is not known."""
    points = prepared.sweep.to_run
    each = None if local or not points else hours(points[0].config, prepared.resources, prepared.partitions)
    nodes = points[0].config.launch.nodes if points else 0
    node_hours = None if each is None else each * nodes * len(points)
    gpu_hours = None if node_hours is None else node_hours * prepared.resources.gpus
    return {"hours_each": each, "node_hours": node_hours, "gpu_hours": gpu_hours, "parallel": prepared.parallel}


def _cost_words(prepared: Prepared, cost: dict[str, Any]) -> str:
    """`96 GPU-hours: 12 points x 4 GPUs x 2:00:00, 8 at a time`, and what else is to be known."""
    points, gpus = prepared.sweep.to_run, prepared.resources.gpus
    nodes = points[0].config.launch.nodes
    at_once = f", {prepared.parallel} at a time" if prepared.parallel else ""
    if prepared.script is None:
        return f"{_points(len(points))}{at_once or ', one at a time'}, on this machine"
    what = (
        f"{gpus * nodes} GPU{'s' * (gpus * nodes != 1)}" if gpus else f"{nodes} node{'s' * (nodes != 1)} without GPUs"
    )
    if cost["hours_each"] is None:
        return f"{_points(len(points))} x {what}, without a time limit that is known{at_once}"
    total = f"{cost['gpu_hours']:,.3g} GPU-hours" if gpus else f"{cost['node_hours']:,.3g} node-hours"
    each = clock(round(cost["hours_each"] * 3600))
    return f"{total}: {_points(len(points))} x {what} x {each}{at_once}; a point that runs out of time asks once more"


def _point_lines(points: Sequence[Point], plans: Sequence[dict[str, Any]]) -> list[str]:
    """A line a point: its number, what sets it apart, what becomes of it, and its size."""
    of = dict(zip((point.record.run_id for point in points if point.to_run), plans, strict=True))
    return [
        f"{number:>7}  {point.name}  ({_fate(point)}{_size(of.get(point.record.run_id))})"
        for number, point in enumerate(points, 1)
    ]


def _fate(point: Point) -> str:
    if point.state == NEW:
        return "to run"
    return f"{point.state}, to run again" if point.to_run else point.state


def _size(plan: dict[str, Any] | None) -> str:
    if plan is None:
        return ""
    parameters = plan["parameters"]
    return f"; {plan['steps']:,} steps" + ("" if parameters is None else f", {amount(parameters)} parameters")


def _counted(states: Counter[str]) -> str:
    """`12: 8 finished, 2 running, 2 new`."""
    words = {"new": "to be made"}
    parts = [f"{count:,} {words.get(state, state)}" for state, count in states.items()]
    active = sum(count for state, count in states.items() if state in ACTIVE)
    return ", ".join(parts) + (f" ({active:,} in the queue or running already)" if active else "")


def _points(count: int) -> str:
    return f"{count:,} point{'s' * (count != 1)}"


def _print_json(values: dict[str, Any]) -> None:
    print(json.dumps(values, ensure_ascii=False))
