"""Verifying the numbers of metrics.jsonl: those that are functions of the step, and those that must be finite."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tmrc.train.schedule import learning_rate
from tmrc.verify.facts import Facts, Span
from tmrc.verify.rows import Row

TRAINING, VALIDATION = 0, 1
Key = tuple[int, int]  # step, and which kind of row: in this order they stand in the file
_CONFIGURATION, _DATA = "what the configuration gives", "what the data gives"


class Wrong(NamedTuple):
    """A number that is not what it must be. `wanted` is empty where nothing is but that it is no finite one."""

    name: str
    found: str
    wanted: str = ""
    given_by: str = ""


@dataclass
class _Stretch:
    """Rows that follow one another, of one kind, with the same name wrong in the same way."""

    wrong: Wrong  # of the first one
    kind: int
    steps: list[int]

    @property
    def way(self) -> tuple[str, str]:
        return self.wrong.name, self.wrong.given_by or self.wrong.found


def wrong_numbers(facts: Facts, rows: Sequence[tuple[Key, Row]]) -> list[str]:
    """A line for each stretch of rows that are wrong in the same way, by where it begins."""
    done: list[_Stretch] = []
    for kind in (TRAINING, VALIDATION):
        going: dict[tuple[str, str], _Stretch] = {}
        for (step, which), row in rows:
            if which != kind:
                continue
            before, going = going, {}
            for wrong in _wrong(facts, (step, kind), row):
                new = _Stretch(wrong, kind, [])
                stretch = before.get(new.way, new)
                stretch.steps.append(step)
                going[stretch.way] = stretch
                done += [stretch] if stretch is new else []
    return [_words(stretch) for stretch in sorted(done, key=lambda one: (one.steps[0], one.kind))]


def called(key: Key) -> str:
    """`step 4`, `the validation of step 4`."""
    return f"the validation of step {key[0]:,}" if key[1] == VALIDATION else f"step {key[0]:,}"


def _words(stretch: _Stretch) -> str:
    wrong, steps = stretch.wrong, stretch.steps
    instead = f"{wrong.found} instead of {wrong.wanted}"
    if len(steps) == 1:
        return f"{called((steps[0], stretch.kind))}: {wrong.name} is {instead if wrong.wanted else wrong.found}"
    where = f"steps {steps[0]:,} {'and' if len(steps) == 2 else 'to'} {steps[-1]:,}"
    where = f"the validations of {where}" if stretch.kind == VALIDATION else where
    if not wrong.wanted:
        return f"{where}: {wrong.name} is {wrong.found}"
    return f"{where}: {wrong.name} is not {wrong.given_by} (step {steps[0]:,}: {instead})"


def _wrong(facts: Facts, key: Key, row: Row) -> Iterator[Wrong]:
    """What is a function of the step, and no finite number where one must be."""
    step, kind = key
    span = facts.span_of(step)
    for name in ("val_loss",) if kind == VALIDATION else ("loss", "grad_norm"):
        if not _is_number(row.get(name)) and not (name == "grad_norm" and _may_overflow(row.get(name), span)):
            yield Wrong(name, "no finite number" if name in row else "missing")
    if kind == VALIDATION:
        return
    if facts.plan is not None and facts.same_shards:
        epoch = (step - 1) // facts.plan.steps_per_epoch
        if row.get("epoch") != epoch:
            yield Wrong("epoch", f"{row.get('epoch')!r:.20}", str(epoch), _DATA)
    yield from _unlike_configuration(span, step, row)


def _unlike_configuration(span: Span, step: int, row: Row) -> Iterator[Wrong]:
    if span.config is None:
        return
    config = span.config
    tokens = step * config.training.batch_size * config.model.context_length
    if row.get("tokens") != tokens:
        yield Wrong("tokens", f"{row.get('tokens')!r:.20}", str(tokens), _CONFIGURATION)
    if span.total is None:
        return
    rate = learning_rate(step - 1, span.total, config.optimizer.lr, config.training)
    if not (_is_number(row.get("lr")) and math.isclose(row["lr"], rate, rel_tol=1e-12, abs_tol=1e-300)):
        yield Wrong("lr", f"{row.get('lr')!r:.24}", repr(rate), _CONFIGURATION)


def _is_number(value: object) -> bool:
    """Whether it is a finite number. A whole one with hundreds of digits is none."""
    return (type(value) is float and math.isfinite(value)) or (type(value) is int and abs(value) < 1 << 62)


def _may_overflow(value: object, span: Span) -> bool:
    """With float16 a gradient may overflow: the loss is scaled down, and the step left out."""
    return type(value) is float and (span.config is None or span.config.model.autocast_precision == "float16")
