"""A job's settings against what the cluster says it has. A question that is not answered refuses nothing."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass

from launch.gpus import Resources
from tmrc.config.errors import ConfigError, nearest, shown
from tmrc.config.schema import LaunchConfig

WARNING_SECONDS = 120  # how long before the time limit Slurm asks the job to save
_FORMAT = "%P|%l|%D|%G"


@dataclass(frozen=True)
class Partition:
    """One partition: longest job in seconds (None: no limit), nodes, and GPUs on its best node."""

    name: str
    default: bool
    limit: int | None
    nodes: int
    gpus: int


def check_cluster(launch: LaunchConfig, resources: Resources) -> None:
    """Raise ConfigError when no partition asked for can ever start the job."""
    if launch.time is not None and seconds(launch.time) <= 2 * WARNING_SECONDS:
        raise ConfigError(
            f"launch.time: got {launch.time!r}, valid: more than {2 * WARNING_SECONDS // 60} minutes, since the job is "
            f"asked to save {WARNING_SECONDS} seconds before the end"
        )
    known = partitions()
    if not known:
        return
    names = launch.partition.split(",") if launch.partition else [name for name in known if known[name].default]
    for name in names:
        if name not in known:
            raise ConfigError(f"launch.partition: got {shown(name)}, valid: {', '.join(known)}{nearest(name, known)}")
    refusals = [refusal for name in names if (refusal := _refusal(known[name], launch, resources))]
    if refusals and len(refusals) == len(names):
        raise ConfigError(refusals[0])


def _refusal(partition: Partition, launch: LaunchConfig, resources: Resources) -> str | None:
    if launch.time is not None and partition.limit is not None and seconds(launch.time) > partition.limit:
        return (
            f"launch.time: got {launch.time!r}, valid: at most {clock(partition.limit)} in partition {partition.name}"
        )
    if resources.gpus > partition.gpus:
        return (
            f"launch.gpus_per_node: got {resources.gpus}, valid: at most {partition.gpus}, what a node of partition "
            f"{partition.name} has"
        )
    if launch.nodes > partition.nodes:
        return f"launch.nodes: got {launch.nodes}, valid: at most {partition.nodes}, the nodes of {partition.name}"
    return None


def partitions() -> dict[str, Partition]:
    """What sinfo says; empty where it does not answer."""
    try:
        asked = subprocess.run(["sinfo", "-h", "-o", _FORMAT], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    found: dict[str, Partition] = {}
    for line in asked.stdout.splitlines():
        fields = line.split("|")
        if len(fields) == 4 and fields[2].isdigit():
            one = _partition(*fields)
            before = found.get(one.name)
            if before is not None:  # sinfo has a line for each kind of node
                one = Partition(one.name, one.default, one.limit, one.nodes + before.nodes, max(one.gpus, before.gpus))
            found[one.name] = one
    return found


def _partition(name: str, limit: str, nodes: str, gres: str) -> Partition:
    gpus = sum(int(count) for count in re.findall(r"gpu(?::[^:(),]+)*?:(\d+)", gres))
    longest = seconds(limit) if re.fullmatch(r"[\d:-]+", limit) else None
    return Partition(name.removesuffix("*"), name.endswith("*"), longest, int(nodes), gpus)


def seconds(time: str) -> int:
    """Seconds in a Slurm time: minutes, m:s, h:m:s, d-h, d-h:m or d-h:m:s."""
    days, dash, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes, secs = (*parts, 0, 0)[:3]
    elif len(parts) == 3:
        hours, minutes, secs = parts
    else:
        hours, minutes, secs = (0, *parts, 0)[:3]
    return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + secs


def clock(total: int) -> str:
    """Seconds as Slurm writes them: `1-00:30:00`."""
    days, rest = divmod(total, 86400)
    return f"{f'{days}-' if days else ''}{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
