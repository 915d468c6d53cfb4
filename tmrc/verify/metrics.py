"""Verifying metrics.jsonl: every step that was to be logged stands there once, in order, with the right numbers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from tmrc.verify.facts import MOST_STEPS, Check, Facts, Span, steps, whole
from tmrc.verify.numbers import TRAINING, VALIDATION, Key, called, wrong_numbers
from tmrc.verify.rows import Row

_MOST_MISSING = 1000
_OF_TRAINING = {"loss", "grad_norm", "lr", "tokens"}


@dataclass(frozen=True)
class _Line:
    number: int  # in the file, from 1
    key: Key
    row: Row


def check_metrics(facts: Facts) -> Check:
    """Gaps, repeats, order, ends, and what is a function of the step."""
    rows = facts.metrics.lines
    if facts.metrics.problem:
        return Check("metrics", "", (f"{facts.run.metrics.name} {facts.metrics.problem}",))
    if not rows:
        return _empty(facts)
    faults = [f"line {n:,} is no row" for n, row in enumerate(rows, 1) if row is None or _key(row) is None]
    lines = [_Line(n, key, row) for n, row in enumerate(rows, 1) if row is not None and (key := _key(row)) is not None]
    faults += _out_of_place(lines)
    keys = {line.key for line in lines}
    there, least = max(keys, default=(0, TRAINING)), _must_reach(facts)
    horizon = max(there[0], least[0])
    expected, missing = _compare(facts, keys, horizon, max(there, least))
    if facts.finished and facts.span_of(facts.finished).config is None and (facts.finished, TRAINING) not in keys:
        missing.append((facts.finished, TRAINING))
    faults += _gaps(missing)
    faults += _unexpected(facts, [one for one in lines if one.key not in expected and _judged(facts, one.key)])
    faults += wrong_numbers(facts, [(line.key, line.row) for line in lines])
    half = [_half(facts)] if facts.metrics.unended else []
    if half and facts.finished is not None and not missing:  # else it can be what is left of a missing one
        faults += half
        half = []
    return Check("metrics", _summary(facts, keys), tuple(faults), tuple(half))


def _empty(facts: Facts) -> Check:
    """Of a run that has no row, and may have none."""
    what = "has no row" if facts.run.metrics.is_file() else "is missing"
    lost = [f"though {one.path.name} was written" for step, one in facts.saved.items() if step]
    lost = [f"though the run has finished at step {facts.finished:,}"] if facts.finished else lost[:1]
    faults = tuple(f"{facts.run.metrics.name} {what}, {why}" for why in lost)
    return Check("metrics", "no row yet", faults, done=False)


def _half(facts: Facts) -> str:
    if facts.finished is not None:
        return "its last row is cut off, though the run has finished"
    return "its last row is not whole yet, or the run was killed while it was written; a resume drops it"


def _summary(facts: Facts, keys: Collection[Key]) -> str:
    last = max((step for step, kind in keys if kind == TRAINING), default=0)
    rows = f"{len(keys):,} row{'s' * (len(keys) != 1)}, up to step {last:,}"
    if any(span.config is None for span in facts.spans):
        return f"{rows}: no repeat; without the configuration nobody can tell whether one is missing"
    return f"{rows}: no gap, no repeat"


def _key(row: Row) -> Key | None:
    step = whole(row.get("step"))
    if step is None or _OF_TRAINING.isdisjoint(row) != ("val_loss" in row):
        return None
    return step, VALIDATION if "val_loss" in row else TRAINING


def _out_of_place(lines: Sequence[_Line]) -> Iterator[str]:
    """Rows that stand there twice, or after a later step's."""
    seen: dict[Key, int] = {}
    highest: Key = (-1, TRAINING)
    for line in lines:
        if line.key in seen:
            yield f"{called(line.key)} stands there twice (lines {seen[line.key]:,} and {line.number:,})"
        elif line.key < highest:
            yield f"{called(line.key)} (line {line.number:,}) stands after {called(highest)}"
        seen.setdefault(line.key, line.number)
        highest = max(highest, line.key)


