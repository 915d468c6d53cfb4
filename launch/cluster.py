"""A job's settings against what the cluster says it has. A question that is not answered refuses nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from launch.commands import SilentError, ask
from launch.gpus import Resources
from launch.plaintext import harmless, one_line
from launch.times import clock, duration
from tmrc.config.errors import ConfigError, nearest, shown
from tmrc.config.schema import LaunchConfig

PATIENCE = 5.0  # seconds for sinfo; a controller that is down keeps it for ten
_FORMAT = "%P|%l|%L|%F|%G|%c|%m"
_LINE = re.compile(r"([^|]+)\|([^|]*)\|([^|]*)\|\d+/\d+/(\d+)/(\d+)\|([^|]*)\|(\d+)\+?\|(\d+)\+?")
MOST_NAMES = 30  # of partitions in a message
_MEGABYTES = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}


@dataclass(frozen=True)
class NodeKind:
    """Nodes of a partition that are alike. Memory in MB, as Slurm counts."""

    count: int
    gpus: int
    cpus: int
    memory: int


@dataclass(frozen=True)
class Partition:
    """One partition: seconds that a job may last and lasts by default (None: unlimited, unsaid), and its nodes."""

    name: str
    default: bool
    limit: int | None
    default_time: int | None
    kinds: tuple[NodeKind, ...]
    out: int = 0  # nodes that run nothing now: down, drained


@dataclass(frozen=True)
class Cluster:
    """What sinfo says. No partitions where it did not answer; `silence` is its word for why."""

    partitions: dict[str, Partition]
    silence: str = ""


def ask_cluster() -> Cluster:
    """One sinfo call. It never raises: where there is no answer there is nothing to check against."""
    command = ["sinfo", "-h", "-a", "-e", "-o", _FORMAT]  # hidden partitions too; alike nodes together
    try:
        asked = ask(*command, patience=PATIENCE, aloud=True)
    except SilentError as error:
        return Cluster({}, str(error))
    if asked.returncode:
        return Cluster({}, one_line(asked.stderr)[:300] or "sinfo failed without a word")
    return Cluster(_partitions(harmless(asked.stdout)))


def chosen(launch: LaunchConfig, cluster: Cluster) -> list[Partition]:
    """The partitions that the job asks for, or the default one. Raises ConfigError for one that does not exist."""
    known = cluster.partitions
    wanted = launch.partition or os.environ.get("SBATCH_PARTITION")
    names = wanted.split(",") if wanted else [name for name in known if known[name].default]
    for name in names:
        if name not in known:
            key = "launch.partition" if launch.partition else "SBATCH_PARTITION"
            there = [*list(known)[:MOST_NAMES], *["..."] * (len(known) > MOST_NAMES)]
            raise ConfigError(f"{key}: got {shown(name)}, valid: {', '.join(there)}{nearest(name, known)}")
    return [known[name] for name in names]


def check_fits(launch: LaunchConfig, resources: Resources, partitions: Sequence[Partition], save: float) -> None:
    """Raise ConfigError when no partition asked for can ever start the job, or the job could never save.

    `save` is how many seconds a checkpoint may take.
    """
    refusals = [refusal for one in partitions if (refusal := _refusal(one, launch, resources, save))]
    if refusals and len(refusals) == len(partitions):
        raise ConfigError(refusals[0])


def _refusal(partition: Partition, launch: LaunchConfig, resources: Resources, save: float) -> str | None:
    limit, asked = partition.limit, time_limit(launch)
    if asked is not None and limit is not None and asked > limit:
        return f"{_time_given(launch)}, valid: at most {clock(limit)} in partition {partition.name}"
    if asked is None and (given := partition.default_time or limit) is not None:
        least = least_time(resources, save)
        if given <= least:
            return (
                f"launch.time: not given, which means {clock(given)} in partition {partition.name}; valid: more than "
                f"{clock(least)}, the {resources.warning} seconds of launch.warning and what a checkpoint may take"
            )
    return _nodes_refusal(partition, launch, resources)


def _nodes_refusal(partition: Partition, launch: LaunchConfig, resources: Resources) -> str | None:
    wanted = {
        "gpus_per_node": (resources.gpus, str(resources.gpus)),
        "cpus_per_task": (launch.cpus_per_task or 0, str(launch.cpus_per_task)),
        "mem": (megabytes(launch.mem) if launch.mem else 0, repr(launch.mem)),
    }
    for key, (amount, given) in wanted.items():
        most = max((_has(kind, key) for kind in partition.kinds), default=0)
        if amount > most:
            valid = f"{most}M" if key == "mem" else most
            return f"launch.{key}: got {given}, valid: at most {valid}, what a node of partition {partition.name} has"
    fitting = [kind for kind in partition.kinds if all(_has(kind, key) >= wanted[key][0] for key in wanted)]
    most = sum(kind.count for kind in fitting)
    if launch.nodes > most:
        everything = most == sum(kind.count for kind in partition.kinds)
        which = "" if everything else f" that have {_words(resources.gpus, launch)}"
        return (
            f"launch.nodes: got {launch.nodes}, valid: at most {most}, the nodes of partition {partition.name}{which}"
        )
    return None


def _has(kind: NodeKind, key: str) -> int:
    return {"gpus_per_node": kind.gpus, "cpus_per_task": kind.cpus, "mem": kind.memory}[key]


def _words(gpus: int, launch: LaunchConfig) -> str:
    """What a node must have, for people."""
    parts = [f"{gpus} GPU{'s' * (gpus != 1)}"] if gpus else []
    parts += [f"{launch.cpus_per_task} cores"] if launch.cpus_per_task else []
    parts += [launch.mem] if launch.mem else []
    return " and ".join(parts)


def check_tasks(tasks: int) -> None:
    """Raise ConfigError for an array of more tasks than the cluster takes."""
    try:
        said = ask("scontrol", "show", "config", patience=PATIENCE, aloud=True).stdout
    except SilentError:
        return
    if (match := re.search(r"^MaxArraySize\s*=\s*(\d+)$", said, re.MULTILINE)) and tasks > int(match[1]):
        raise ConfigError(f"-m: the sweep has {tasks} points to run, valid: at most {match[1]}, the tasks of one array")


def check_times(launch: LaunchConfig, resources: Resources, save: float) -> None:
    """Raise ConfigError when a job that runs out of time could not save: too little warning, or too short a job."""
    if resources.warning < save:
        raise ConfigError(
            f"launch.warning: got {resources.warning}, valid: auto or at least {round(save + 0.5)}, the seconds that a "
            "checkpoint may take"
        )
    asked, least = time_limit(launch), least_time(resources, save)
    if asked is not None and asked <= least:
        raise ConfigError(
            f"{_time_given(launch)}, valid: more than {clock(least)}, the {resources.warning} seconds of "
            "launch.warning and what a checkpoint may take"
        )


def time_limit(launch: LaunchConfig) -> int | None:
    """The seconds that the job asks for; None when it takes the partition's default."""
    return duration(launch.time or os.environ.get("SBATCH_TIMELIMIT", ""))


