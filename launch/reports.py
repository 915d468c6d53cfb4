"""What the job on each node leaves for the supervisor: attempts/<n>/node_<k>.json."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from launch.attempts import read_json, write_json

POLL = 0.2  # seconds between looks for a file that a shared filesystem shows late


@dataclass(frozen=True)
class NodeReport:
    """What the job on one node saw of its torchrun.

    `cause` and `kind` say why its ranks could not, `signals` are those that the job there received, `beats` the places
    of its ranks (see launch.hang) when the watchdog with its `hang_timeout` seconds or a neighbour ended them.
    """

    node: int
    host: str
    torchrun_code: int
    cause: str = ""
    kind: str = ""
    killed: str = ""
    ranks: tuple[int, ...] = ()
    signals: tuple[str, ...] = ()
    hung: bool = False
    hang_timeout: float = 0.0
    beats: dict[str, dict[str, Any]] = field(default_factory=dict)


def write_report(attempt: Path, report: NodeReport) -> None:
    """Leave the report, whole or not at all."""
    write_json(_file(attempt, report.node), asdict(report))


def read_reports(attempt: Path, nodes: int, patience: float) -> list[NodeReport]:
    """The reports that there are after up to `patience` seconds for all; a node that was killed leaves none."""
    deadline = time.monotonic() + patience
    while True:
        found = [report for node in range(nodes) if (report := read_json(_file(attempt, node))) is not None]
        if len(found) == nodes or time.monotonic() > deadline:
            return [_report(report) for report in found]
        time.sleep(POLL)


def remove_reports(attempt: Path) -> None:
    """Forget what nodes and ranks have said, before they try again."""
    for file in [*attempt.glob("node_*.json"), *attempt.glob("rank_*")]:
        file.unlink()


def _report(found: dict[str, Any]) -> NodeReport:
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
    return NodeReport(**values)


def _file(attempt: Path, node: int) -> Path:
    return attempt / f"node_{node}.json"