def _must_reach(facts: Facts) -> Key:
    """The last row that must be there: that of the newest checkpoint or of the end. What comes after may be lost."""
    if facts.finished is not None:
        return facts.finished, VALIDATION
    good = [(step, one.state) for step, one in facts.saved.items() if not one.flaw]
    if not good:
        return 0, TRAINING
    step, state = max(good, key=lambda one: one[0])
    return step, TRAINING if state.get("validation_due") else VALIDATION


def _compare(facts: Facts, keys: set[Key], horizon: int, last: Key) -> tuple[set[Key], list[Key]]:
    """The rows that may be there up to `horizon`, and those up to `last` that are missing."""
    expected: set[Key] = set()
    missing: list[Key] = []
    # One that was due when an attempt stopped is not made up for by the next, if that has no validations.
    dropped = {(span.begin, VALIDATION) for span in facts.spans if not span.validates}
    for key in _expected(facts, horizon):
        expected.add(key)
        if key not in keys and key <= last and key not in dropped:
            missing.append(key)
        if len(missing) >= _MOST_MISSING:
            break
    return expected, missing


def _expected(facts: Facts, horizon: int) -> Iterator[Key]:
    """The rows of a run that has got to `horizon`, in order."""
    if any(span.validates for span in facts.spans if span.begin == 0):
        yield 0, VALIDATION
    for span, begin, end in _stretches(facts.spans, horizon):
        yield from _of_span(span, begin, end)


def _stretches(spans: Sequence[Span], horizon: int) -> list[tuple[Span, int, int]]:
    """(attempt, first and last step that it did and no later attempt did again)."""
    found: list[tuple[Span, int, int]] = []
    for span in spans:
        found = [(one, begin, min(end, span.begin)) for one, begin, end in found if begin <= span.begin]
        end = min(horizon, span.total if span.total is not None else MOST_STEPS)
        found.append((span, span.begin + 1, end))
    return found


def _of_span(span: Span, begin: int, end: int) -> Iterator[Key]:
    if span.config is None:
        return
    training = span.config.training
    log, validate = training.log_interval, training.val_interval if span.validates else 0
    step = begin
    while step <= end:
        if step == 1 or step % log == 0 or step == span.total:
            yield step, TRAINING
        if validate and (step % validate == 0 or step == span.total):
            yield step, VALIDATION
        following = [step - step % log + log, *([step - step % validate + validate] if validate else [])]
        if span.total is not None and step < span.total:
            following.append(span.total)
        step = min(following)


def _judged(facts: Facts, key: Key) -> bool:
    """Without the configuration nobody can tell which rows there are, and without the data not which validations."""
    return facts.span_of(key[0]).config is not None and (key[1] == TRAINING or facts.plan is not None)


def _gaps(missing: Sequence[Key]) -> Iterator[str]:
    more = " or more" if len(missing) >= _MOST_MISSING else ""
    for kind, what in ((TRAINING, ""), (VALIDATION, "the validation{} of ")):
        if numbers := [step for step, one in missing if one == kind]:
            several = len(numbers) > 1
            yield f"{what.format('s' * several)}{steps(numbers)} {'are' if several else 'is'} missing{more}"


def _unexpected(facts: Facts, lines: Sequence[_Line]) -> Iterator[str]:
    """A line for all rows that nobody has asked for, of each kind, and for those that are beyond the end."""
    found: dict[tuple[str, int], list[_Line]] = {}
    for line in lines:
        span, (step, kind) = facts.span_of(line.key[0]), line.key
        interval = "val_interval" if kind == VALIDATION else "log_interval"
        beyond = span.total is not None and step > span.total
        why = f"beyond the last step, {span.total:,}" if beyond else f"none that {interval} asks for"
        found.setdefault((why, kind), []).append(line)
    for (why, kind), those in found.items():
        numbers = sorted({line.key[0] for line in those})
        if len(numbers) == 1:
            yield f"{called(those[0].key)} (line {those[0].number:,}) is {why}"
        else:
            yield f"{'the validations of ' if kind == VALIDATION else ''}{steps(numbers)} are {why}"