def _time_given(launch: LaunchConfig) -> str:
    """Where the time limit comes from, and what it is there."""
    if launch.time is not None:
        return f"launch.time: got {launch.time!r}"
    return f"SBATCH_TIMELIMIT: got {shown(os.environ['SBATCH_TIMELIMIT'])}"


def least_time(resources: Resources, save: float) -> int:
    """The seconds of a job that has time to start, is warned and saves; `save` has a margin of half a minute."""
    return resources.warning + round(save + 0.5)


def _partitions(text: str) -> dict[str, Partition]:
    found: dict[str, Partition] = {}
    for line in text.splitlines():
        if match := _LINE.fullmatch(line):
            one = _partition(*match.groups())
            if before := found.get(one.name):  # sinfo has a line for each kind of node
                one = replace(one, kinds=before.kinds + one.kinds, out=before.out + one.out)
            found[one.name] = one
    return found


def _partition(name: str, limit: str, default: str, out: str, count: str, gres: str, *sizes: str) -> Partition:
    gpus = sum(int(number) for number in re.findall(r"gpu(?::[^:(),]+)*?:(\d+)", gres))
    cpus, memory = map(int, sizes)
    kinds = (NodeKind(int(count), gpus, cpus, memory),)
    return Partition(name.removesuffix("*"), name.endswith("*"), duration(limit), duration(default), kinds, int(out))


def megabytes(memory: str) -> int:
    """MB in what `--mem` takes: a number, of MB without a letter."""
    letter = memory[-1].upper()
    return round(int(memory[:-1]) * _MEGABYTES[letter]) if letter in _MEGABYTES else int(memory)
