"""Whether a run is what it says: its checkpoints, the samples that it used, its data and its metrics. No torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tmrc.config.errors import UserError
from tmrc.config.progress import progress
from tmrc.config.rundir import RunDir, checkpoint_steps
from tmrc.data.batches import BatchReader
from tmrc.train.samples import training_reader
from tmrc.verify.data import check_shards, check_tokens
from tmrc.verify.events import check_events
from tmrc.verify.facts import Check, Facts, gather, read_events
from tmrc.verify.metrics import check_metrics
from tmrc.verify.order import Order, check_ledger, check_order
from tmrc.verify.saved import check_checkpoints, read_saved
from tmrc.verify.states import check_configuration, check_states

_LOOKS = 3  # at a run of which a new attempt begins meanwhile


@dataclass(frozen=True)
class Verified:
    """All that was checked of a run."""

    run: RunDir
    checks: tuple[Check, ...]
    extent: str = ""  # what there was to check, and whether the run has finished

    @property
    def faults(self) -> int:
        """How many faults were found."""
        return sum(len(check.faults) for check in self.checks)

    @property
    def good(self) -> bool:
        """Whether no fault was found."""
        return not self.faults

    @property
    def conclusion(self) -> str:
        """What was checked, and whether it is sound, in one line."""
        where = [f"{check.name} {len(check.faults):,}" for check in self.checks if check.faults]
        found = f"{self.faults:,} fault{'s' * (self.faults > 1)} ({', '.join(where)})" if where else "no fault"
        skipped = [check.name for check in self.checks if check.verdict == "-"]
        parts = [f"{found} in {self.extent}" if self.extent else found]
        parts += [f"not checked: {', '.join(skipped)}"] if skipped else []
        return f"{'sound' if self.good else 'NOT SOUND'}: {'; '.join(parts)}"

    def as_object(self) -> dict[str, Any]:
        """The same as JSON holds it."""
        about = {"run_id": self.run.run_id, "run_dir": str(self.run.path), "good": self.good, "faults": self.faults}
        return {**about, "conclusion": self.conclusion, "checks": [check.as_object() for check in self.checks]}


def verify_run(run: RunDir, read_data: bool = True) -> Verified:
    """Check a run, whether it is over or goes on. Never raises for what is in its files.

    Without `read_data` the tokens are not compared. Progress of what takes long is shown on stderr.
    """
    for look in range(_LOOKS):
        before = _identity(run)
        verified = _look_at(run, read_data)
        if verified.good or look + 1 == _LOOKS or _identity(run) == before:
            break  # else a new attempt has begun, and what was read does not belong together
    return verified


def _look_at(run: RunDir, read_data: bool) -> Verified:
    try:
        events = read_events(run)
        with progress("re-hashing checkpoints", len(checkpoint_steps(run)), "checkpoints") as advance:
            saved = read_saved(run, advance)
        facts = gather(run, events, saved)
    except Exception as error:  # nothing that stands in a file may end in a traceback
        return Verified(run, (Check("run", "", (f"{run.path}: cannot be read: {error}",)),))
    return Verified(run, tuple(_checks(facts, read_data)), _extent(facts))


def _extent(facts: Facts) -> str:
    """What there is to check of the run, in numbers."""
    steps = len(facts.ledger.records) if facts.ledger is not None else 0
    counts = {"step": steps, "checkpoint": len(facts.saved), "metrics row": len(facts.metrics.lines)}
    there = [f"{count:,} {name}{'s' * (count > 1)}" for name, count in counts.items() if count]
    *most, last = there or ["a run without a step"]
    listed = f"{', '.join(most)} and {last}" if most else last
    if not facts.begun:  # nobody has said anything
        return listed
    end = facts.finished
    return f"{listed}; the run has {'not finished' if end is None else f'finished at step {end:,}'}"


def _checks(facts: Facts, read_data: bool) -> list[Check]:
    reader, problem = _reader(facts)
    order = Order(Check("order", ""))
    tokens = Check("tokens", "", done=False)

    def judge_order() -> Check:
        nonlocal order
        order = check_order(facts, reader, problem)
        return order.check

    def judge_tokens() -> Check:
        nonlocal tokens
        if not read_data:
            return Check("tokens", "not asked for (--no-data)", done=False)
        count = len(facts.ledger.records) if facts.ledger is not None else 0
        with progress("reading the data again", count * (reader.batch_size if reader else 1), "sequences") as show:
            tokens = check_tokens(facts, reader, problem, order.wrong, show)
        return tokens

    return [
        _guarded("configuration", lambda: check_configuration(facts)),
        _guarded("checkpoints", lambda: check_checkpoints(facts)),
        _guarded("trainer state", lambda: check_states(facts)),
        _guarded("ledger", lambda: check_ledger(facts)),
        _guarded("order", judge_order),
        _guarded("tokens", judge_tokens),
        _guarded("shards", lambda: check_shards(facts, reader, tokens)),
        _guarded("metrics", lambda: check_metrics(facts)),
        _guarded("events", lambda: check_events(facts)),
    ]


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except Exception as error:  # the same
        return Check(name, "", (f"cannot be checked: {type(error).__name__}: {error}",))


def _reader(facts: Facts) -> tuple[BatchReader | None, str]:
    """Reads the run's data, if they have the shards and sizes that they had; else why not."""
    if facts.config is None or facts.plan is None:
        return None, f"cannot be checked without the {'data' if facts.config else 'configuration'}"
    try:
        if not facts.same_shards:
            return None, "cannot be checked: the shards are not those that the run began with"
        return training_reader(facts.config, facts.plan), ""
    except (UserError, OSError, ValueError) as error:
        return None, f"cannot be checked: {error}"


def _identity(run: RunDir) -> list[tuple[int, int] | None]:
    """What changes when an attempt begins."""
    found: list[tuple[int, int] | None] = []
    for path in (run.metrics, run.ledger):
        try:
            status = os.stat(path)  # noqa: PTH116
            found.append((status.st_dev, status.st_ino))
        except (OSError, ValueError):
            found.append(None)
    return found
