"""A sweep from the overrides that were typed to its points: what is there already, what is to run, and their check."""

from __future__ import annotations

import dataclasses
import datetime
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.cluster import Partition, time_limit
from launch.gpus import Resources, local_resources, slurm_resources
from launch.grid import Grid
from launch.identity import identity_of, sweep_id
from launch.orphans import adopt
from launch.plaintext import one_line
from launch.preflight import Facts, check_run_path, preflight_points
from launch.rundirs import name_of
from launch.settings import load_points
from launch.standing import ACTIVE
from launch.status import statuses
from launch.sweepdir import PointRecord, SweepDir, SweepRecord, read_sweep
from tmrc.config.errors import ConfigError, UserError
from tmrc.config.load import find_config
from tmrc.config.rundir import RunDir
from tmrc.config.schema import Config
from tmrc.config.yaml_file import read_yaml_mapping

NEW = "new"  # state of a point that has no run yet


@dataclass(frozen=True)
class Point:
    """One point: its own overrides, what it computes, and its run, which is there unless `state` is NEW."""

    overrides: tuple[str, ...]
    config: Config
    record: PointRecord
    run: RunDir
    state: str

    @property
    def name(self) -> str:
        """What sets it apart, for people."""
        return one_line(" ".join(self.overrides))

    @property
    def to_run(self) -> bool:
        """Whether it is missing or has ended before it was finished."""
        return self.state != "finished" and self.state not in ACTIVE


@dataclass(frozen=True)
class Sweep:
    """A sweep whose points are known. Nothing of what is to come is on disk yet."""

    folder: SweepDir
    record: SweepRecord
    points: tuple[Point, ...]

    @property
    def to_run(self) -> tuple[Point, ...]:
        """The points that are missing or failed."""
        return tuple(point for point in self.points if point.to_run)

    def counts(self) -> Counter[str]:
        """State -> points."""
        return Counter(point.state for point in self.points)


def read_points(source: str, grid: Grid, flags: Mapping[str, Any]) -> tuple[SweepDir, list[Config]]:
    """The sweep's directory, and the configuration of each point of `grid`. Raises ConfigError that names the point."""
    for key in grid.swept:
        plain = key.lstrip("+")
        if plain == "launch" or plain.startswith("launch."):
            raise ConfigError(
                f"{plain}: cannot be swept, since the points of a sweep are one array with one set of resources"
            )
        if plain == "training.artifacts_path":
            raise ConfigError(f"{plain}: cannot be swept, since the points of a sweep have one directory")
    configs = load_points(source, grid.fixed, grid.points, flags)
    values = read_yaml_mapping(find_config(source))
    name = sweep_id(name_of(configs[0], source), values, grid.fixed, (key.lstrip("+") for key in grid.swept))
    folder = SweepDir(Path(configs[0].training.artifacts_path) / name)
    check_run_path(folder.path)
    return folder, configs


def plan_sweep(folder: SweepDir, source: str, grid: Grid, configs: Sequence[Config]) -> Sweep:
    """Which points are there already, and how they stand. Raises UserError where that cannot be known."""
    there = read_sweep(folder)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    record = there or SweepRecord(folder.path.name, str(source), grid.fixed, grid.swept, now)
    known = {point.identity: point for point in record.points if folder.run(point.run_id).path.is_dir()}
    runs = [folder.run(point.run_id) for point in known.values()]
    states = _states(runs)
    if adopt(folder, (run_id for run_id, state in states.items() if state in ("created", "lost"))):
        states = _states(runs)
    points, number = {}, len(record.points)
    for own, config in zip(grid.points, configs, strict=True):
        identity = identity_of(config, own)
        if identity in points:
            continue
        number += identity not in known
        run_id = f"{folder.path.name}-{number:03}-{os.urandom(2).hex()}"
        point = known.get(identity) or PointRecord(run_id, identity, own)
        points[identity] = Point(own, config, point, folder.run(point.run_id), states.get(point.run_id, NEW))
    return Sweep(folder, record, tuple(points.values()))


def settle(sweep: Sweep, local: bool) -> tuple[Sweep, Resources]:
    """The sweep with what its points share on their nodes, and that. Raises ConfigError where they would differ."""
    of = {point.name: (local_resources if local else slurm_resources)(point.config) for point in sweep.points}
    warning = max(resources.warning for resources in of.values())
    first = next(iter(of.values()))
    for name, resources in of.items():
        if dataclasses.replace(resources, warning=first.warning) != first:
            raise ConfigError(
                f"point {name}: asks for {resources.gpus} GPUs and {resources.processes} processes a node and the "
                f"first point for {first.gpus} and {first.processes}; the points of a sweep are one array"
            )
    points = (dataclasses.replace(point, config=_shared(point.config, sweep, warning)) for point in sweep.points)
    return dataclasses.replace(sweep, points=tuple(points)), dataclasses.replace(first, warning=warning)


def check_sweep(sweep: Sweep, resources: Resources) -> list[Facts]:
    """Check every point that is to run, before anything is written. Raises UserError, which names the point."""
    points = [(point.name, point.config, None if point.state == NEW else point.run) for point in sweep.to_run]
    return preflight_points(points, resources, sweep.folder.path)


def hours(config: Config, resources: Resources, partitions: Sequence[Partition]) -> float | None:
    """Hours for which a point may have its nodes; None where neither the job nor its partition has a limit."""
    limits = [one.default_time or one.limit for one in partitions]
    asked = time_limit(config.launch) or next((limit for limit in limits if limit), None)
    return None if asked is None else asked / 3600


def _shared(config: Config, sweep: Sweep, warning: int) -> Config:
    """The array has one warning for all, and the points are a group in wandb."""
    launch = dataclasses.replace(config.launch, warning=warning)
    group = config.wandb_log.group or sweep.folder.path.name
    return dataclasses.replace(config, launch=launch, wandb_log=dataclasses.replace(config.wandb_log, group=group))


def _states(runs: Sequence[RunDir]) -> dict[str, str]:
    """Run id -> state. Raises UserError where Slurm does not say whether a run is still in its queue."""
    found, problem = statuses(runs)
    for one in found:
        if problem and not one.sure:
            raise UserError(f"{one.run_dir}: cannot tell whether job {one.job_id} still runs: {problem}")
    return {one.run_id: one.state for one in found}
