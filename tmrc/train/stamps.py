"""data.json: name, size and times of each shard when the run began, to notice data that change under it. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tmrc.config.errors import DataError
from tmrc.config.rundir import RunDir
from tmrc.config.schema import Config
from tmrc.data.metadata import Shard
from tmrc.data.plan import DataPlan
from tmrc.train import durable
from tmrc.train.ledger import read_ledger
from tmrc.train.samples import Changed, read_again, training_reader

if TYPE_CHECKING:
    from tmrc.train.fence import Fence

SECONDS = 2.0  # that a resume spends on reading data again
_NAMED = 3  # shards that a line names
_LARGEST = 1 << 26  # bytes of data.json that are read


@dataclass(frozen=True)
class Stamp:
    """Size in bytes and times in nanoseconds of one shard."""

    bytes: int
    mtime_ns: int
    ctime_ns: int


def take_stamps(shards: Sequence[Shard]) -> dict[str, Stamp]:
    """Name -> stamp of the shards as they are now. Raises DataError when one is gone."""
    return {shard.path.name: _stamp(shard.path) for shard in shards}


def read_stamps(run: RunDir) -> dict[str, Stamp] | None:
    """The stamps of data.json; None when the run has none. Raises DataError when it cannot be understood."""
    try:
        shards = durable.read_json(run.data, _LARGEST)["shards"]
        return {_text(row["name"]): Stamp(*(_whole(row[key]) for key in Stamp.__annotations__)) for row in shards}
    except FileNotFoundError:
        return None
    except (KeyError, TypeError):
        raise DataError(f"{run.data}: is damaged") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{run.data}: is damaged: {getattr(error, 'strerror', None) or error}") from None


def write_stamps(fence: Fence, plan: DataPlan) -> None:
    """Write data.json, unless it is there. Durable when this returns. Raises DataError and OSError."""
    if fence.run.data.exists():
        return
    rows = [{"name": name, **asdict(stamp)} for name, stamp in take_stamps(plan.shards).items()]
    draft = fence.folder / fence.run.data.name
    durable.write_json(draft, {"version": 1, "shards": rows})
    draft.replace(fence.run.data)
    durable.sync(fence.run.path)


def touched(before: Mapping[str, Stamp], now: Mapping[str, Stamp]) -> list[str]:
    """The shards that are new, or have another size or other times."""
    return [name for name, stamp in now.items() if before.get(name) != stamp]


def compare_data(run: RunDir, config: Config, plan: DataPlan, step: int, head: str) -> str:
    """Whether the data are still those that the run began with, before it goes on after `step`.

    `head` is the chain value (hexadecimal) that the checkpoint of `step` names. Where the times of shards have changed,
    what the newest steps read is read again. Returns a warning, or nothing when no shard has been touched. Raises
    DataError when tokens have changed.
    """
    try:
        before = read_stamps(run)
    except DataError:
        before = {}
    names = touched(before, take_stamps(plan.shards)) if before is not None else []
    if not names:
        return ""
    compared, difference = _compare_tokens(run, config, plan, step, head)
    if difference:
        raise DataError(f"{plan.metadata.file.parent}: {difference.words(names)}: restore the data, or start a new run")
    return f"{listed(names)} touched since the run began; {_found_equal(compared)}"


def listed(names: Sequence[str]) -> str:
    """`a.bin has been`, `a.bin and b.bin have been`, `a.bin, b.bin, c.bin and 4 more have been`."""
    if len(names) == 1:
        return f"{names[0]} has been"
    if len(names) > _NAMED:
        return f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED:,} more have been"
    return f"{', '.join(names[:-1])} and {names[-1]} have been"


def _found_equal(compared: int) -> str:
    if compared == 0:
        return "there is no record to compare the tokens with"
    steps = "the last step" if compared == 1 else f"the last {compared:,} steps"
    return f"what {steps} read is the same"


def _compare_tokens(run: RunDir, config: Config, plan: DataPlan, step: int, head: str) -> tuple[int, Changed | None]:
    try:
        ledger = read_ledger(run.ledger)
    except DataError:
        return 0, None
    if not ledger.leads_to(step, head):
        return 0, None
    return read_again(training_reader(config, plan), ledger, step, SECONDS)


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"{path}: the shard cannot be read: {error.strerror or error}") from None
    return Stamp(found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError
    return value
