"""Verifying the data of a run: whether the shards still hold the tokens that it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tmrc.config.errors import DataError
from tmrc.data.batches import BatchReader
from tmrc.data.plan import DataPlan
from tmrc.train.ledger import Ledger, Sums, batch_sums, hashes
from tmrc.train.samples import Changed, changed
from tmrc.train.stamps import listed, take_stamps, touched
from tmrc.verify.altered import altered
from tmrc.verify.facts import Check, Facts

_WINDOW = 1 << 22  # sequences whose hashes are in memory together
_AT_ONCE = 1 << 22  # bytes of tokens that are read together

Advance = Callable[[int], None]


def check_tokens(facts: Facts, reader: BatchReader | None, problem: str, wrong: frozenset[int], show: Advance) -> Check:
    """The tokens of every step against its record. `wrong` are steps that used other samples than their own."""
    name, ledger = "tokens", facts.ledger
    if ledger is None or not len(ledger.records):
        return Check(name, "no record to go by", done=False)
    if reader is None:
        return Check(name, problem, done=False)
    skipped = wrong | set(ledger.broken())
    try:
        found = list(_changes(reader, ledger, skipped, show))
    except DataError as error:
        return Check(name, "", (str(error),))
    names = _touched(facts)
    compared = len(ledger.records) - len(skipped)
    summary = f"{compared:,} step{'s' * (compared != 1)} read again, all as they were trained on"
    return Check(name, summary, tuple(altered(found, names, compared)))


def check_shards(facts: Facts, reader: BatchReader | None, tokens: Check) -> Check:
    """Sizes and times of the shards against data.json. `tokens` is what `check_tokens` has found."""
    name = "shards"
    if faults := tuple(_shard_faults(facts)):
        return Check(name, "", faults)
    if facts.plan is None:
        return Check(name, facts.plan_problem, done=False)
    if facts.stamps is None:
        return Check(name, "data.json is not there to compare with", done=False)
    count = len(facts.plan.shards)
    what, notes = f"{count:,} shard{'s' * (count != 1)}", _elsewhere(facts.plan)
    if not (names := _touched(facts)):
        return Check(name, f"{what}, untouched since the run began", (), tuple(notes))
    notes.append(f"{listed(names)} touched since the run began{_compared(tokens)}")
    if tokens.done and facts.finished is None and reader is not None and facts.ledger is not None:
        notes += _never_seen(reader, facts.ledger, names)
    sizes = f"of the size{'s' * (count != 1)} that {'they' if count != 1 else 'it'} had when the run began"
    return Check(name, f"{what}, {sizes}", (), tuple(notes))


def _compared(tokens: Check) -> str:
    """What is known of the tokens of shards that were touched; what is wrong with them has been said."""
    if not tokens.done:
        return "; the tokens were not compared"
    return "" if tokens.faults else "; what was trained on is as it was"


def _shard_faults(facts: Facts) -> Iterator[str]:
    if facts.stamps_problem:
        yield facts.stamps_problem
    elif facts.stamps is None and facts.ledger is not None and facts.begun:  # they are written together
        yield "data.json is missing, though there is a ledger"
    if facts.plan is None:
        yield from [facts.plan_problem] if facts.config is not None else []
    elif resized := facts.resized():
        yield from (f"{line} since the run began" for line in resized)
    elif not facts.same_shards:
        yield "they are not those of the checkpoints (data_fingerprint)"


def _elsewhere(plan: DataPlan) -> list[str]:
    """A note where shards lie beside the metadata, and those of the same names that are read lie elsewhere."""
    beside, read = plan.metadata.file.parent, plan.shards[0].path.parent
    try:
        copied = beside.resolve() != read.resolve() and any((beside / one.path.name).exists() for one in plan.shards)
    except (OSError, RuntimeError):
        return []
    if not copied:
        return []
    return [f"those in {read} are read, where file_prefix leads, and not those of the same names in {beside}"]


def _touched(facts: Facts) -> list[str]:
    if facts.plan is None or facts.stamps is None:
        return []
    return touched(facts.stamps, take_stamps(facts.plan.shards))


def _changes(reader: BatchReader, ledger: Ledger, skipped: frozenset[int], show: Advance) -> Iterator[Changed]:
    """Every step whose tokens have changed, in order."""
    size = max(1, _WINDOW // reader.batch_size)
    for first in range(ledger.first, ledger.last + 1, size):
        end = min(first + size, ledger.last + 1)
        items = reader.samples_of(first - 1, end - 1)

        def advance(share: float, first: int = first, end: int = end) -> None:
            show(int((first - ledger.first + share * (end - first)) * reader.batch_size))

        _, contents, places = batch_sums(items, _contents(reader, items, advance))
        for step in range(first, end):
            recorded = ledger.sums(step)
            found = Sums(recorded.order, int(contents[step - first]), int(places[step - first]))
            if step not in skipped and (difference := changed(reader, step, recorded, found)):
                yield difference


def _contents(reader: BatchReader, items: NDArray[np.int64], advance: Callable[[float], None]) -> NDArray[np.uint64]:
    """The hash of each of `items`, whatever its shape; each sequence is read once, in the order of the files."""
    wanted, places = np.unique(items, return_inverse=True)
    length = reader.dataset.context_length
    count = max(1, _AT_ONCE // (4 * length))
    found = np.empty(len(wanted), np.uint64)
    for begin in range(0, len(wanted), count):
        block = wanted[begin : begin + count]
        tokens = np.empty((len(block), length), np.int32)
        found[begin : begin + count] = hashes(block, reader.read(block, tokens))
        advance(min(1.0, (begin + count) / len(wanted)))
    return found[places.reshape(items.shape)]


def _never_seen(reader: BatchReader, ledger: Ledger, names: Sequence[str]) -> Iterator[str]:
    """How much of the touched shards a run that goes on has still before it: nothing tells whether it has changed."""
    dataset = reader.dataset
    used = np.unique(reader.samples_of(ledger.first - 1, ledger.last)) if ledger.last >= ledger.first else np.empty(0)
    of_shard = np.bincount(dataset.locate(used.astype(np.int64))[0], minlength=len(dataset.shards))
    touched = [number for number, shard in enumerate(dataset.shards) if shard.path.name in names]
    texts, seen = sum(dataset.layout.texts[number] for number in touched), int(of_shard[touched].sum())
    if seen < texts:
        whose = "its" if len(touched) == 1 else "their"
        yield f"{texts - seen:,} of {whose} {texts:,} sequences have not been trained on yet and cannot be compared"
