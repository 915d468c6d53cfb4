"""The directory of a sweep: which points it has, and which run each of them is.

artifacts_path/<sweep_id>/
  sweep.json        what is swept, by which commands, and the points: run id, identity and own overrides of each
  submit.lock       held (flock) by the `tmrc-submit -m` that works on the sweep
  submissions/<n>/  of the n-th submission: code/ as it was, and of its array runs.txt (a run a line) and submitit/
  <run_id>/         an ordinary run directory; its code is a link to that of the submission that made it
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from launch.attempts import write_json
from launch.facts import read_object, word
from tmrc.config.errors import UserError
from tmrc.config.rundir import RunDir
from tmrc.config.secrets import redacted, secrets_in

LARGEST = 1 << 26  # bytes of sweep.json that are read


@dataclass(frozen=True)
class PointRecord:
    """One point: its run, what it computes (a digest), and the overrides that set it apart."""

    run_id: str
    identity: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class SweepRecord:
    """What sweep.json holds."""

    id: str
    config: str
    fixed: tuple[str, ...]
    swept: tuple[str, ...]
    created: str
    commands: tuple[tuple[str, ...], ...] = ()
    points: tuple[PointRecord, ...] = field(default=())

    def with_points(self, points: Iterable[PointRecord], command: Sequence[str]) -> SweepRecord:
        """With further points, and without those whose place they take."""
        new = {point.identity: point for point in points}
        kept = tuple(point for point in self.points if point.identity not in new)
        typed = tuple(redacted(word, secrets_in(os.environ)) for word in command)
        return replace(self, points=(*kept, *new.values()), commands=(*self.commands, typed))


@dataclass(frozen=True)
class SweepDir:
    """Paths of a sweep."""

    path: Path

    @property
    def record(self) -> Path:
        return self.path / "sweep.json"

    def submission(self, number: int) -> Path:
        """Directory of submission `number`, counted from 1."""
        return self.path / "submissions" / str(number)

    def run(self, run_id: str) -> RunDir:
        """The run of that id, whether it is there or not."""
        return RunDir(self.path / run_id)

    def next_submission(self) -> int:
        """The number of the submission to come."""
        folder = self.path / "submissions"
        names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
        return max((int(name) for name in names if name.isdecimal()), default=0) + 1


def read_sweep(sweep: SweepDir) -> SweepRecord | None:
    """What is known of the sweep; None where there is none. Raises UserError for a file that is not tmrc's."""
    if not sweep.record.exists():
        if any(path.name.startswith(f"{sweep.path.name}-") for path in sweep.path.glob("*")):
            raise UserError(f"{sweep.record}: is missing, though runs of the sweep are there; move the directory away")
        return None
    found = read_object(sweep.record, LARGEST)
    try:
        points = tuple(
            PointRecord(_run_id(point["run_id"]), str(point["identity"]), tuple(map(str, point["overrides"])))
            for point in found["points"]
        )
        commands = tuple(tuple(map(str, command)) for command in found["commands"])
        fixed, swept = tuple(map(str, found["fixed"])), tuple(map(str, found["swept"]))
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{sweep.record}: is damaged, or not written by tmrc; move the directory away") from None
    return SweepRecord(word(found, "id"), word(found, "config"), fixed, swept, word(found, "created"), commands, points)


def _run_id(text: object) -> str:
    """A run's id, which is the name of a directory in the sweep's. Raises ValueError for what leads elsewhere."""
    if not isinstance(text, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}", text):
        raise ValueError
    return text


def write_sweep(sweep: SweepDir, record: SweepRecord) -> None:
    """Write sweep.json in one step. Raises UserError when it cannot be."""
    try:
        write_json(sweep.record, asdict(record))
    except OSError as error:
        raise UserError(f"{sweep.record}: cannot be written: {error.strerror or error}") from None


def varying_overrides(runs: Iterable[RunDir]) -> dict[str, str]:
    """Run id -> what sets the point apart, such as `optimizer.lr=0.0003 model.n_layer=4`, for runs of sweeps."""
    found: dict[str, str] = {}
    for folder in {run.path.parent for run in runs}:
        record = read_object(folder / "sweep.json", LARGEST)
        for point in _objects(record.get("points")):
            texts = point.get("overrides")
            found[word(point, "run_id")] = " ".join(map(str, texts)) if isinstance(texts, list) else ""
    return found


def _objects(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
