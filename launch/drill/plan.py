"""What is done to which trial and when: a function of the seed, the trial's number and the faults to choose from.

A moment is drawn as a share of the reference's course, so that a plan is known before anything has run, and means the
same on a faster machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

# Kind of moment -> how often it is chosen for the first fault, and for one that hits a run that is being resumed
MOMENTS: Mapping[str, tuple[int, int]] = {
    "start-up": (20, 45),
    "time": (15, 10),
    "step": (28, 15),
    "checkpoint": (20, 15),
    "validation": (9, 5),
    "end": (8, 10),
}
HITS = (70, 20, 10)  # how often a trial is hit once, twice and three times


@dataclass(frozen=True)
class Moment:
    """When a fault hits. `at` in [0, 1) chooses among all moments of the kind, `within` the instant in it."""

    kind: str
    at: float
    within: float


@dataclass(frozen=True)
class Hit:
    """One fault. `draw` is the seed of what the fault itself leaves to chance."""

    fault: str
    moment: Moment
    draw: int


@dataclass(frozen=True)
class Plan:
    """What happens to trial `number`, counted from 1; the hits come one after the other, each to the next attempt."""

    number: int
    hits: tuple[Hit, ...]


def draw_plan(seed: int, number: int, faults: Sequence[str]) -> Plan:
    """The plan of one trial. Every run of len(faults) trials in a row begins with each fault once."""
    block, place = divmod(number - 1, len(faults))
    order = sorted(faults)
    Random(f"tmrc drill {seed} block {block}").shuffle(order)
    random = Random(f"tmrc drill {seed} trial {number}")
    count = random.choices(range(1, len(HITS) + 1), HITS)[0]
    names = [order[place], *(random.choice(sorted(faults)) for _ in range(count - 1))]
    return Plan(number, tuple(_hit(random, name, again=n > 0) for n, name in enumerate(names)))


def _hit(random: Random, fault: str, again: bool) -> Hit:
    kind = random.choices(list(MOMENTS), [weights[again] for weights in MOMENTS.values()])[0]
    return Hit(fault, Moment(kind, random.random(), random.random()), random.getrandbits(32))
