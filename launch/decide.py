"""What to do with a run when an attempt has ended: a function of what is known, and of nothing else."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from launch.attempts import Ending
from launch.jobs import JobFacts
from tmrc.config.rundir import EXIT_CRASHED, EXIT_FINISHED, EXIT_USER_ERROR, EXIT_WANTS_REQUEUE

MAX_FRUITLESS = 3  # attempts without a new checkpoint after which a run that fails is held
# Causes that lie in the run. The others (preemption, a lost node, a request) say nothing about it and never count.
OWN_FAULT = {
    "code_error", "gpu_error", "out_of_memory", "non_finite", "hang", "killed", "disk", "hardware", "port",
    "time_limit",
}  # fmt: skip
HARDWARE = {"gpu_error", "hang", "hardware", "node_failure"}
STRIKES = 2  # failures for such a cause after which a node is not used again
# Why Slurm ends a job, in its own words, where it is not because of somebody's `scancel`
_REASONS = {
    "TimeLimit": "time_limit",
    "NodeFail": "node_failure",
    "NODE_FAIL": "node_failure",
    "NodeDown": "node_failure",
}


@dataclass(frozen=True)
class Past:
    """An earlier attempt: its ending, and the step of the newest checkpoint when it began."""

    ending: Ending
    began_at: int | None = None

    @property
    def fruitless(self) -> bool:
        """Whether it left no checkpoint that was not there before."""
        return (self.ending.checkpoint or 0) <= (self.began_at or 0)


@dataclass(frozen=True)
class Situation:
    """What is known when an attempt has ended.

    `now` is the attempt, `past` the earlier ones since somebody last submitted the run, oldest first. `facts` is what
    the controller says of the job, which had been restarted `restarts` times when the attempt began. `warned` tells
    whether Slurm's warning before the time limit is due, `told` is the kind of end that Slurm has written into the log.
    """

    now: Past
    past: Sequence[Past] = ()
    facts: JobFacts | None = None
    restarts: int = 0
    warned: bool = False
    cancelled: bool = False
    superseded: bool = False
    down: tuple[str, ...] = ()
    told: str = ""


def decide(situation: Situation) -> Ending:
    """The attempt's ending with its cause and with what to do: `requeued` is still to be done, unless Slurm has."""
    ending = situation.now.ending
    if situation.superseded:
        message = "a later attempt of this run has taken over"
        return dataclasses.replace(ending, exit_code=EXIT_CRASHED, status="failed", kind="superseded", message=message)
    if ending.exit_code in (EXIT_FINISHED, EXIT_USER_ERROR):
        return ending
    if situation.cancelled or by_person(situation):
        return dataclasses.replace(ending, exit_code=EXIT_WANTS_REQUEUE, status="cancelled", kind="cancelled")
    ending = named(ending, situation)
    fruitless = fruitless_attempts([*situation.past, dataclasses.replace(situation.now, ending=ending)])
    if not already_requeued(situation) and ending.kind in OWN_FAULT and fruitless >= MAX_FRUITLESS:
        why = f"{ending.message or ending.kind}; {fruitless} attempts without a new checkpoint"
        return dataclasses.replace(ending, action="held", message=why)
    return dataclasses.replace(ending, action="requeued")


def named(ending: Ending, situation: Situation) -> Ending:
    """The ending with its cause as the whole situation tells it, not only the processes."""
    if situation.down:
        message = f"node failure: {', '.join(situation.down)}"
        return dataclasses.replace(ending, kind="node_failure", message=message, node=situation.down[0])
    facts = situation.facts
    outside = _outside_cause(situation)
    if ending.exit_code == EXIT_WANTS_REQUEUE:
        own = ending.kind if ending.kind in OWN_FAULT else "signal"  # a killed torchrun's ranks save, too
        return dataclasses.replace(ending, kind=outside or own)
    # A crash while Slurm was ending the job is the end of its patience, not of the run's own making.
    if outside and facts is not None and facts.ending and ending.kind in ("killed", "lost", "code_error"):
        message = f"{outside.replace('_', ' ')}: killed before it could save ({ending.message})"
        return dataclasses.replace(ending, kind=outside, message=message, node=None)
    return ending


def _outside_cause(situation: Situation) -> str:
    facts = situation.facts
    if facts is None:
        return "time_limit" if situation.warned else ""
    if facts.preempted:
        return "preempted"
    if already_requeued(situation):
        return "requeued" if situation.told in ("", "cancelled") else situation.told
    return _REASONS.get(facts.reason, "time_limit" if situation.warned else "")


def already_requeued(situation: Situation) -> bool:
    """Whether the job is on its way back to the queue by Slurm's or somebody else's doing."""
    return situation.facts is not None and situation.facts.restarts > situation.restarts


def by_person(situation: Situation) -> bool:
    """Whether somebody's plain `scancel` is ending the job: Slurm ends it, and for no other reason."""
    facts = situation.facts
    if facts is None or not facts.ending or facts.preempted or already_requeued(situation) or situation.down:
        return False
    return facts.state in ("COMPLETING", "CANCELLED") and facts.reason not in _REASONS


def fruitless_attempts(attempts: Sequence[Past]) -> int:
    """How many of the last attempts failed through their own fault since the last new checkpoint."""
    count = 0
    for past in reversed(attempts):
        if not past.fruitless:
            break
        count += past.ending.kind in OWN_FAULT
    return count


def nodes_to_avoid(attempts: Sequence[Past]) -> tuple[str, ...]:
    """Nodes on which the run has failed `STRIKES` times for a cause that looks like the node's."""
    blamed = Counter(past.ending.node for past in attempts if past.ending.kind in HARDWARE and past.ending.node)
    return tuple(sorted(str(node) for node, times in blamed.items() if times >= STRIKES))
