"""What `tmrc-submit -m` does: a sweep as one Slurm array, or some points at a time on this machine."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from launch.atonce import for_each
from launch.attempts import last_attempt
from launch.cluster import Partition
from launch.forecast import Forecast
from launch.gpus import Resources
from launch.grid import expand
from launch.interrupts import interruptible
from launch.points import Point, Sweep, check_sweep, plan_sweep, read_points, settle
from launch.preflight import Facts
from launch.rundirs import make_durable
from launch.script import Array, batch_script
from launch.signals import hold_back, let_through
from launch.slurm_check import check_script
from launch.sweepfiles import begin, sweep_lock
from tmrc.config.errors import UserError
from tmrc.config.estimate import save_seconds
from tmrc.config.load import find_config
from tmrc.config.rundir import note_event

if TYPE_CHECKING:
    from launch.submit import Request


@dataclass(frozen=True)
class Prepared:
    """A sweep that passed preflight. Nothing of what is to come is on disk yet."""

    sweep: Sweep
    resources: Resources
    facts: Sequence[Facts]  # of the points to run
    array: Array
    parallel: int | None
    script: str | None = None  # None for a sweep on this machine, and where nothing is to run
    partitions: Sequence[Partition] = ()
    start: Forecast | None = None
    notes: tuple[str, ...] = ()


def run_sweep(request: Request) -> int:
    """Do what is asked; returns the exit code. Raises UserError."""
    from launch.multirun_show import say_notes, say_submitted, show_plan

    assert request.source is not None
    grid = expand(request.overrides, find_config(request.source))
    folder, configs = read_points(request.source, grid, request.flags)
    if request.dry_run:
        return show_plan(prepare(plan_sweep(folder, request.source, grid, configs), request, grid.parallel), request)
    with sweep_lock(folder):
        prepared = prepare(plan_sweep(folder, request.source, grid, configs), request, grid.parallel)
        if request.local:
            from launch.multirun_local import run_points

            begin(prepared.sweep, prepared.array, request.command)
            return run_points(prepared, request)

        def tell(job_ids: Sequence[str]) -> None:
            say_submitted(prepared, job_ids, request)
            say_notes(prepared)

        submit_points(prepared, request, tell)
    return 0


def prepare(sweep: Sweep, request: Request, parallel: int | None) -> Prepared:
    """Check all that can be known beforehand; `parallel` is what a named sweep says of it. Raises UserError."""
    parallel = request.parallel or parallel
    if request.local:
        sweep = _share_gpus(sweep, parallel or 1)
    sweep, resources = settle(sweep, request.local)
    points = sweep.to_run
    folder = sweep.folder.submission(sweep.folder.next_submission())
    array = Array(sweep.folder.path.name, len(points), parallel, folder)
    facts = check_sweep(sweep, resources)
    if request.local:
        unused = ("launch.setup is for batch jobs and is not run with --local",)
        notes = unused if sweep.points[0].config.launch.setup else ()
        return Prepared(sweep, resources, facts, array, parallel, notes=notes)
    if not points:
        return Prepared(sweep, resources, facts, array, parallel)
    return _prepare_array(Prepared(sweep, resources, facts, array, parallel), request)


def _share_gpus(sweep: Sweep, parallel: int) -> Sweep:
    """The sweep with so many GPUs for each point that `parallel` of them run at a time. Raises ConfigError."""
    from launch.multirun_local import gpus_per_point

    each = gpus_per_point(sweep.points[0].config, parallel)
    if each is None:
        return sweep
    points = []
    for point in sweep.points:
        launch = dataclasses.replace(point.config.launch, gpus_per_node=each)
        points.append(dataclasses.replace(point, config=dataclasses.replace(point.config, launch=launch)))
    return dataclasses.replace(sweep, points=tuple(points))


def _prepare_array(prepared: Prepared, request: Request) -> Prepared:
    points = prepared.sweep.to_run
    script = batch_script(prepared.array, points[0].config.launch, prepared.resources)
    slowest = max((point.config for point in points), key=lambda config: save_seconds(config) or 0.0)
    said = check_script(script, slowest, prepared.resources, request.dry_run, len(points))
    return dataclasses.replace(prepared, script=script, partitions=said.partitions, start=said.start, notes=said.notes)


def submit_points(prepared: Prepared, request: Request, tell: Callable[[Sequence[str]], None]) -> None:
    """Make what is missing, hand the points to run to Slurm, and `tell` the ids of their jobs.

    Where that is refused or interrupted, all is as it was. Raises UserError with sbatch's own words.
    """
    from launch.job import TrainJob
    from launch.slurm import submit_array

    points, resources = prepared.sweep.to_run, prepared.resources
    if not points:
        tell([])
        return
    assert prepared.script is not None
    with interruptible():
        undo = begin(prepared.sweep, prepared.array, request.command)
        try:
            jobs = [
                TrainJob(str(point.run.path), resources.processes, resources.devices, trainer=request.trainer)
                for point in points
            ]
            job_ids = submit_array(prepared.array.submitit, jobs, prepared.script)
        except BaseException:
            undo()
            raise
        hold_back()  # what is in the queue must be known, to the runs' events and to whoever waits for it
        try:
            for_each(list(zip(points, job_ids, strict=True)), lambda pair: say_submitted_to_slurm(*pair))
            with contextlib.suppress(UserError):  # as above
                make_durable(point.run.events for point in points if point.run.events.exists())
            tell(job_ids)
        finally:
            let_through()


def say_submitted_to_slurm(point: Point, job_id: str) -> None:
    """Leave in the run's events that its job is in the queue."""
    about = {"executor": "slurm", "job_id": job_id, "overrides": list(point.overrides)}
    with contextlib.suppress(OSError):  # the job is in the queue, whatever else fails
        note_event(point.run, "submitted", attempt=last_attempt(point.run) + 1, **about)
