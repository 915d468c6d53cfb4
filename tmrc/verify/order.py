"""Verifying the ledger: its chain, and whether each step used the samples that are its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tmrc.data.batches import BatchReader
from tmrc.train.ledger import Ledger, order_sums, origin
from tmrc.verify.facts import Check, Facts, steps

_AT_ONCE = 1 << 20  # sequences whose order is computed together
_NEIGHBOURS = 64  # steps beyond the last whose samples are looked for as well
_LARGEST_BATCH = 2048  # sequences of a batch in which two that changed places are looked for


def check_ledger(facts: Facts) -> Check:
    """Whether the ledger is there and whole, and leads to the checkpoints."""
    ledger, name = facts.ledger, "ledger"
    aside = sorted(path.name for path in facts.run.path.glob("ledger.damaged_*.bin"))
    notes = (f"set aside as damaged earlier: {', '.join(aside[:4])}",) if aside else ()
    if ledger is None:
        if facts.keeps_ledger:
            return Check(name, "", (facts.ledger_problem,), notes)
        what = "none: the run was begun before there were ledgers" if facts.metrics.lines else "none yet"
        return Check(name, what, (), notes, done=False)
    broken = ledger.broken()
    faults = [f"the record of step {step:,} is damaged" for step in broken]
    faults += _unlike_checkpoints(facts, ledger, broken)
    if _begun_otherwise(facts, ledger):
        faults.append("it was begun with another seed, shuffle, batch_size, context_length or other data")
    if ledger.first > 1:
        notes = (*notes, f"{steps(range(1, ledger.first))} {'has' if ledger.first == 2 else 'have'} no record")
    faults += _wrong_end(facts, ledger)
    count = len(ledger.records)
    return Check(name, f"{count:,} record{'s' * (count != 1)}, the chain holds", tuple(faults), notes)


def _wrong_end(facts: Facts, ledger: Ledger) -> Iterator[str]:
    """What a run that has finished leaves: a record of its last step, and nothing after it."""
    end = facts.finished
    if end is None:
        return
    if ledger.last > end:
        yield f"it has records up to step {ledger.last:,}, but the run has finished at {end:,}"
    named = any(step > ledger.last and one.state.get("ledger") and not one.flaw for step, one in facts.saved.items())
    if ledger.last < end and not named:  # else it has been said
        yield f"it ends at step {ledger.last:,}, but the run has finished at step {end:,}: it was cut off"
    if ledger.rest and ledger.last >= end:
        yield f"after its last record there are {len(ledger.rest):,} bytes that are none"


def _begun_otherwise(facts: Facts, ledger: Ledger) -> bool:
    if ledger.first > 1 or facts.config is None or facts.plan is None or not facts.same_shards:
        return False
    return ledger.before != origin(facts.config, facts.plan.fingerprint)


def _unlike_checkpoints(facts: Facts, ledger: Ledger, broken: Sequence[int]) -> Iterator[str]:
    for step, one in sorted(facts.saved.items()):
        head = one.state.get("ledger")
        if not head or one.flaw:
            continue
        if step > ledger.last:
            yield f"it ends at step {ledger.last:,}, before {one.path.name}: it was cut off"
        elif step < ledger.first - 1:
            continue  # there is no record, and that is said
        elif ledger.head(step).hex() != head and step not in broken:
            yield f"it does not lead to {one.path.name}: the records of {_up_to(ledger, step)} are not those of its run"


def _up_to(ledger: Ledger, step: int) -> str:
    return f"the steps up to {step:,}" if ledger.first == 1 else f"steps {ledger.first:,} to {step:,}"


@dataclass(frozen=True)
class Order:
    """The recorded order against the order function. `wrong` are the steps that do not agree."""

    check: Check
    wrong: frozenset[int] = frozenset()


def check_order(facts: Facts, reader: BatchReader | None, problem: str) -> Order:
    """Whether each step used the samples that the order function gives it. Damaged records are left out."""
    name, ledger = "order", facts.ledger
    if ledger is None or not len(ledger.records):
        return Order(Check(name, "no record to go by", done=False))
    if reader is None:
        return Order(Check(name, problem, done=False))
    known = _orders(reader, max(1, ledger.first - _NEIGHBOURS), ledger.last + _NEIGHBOURS)
    broken = frozenset(ledger.broken())
    recorded = ledger.records["order"].tolist()
    wrong = {
        step: value for step, value in enumerate(recorded, ledger.first) if known[step] != value and step not in broken
    }
    faults = _named(wrong, known, reader)
    used = f"{steps(range(ledger.first, ledger.last + 1))}, each with its own samples"
    return Order(Check(name, used, tuple(faults)), frozenset(wrong))


def _orders(reader: BatchReader, first: int, last: int) -> dict[int, int]:
    """Step -> the order that its record must have."""
    found: dict[int, int] = {}
    count = max(1, _AT_ONCE // reader.batch_size)
    for begin in range(first, last + 1, count):
        end = min(begin + count, last + 1)
        sums: NDArray[np.uint64] = order_sums(reader.samples_of(begin - 1, end - 1))
        found.update(zip(range(begin, end), sums.tolist(), strict=True))
    return found


def _named(wrong: dict[int, int], known: dict[int, int], reader: BatchReader) -> list[str]:
    """A line for each stretch of steps that went wrong in the same way."""
    step_of = {value: step for step, value in known.items()}
    offsets = {step: step_of[value] - step if value in step_of else None for step, value in wrong.items()}
    lines, left = [], sorted(wrong)
    while left:
        first = left[0]
        if offsets[first] == 1 and offsets.get(first + 1) == -1:
            lines.append(f"{steps([first, first + 1])} used each other's samples")
            left = left[2:]
            continue
        stretch = _stretch(left, offsets)
        lines.append(_words(first, stretch, offsets[first], wrong[first], reader))
        left = left[stretch:]
    return lines


def _stretch(left: Sequence[int], offsets: dict[int, int | None]) -> int:
    """How many steps follow one another with the same offset."""
    count = 1
    while count < len(left) and left[count] == left[0] + count and offsets[left[count]] == offsets[left[0]]:
        count += 1
    return count


def _words(first: int, count: int, offset: int | None, value: int, reader: BatchReader) -> str:
    which = steps(range(first, first + count))
    if offset is None:
        return f"{which} used samples that are no step's{_swapped(first, value, reader) if count == 1 else ''}"
    if count == 1 and offset < 0:
        return f"step {first:,} used the samples of step {first + offset:,} again"
    if count == 1:
        return f"step {first:,} used the samples of step {first + offset:,}"
    much = f"{abs(offset):,} step{'s' * (abs(offset) != 1)}"
    if offset > 0:
        skipped = steps(range(first, first + offset))
        return (
            f"from step {first:,} to {first + count - 1:,} the samples are those of {much} later: the samples of "
            f"{skipped} were skipped"
        )
    again = steps(range(first + offset, first))
    return (
        f"from step {first:,} to {first + count - 1:,} the samples are those of {much} earlier: the samples of "
        f"{again} were used again"
    )


def _swapped(step: int, value: int, reader: BatchReader) -> str:
    """Which two sequences of the batch have changed places, if that is what happened."""
    if reader.batch_size > _LARGEST_BATCH:
        return ""
    items = reader.samples(step - 1)
    for one in range(len(items) - 1):
        others = np.repeat(items[None], len(items) - one - 1, axis=0)
        rows = np.arange(len(others))
        others[rows, one], others[rows, one + 1 + rows] = items[one + 1 :], items[one]
        found = np.flatnonzero(order_sums(others) == np.uint64(value))
        if len(found):
            return f": positions {one:,} and {one + 1 + int(found[0]):,} of its batch have changed places"
    return ""
