"""What `tmrc verify` looks at, read without trusting any of it: files may be damaged, or be written to meanwhile."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tmrc.config.errors import DataError, UserError
from tmrc.config.load import load_config
from tmrc.config.rundir import RunDir
from tmrc.config.schema import Config
from tmrc.data.layout import split_layout
from tmrc.data.plan import DataPlan, plan_data
from tmrc.train.ledger import Ledger, read_ledger
from tmrc.train.saved import begun_attempts
from tmrc.train.stamps import Stamp, read_stamps, take_stamps
from tmrc.verify.rows import Row, Rows, read_rows

MOST_STEPS = 10**12  # no step that is meant is larger
_NAMED = 6  # steps that a line names
_ATTEMPT = re.compile(r"[1-9][0-9]{0,8}")
_SPARE = 1024  # steps more than a run can have for which files are still read, so that it can be said what is there
_WITHOUT_TOTAL = 1 << 24  # steps that a run can have of which nobody knows how many it has
_ROW = 4096  # bytes that a row of metrics.jsonl can have
_LARGEST_METRICS, _LARGEST_EVENTS = 1 << 30, 1 << 28  # bytes that are read at most


@dataclass(frozen=True)
class Check:
    """What one check has found. `faults` and `notes` are lines for people; `summary` says what was looked at."""

    name: str
    summary: str
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    done: bool = True  # False where there was nothing to check, or it was not asked for

    @property
    def verdict(self) -> str:
        """`fault`, `note`, `ok`, or `-` for what was not checked."""
        return "fault" if self.faults else "note" if self.notes else "ok" if self.done else "-"

    def as_object(self) -> dict[str, Any]:
        """The same as JSON holds it, with the first faults and notes alone."""
        return {**asdict(self), "faults": some(self.faults), "notes": some(self.notes), "verdict": self.verdict}


@dataclass(frozen=True)
class Span:
    """The steps after `begin` as one attempt did them, up to where a later attempt began."""

    begin: int
    total: int | None  # steps in all, as the attempt saw it
    config: Config | None
    problem: str  # why there is no `config`
    validates: bool  # whether there are validations, by this attempt's own configuration


@dataclass(frozen=True)
class Saved:
    """A checkpoint. `flaw`: what is wrong with its bytes. `state`: its trainer.json, empty when unreadable."""

    path: Path
    flaw: str
    state: Row


@dataclass(frozen=True)
class Facts:
    """A run, as it was when it was looked at."""

    run: RunDir
    config: Config | None
    config_problem: str
    plan: DataPlan | None
    plan_problem: str
    events: tuple[Row, ...]
    events_read: Rows  # the same file as it is, line by line
    saved: dict[int, Saved]  # newest first
    metrics: Rows
    ledger: Ledger | None
    ledger_problem: str
    stamps: dict[str, Stamp] | None  # of the shards when the run began
    stamps_problem: str
    spans: tuple[Span, ...]

    @property
    def finished(self) -> int | None:
        """The step at which the run has finished, unless it goes on."""
        told = [row for row in self.events if row.get("event") in ("started", "resumed", "finished")]
        if not told or told[-1]["event"] != "finished" or self.goes_on_after(told[-1]):
            return None
        return whole(told[-1].get("step"))

    def goes_on_after(self, row: Row) -> bool:
        """Whether an attempt after that of the event `row` has begun to write."""
        number = whole(row.get("attempt"))
        try:
            return number is not None and max(begun_attempts(self.run), default=0) > number
        except OSError:
            return False

    @property
    def begun(self) -> tuple[Row, ...]:
        """The events with which attempts began to train."""
        return tuple(row for row in self.events if row["event"] in ("started", "resumed"))

    @property
    def attempts(self) -> int:
        """How many attempts there were, as the highest number tells: one that was killed may have left no event."""
        folder = self.run.path / "attempts"
        found = [int(path.name) for path in folder.glob("*") if _ATTEMPT.fullmatch(path.name)]
        told = [whole(row.get("attempt")) or 0 for row in self.begun]
        return max([*found, *begun_attempts(self.run), *told, len(told)])

    @property
    def keeps_ledger(self) -> bool:
        """Whether anything there tells that the run has had a ledger."""
        named = any(one.state.get("ledger") for one in self.saved.values())
        told = any(row.get("ledger") for row in self.begun)
        aside = any(self.run.path.glob("ledger.damaged_*.bin"))
        return named or told or aside or self.run.ledger.exists() or self.run.data.exists()

    @property
    def same_shards(self) -> bool:
        """Whether the shards have the sizes that they had. Without that nothing can be said of order and tokens."""
        if self.plan is None:
            return False
        known = {str(one.state["data_fingerprint"]) for one in self.saved.values() if "data_fingerprint" in one.state}
        if known:
            return self.plan.fingerprint in known
        return not self.resized()

    def resized(self) -> list[str]:
        """One line for each shard that is missing, new, or of another size than when the run began."""
        if self.plan is None or self.stamps is None:
            return []
        now = take_stamps(self.plan.shards)
        lost = [f"{name} is missing" for name in self.stamps if name not in now]
        new = [f"{name} is new" for name in now if name not in self.stamps]
        sizes = [(name, stamp.bytes, self.stamps[name].bytes) for name, stamp in now.items() if name in self.stamps]
        return (
            lost + new + [f"{name} has {size:,} bytes instead of {was:,}" for name, size, was in sizes if size != was]
        )

    def span_of(self, step: int) -> Span:
        """The attempt that did `step` (from 1)."""
        return next(span for span in reversed(self.spans) if span.begin < max(step, 1))


def read_events(run: RunDir) -> Rows:
    """The events so far. To be read before the checkpoints: those that they name must be there."""
    return read_rows(run.events, _LARGEST_EVENTS)


def gather(run: RunDir, read: Rows, saved: dict[int, Saved]) -> Facts:
    """Read everything else. The ledger comes last: what is in other files must be in it."""
    events = tuple(row for row in read.lines if row is not None and isinstance(row.get("event"), str))
    config, config_problem = _config(run.config)
    plan, plan_problem = _plan(config)
    stamps, stamps_problem = _stamps(run)
    spans = tuple(_spans(run, events, config, plan))
    most = _most_steps(spans, saved, plan)
    metrics = read_rows(run.metrics, min(_LARGEST_METRICS, 2 * most * _ROW))
    ledger, ledger_problem = _ledger(run, most)
    return Facts(
        run, config, config_problem, plan, plan_problem, events, read, saved, metrics, ledger, ledger_problem, stamps,
        stamps_problem, spans,
    )  # fmt: skip


def validates(config: Config | None, plan: DataPlan | None) -> bool:
    """Whether a run with this configuration has validations on the shards of `plan`."""
    if config is None or plan is None or not config.training.val_interval or config.datasets.val_split_size == 0:
        return False
    wanted = config.training.val_batches * config.training.batch_size
    try:
        layout = split_layout(plan.shards, config.model.context_length, config.datasets.val_split_size, wanted)
    except DataError:
        return False
    return layout.validation_texts > 0


def whole(value: object) -> int | None:
    """A whole number that can be a step; None for anything else."""
    return value if type(value) is int and 0 <= value <= MOST_STEPS else None


def steps(numbers: Sequence[int]) -> str:
    """`step 4`, `steps 4 and 6`, `steps 4 to 9`, `steps 1, 2, 4, 6, 8, 9 and 3 more`."""
    if len(numbers) == 1:
        return f"step {numbers[0]:,}"
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"steps {numbers[0]:,} to {numbers[-1]:,}"
    if len(numbers) > _NAMED + 1:
        named, last = numbers[:_NAMED], f"{len(numbers) - _NAMED:,} more"
    else:
        named, last = numbers[:-1], f"{numbers[-1]:,}"
    return f"steps {', '.join(f'{number:,}' for number in named)} and {last}"


def some(lines: Sequence[str], most: int = 20) -> tuple[str, ...]:
    """The first lines, and how many more there are."""
    return (*lines[:most], *([f"and {len(lines) - most:,} more"] if len(lines) > most else []))


def _most_steps(spans: Sequence[Span], saved: dict[int, Saved], plan: DataPlan | None) -> int:
    """How many steps the files of the run can hold; somewhat more, to tell what is in them."""
    totals = [span.total for span in spans if span.total is not None]
    if not totals:
        return _WITHOUT_TOTAL
    return max(*totals, *saved, plan.total_steps if plan else 0) + _SPARE


def _spans(run: RunDir, events: Sequence[Row], config: Config | None, plan: DataPlan | None) -> Iterator[Span]:
    """The attempts in order; at least one."""
    kept = _kept_configs(run)
    begun = [row for row in events if row["event"] in ("started", "resumed") and whole(row.get("step")) is not None]
    if not begun or begun[0]["step"] > 0:
        yield Span(0, None, config, "", validates(config, plan))
    for row in begun:
        number = whole(row.get("attempt")) or 0
        later = [kept[other] for other in sorted(kept) if other >= number]
        own, problem = _config(later[0]) if later else (config, "")
        yield Span(row["step"], whole(row.get("total_steps")), own, problem, validates(own, plan))


def _kept_configs(run: RunDir) -> dict[int, Path]:
    """Attempt -> the configuration that it used, where a later attempt has used another one."""
    try:
        files = list((run.path / "attempts").glob("*/config.yaml"))
    except OSError:
        return {}
    return {int(file.parent.name): file for file in files if file.parent.name.isdecimal()}


def _config(path: Path) -> tuple[Config | None, str]:
    try:
        return (load_config(path), "") if path.exists() else (None, f"{path}: is missing")
    except UserError as error:
        return None, str(error)
    except (OSError, ValueError, RecursionError) as error:
        return None, f"{path}: cannot be read: {error}"


def _plan(config: Config | None) -> tuple[DataPlan | None, str]:
    if config is None:
        return None, "cannot be checked without the configuration"
    try:
        return plan_data(config), ""
    except (UserError, OSError, ValueError) as error:
        return None, str(error)


def _stamps(run: RunDir) -> tuple[dict[str, Stamp] | None, str]:
    try:
        return read_stamps(run), ""
    except DataError as error:
        return None, str(error)


def _ledger(run: RunDir, most_steps: int) -> tuple[Ledger | None, str]:
    if run.ledger.exists() and not run.ledger.is_file():
        return None, f"{run.ledger}: is not a file"
    try:
        return read_ledger(run.ledger, most_steps), ""
    except DataError as error:
        return None, str(error)
