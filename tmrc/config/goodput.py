"""Where the wall time of a run goes, attempt by attempt, and how often a run like it should save.

Rank 0 of each attempt adds up its phases and leaves the sums in attempts/<n>/spent.json (tmrc.train.spent). What was
outside of the processes comes from the events and from what the launcher wrote. docs/goodput.md says what it means.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tmrc.config.rundir import RunDir
from tmrc.config.traces import Saved, Spent, Trace, Traces, Wish, read_traces

BUCKETS = ("queue", "start", "compile", "data_wait", "step", "validation", "save", "lost", "idle")
MEASURED = ("start", "compile", "data_wait", "step", "validation", "save")  # what rank 0 measures
UNDOABLE = ("step", "validation", "data_wait")  # what is done again after a fall back to a checkpoint
MOST_WRITING = 0.1  # share of the time in which a checkpoint may be being written, beside training
QUIET = 7200.0  # seconds without a sign of life after which an attempt is taken for dead where nobody has looked
Place = Literal["running", "queued", "over"]


@dataclass(frozen=True)
class AttemptAccount:
    """One attempt: `seconds` of each bucket, which add up to its time on its nodes plus the queue before it.

    Times are unix times; `ended` is now if it goes on. `measured` tells whether rank 0 has left its sums, and
    `interrupted` whether the attempt ended with steps that it had not saved.
    """

    attempt: int
    began: float
    ended: float
    going_on: bool
    seconds: dict[str, float]
    measured: bool = False
    interrupted: bool = False

    @property
    def allocated(self) -> float:
        """Seconds on its nodes."""
        return self.ended - self.began


@dataclass(frozen=True)
class RunAccount:
    """A run: its attempts, and `seconds` of each bucket over all of them and the queue.

    `interruptions` counts the attempts that lost state because they could not save before they ended. `saves`
    checkpoints between steps took `save_seconds` together, and training stood still for `stall_seconds` for them.
    """

    seconds: dict[str, float]
    attempts: tuple[AttemptAccount, ...]
    interruptions: int
    saves: int = 0
    save_seconds: float = 0.0
    stall_seconds: float = 0.0

    @property
    def wall(self) -> float:
        """Seconds in the queue and on nodes."""
        return sum(self.seconds.values())

    @property
    def allocated(self) -> float:
        """Seconds on nodes."""
        return sum(attempt.allocated for attempt in self.attempts)

    @property
    def goodput(self) -> float | None:
        """Share of the time on its nodes that went into steps that count; None before anything was measured."""
        if not any(attempt.measured for attempt in self.attempts) or self.allocated <= 0:
            return None
        return self.seconds["step"] / self.allocated

    @property
    def save_every(self) -> float | None:
        """The recommended training.save_every in seconds; None when it cannot be said."""
        return recommended_save_every([self])


def recommended_save_every(accounts: Iterable[RunAccount]) -> float | None:
    """Seconds between checkpoints that lose the least time, from what runs of one kind (a sweep) have met together.

    The cost of a save is the time that it holds training up, the mean of all measured ones. The time between
    interruptions is that on nodes divided by the number of interruptions that lost state; those that were warned and
    saved first do not count. None without either. Never so short that a checkpoint is being written for more than a
    tenth of the time.
    """
    found = list(accounts)
    saves, interruptions = sum(one.saves for one in found), sum(one.interruptions for one in found)
    cost, allocated = sum(one.stall_seconds for one in found), sum(one.allocated for one in found)
    if not saves or not interruptions or cost <= 0 or allocated <= 0:
        return None
    writing = sum(one.save_seconds for one in found) / saves
    return max(best_interval(cost / saves, allocated / interruptions), writing / MOST_WRITING)


def best_interval(cost: float, between: float) -> float:
    """Seconds of work between two saves of `cost` seconds, when failures come `between` seconds apart on average.

    J. W. Young, "A first order approximation to the optimum checkpoint interval", CACM 17(9), 1974: sqrt(2 C M). With
    the higher-order terms of J. T. Daly, "A higher order estimate of the optimum checkpoint interval for restart
    dumps", FGCS 22(3), 2006, which hold where a save is not short against M: there it is M itself from
    C >= 2 M on. Both take failures as independent of each other and of what the run does.
    """
    if cost >= 2 * between:
        return between
    share = cost / (2 * between)
    return math.sqrt(2 * cost * between) * (1 + math.sqrt(share) / 3 + share / 9) - cost


def account(run: RunDir, now: float | None = None, place: Place | None = None) -> RunAccount:
    """Put together what the files of `run` tell. Never raises for what is in them.

    The wall time goes from the first submission (the making of its directory, if nobody has noted one) to the end of
    the last attempt, or to `now` while it is active. Left out is the time in which nobody had the run in the queue:
    from an end that did not requeue it (stopped, cancelled, failed, held, finished) to the next submission.

    `place` is where the run is, for those who have asked Slurm or looked for its processes; without it an attempt
    without an ending goes on as long as it gave a sign of life in the last two hours. An attempt counts up to the
    beginning of the next one, whatever it did after that. Clocks of several machines may differ: no time is negative.
    What an attempt without a spent.json did is `start` until it trained, `save` for its checkpoints, else `idle`.
    """
    now = time.time() if now is None else now
    traces = read_traces(run)
    spans = _spans(traces, now, place)
    queued = _queued(traces, spans, now, place)
    attempts = []
    for index, (trace, span) in enumerate(zip(traces.attempts, spans, strict=True)):
        attempts.append(_attempt(trace, span, queued[index], _kept(traces.attempts, index)))
    seconds = {name: math.fsum(one.seconds[name] for one in attempts) for name in BUCKETS}
    seconds["queue"] += queued[-1]
    saves = _between_steps([saved for trace in traces.attempts for saved in trace.saved if saved.seconds is not None])
    writing, stall = (math.fsum(getattr(saved, name) or 0.0 for saved in saves) for name in ("seconds", "stall"))
    lost = sum(one.interrupted for one in attempts)
    return RunAccount(seconds, tuple(attempts), lost, len(saves), writing, stall)


def _between_steps(saves: list[Saved]) -> list[Saved]:
    """Those that were written beside training, if there are any: the last one of an attempt is waited for."""
    return [saved for saved in saves if (saved.stall or 0) < (saved.seconds or 0)] or saves


@dataclass(frozen=True)
class _Span:
    began: float
    ended: float
    going_on: bool


def _spans(traces: Traces, now: float, place: Place | None) -> list[_Span]:
    """When each attempt had its nodes: in order, one after the other."""
    spans: list[_Span] = []
    for trace, following in itertools.zip_longest(traces.attempts, traces.attempts[1:]):
        began = max(trace.began, spans[-1].ended if spans else 0.0)
        going_on = following is None and _goes_on(trace, traces.wishes, now, place)
        ended = now if going_on else trace.last_sign if trace.ended is None else trace.ended
        if following is not None:
            ended = min(ended, following.began)
        spans.append(_Span(began, max(began, ended), going_on))
    return spans


def _goes_on(last: Trace, wishes: Sequence[Wish], now: float, place: Place | None) -> bool:
    """Whether the newest attempt still runs."""
    submitted_again = any(wish.before is not None and wish.before > last.number for wish in wishes)
    if last.over or submitted_again or place in ("queued", "over"):
        return False
    return place == "running" or now - last.last_sign < QUIET


def _queued(traces: Traces, spans: Sequence[_Span], now: float, place: Place | None) -> list[float]:
    """Seconds in the queue before each attempt and, last, after all of them."""
    attempts = traces.attempts
    wishes: list[list[Wish]] = [[] for _ in range(len(attempts) + 1)]
    for wish in traces.wishes:
        wishes[_gap(wish, attempts)].append(wish)
    found = []
    for index, inside in enumerate(wishes):
        opened = index > 0 and _left_queued(attempts, index, place)
        start = spans[index - 1].ended if index else min((wish.time for wish in inside), default=math.inf)
        if index == 0 and attempts and not traces.wishes and traces.created is not None:
            opened, start = True, traces.created
        if index < len(spans):
            end = spans[index].began
        else:  # where the job has gone without a word, nobody knows when
            end = max((wish.time for wish in inside), default=start) if place == "over" else now
        found.append(_open_time(inside, min(start, end) if index == 0 else start, end, opened))
    return found


def _gap(wish: Wish, attempts: Sequence[Trace]) -> int:
    """The number of attempts that come before `wish`: by its word, else by the clock."""
    if wish.before is not None:
        return sum(trace.number < wish.before for trace in attempts)
    if wish.after is not None:
        return sum(trace.number <= wish.after for trace in attempts)
    return sum(trace.began <= wish.time for trace in attempts)


def _left_queued(attempts: Sequence[Trace], index: int, place: Place | None) -> bool:
    """Whether the run was in the queue again as soon as the attempt before gap `index` was over."""
    before = attempts[index - 1]
    if before.requeued or before.ended is not None:
        return before.requeued
    if index == len(attempts):  # it died without a word
        return place == "queued"
    return bool(before.job_id) and before.job_id == attempts[index].job_id


def _open_time(wishes: Sequence[Wish], start: float, end: float, opened: bool) -> float:
    """Seconds from `start` to `end` in which the run was in the queue, which it was at first if `opened`."""
    total, since, at = 0.0, start if opened else None, start
    for wish in wishes:
        at = min(max(wish.time, at), max(start, end))
        if wish.opens:
            since = at if since is None else since
        elif since is not None:
            total, since = total + at - since, None
    return total + max(0.0, end - since) if since is not None else total


def _kept(attempts: Sequence[Trace], index: int) -> int | None:
    """The lowest step from which an attempt after `index` went on; None when none has."""
    return min((trace.first_step for trace in attempts[index + 1 :] if trace.first_step is not None), default=None)


def _attempt(trace: Trace, span: _Span, queued: float, kept: int | None) -> AttemptAccount:
    length, spent = span.ended - span.began, trace.spent
    seconds = _measured(span, spent) if spent else _unmeasured(trace, span)
    undone = {} if span.going_on else _undone(trace, seconds, kept)
    unsaved = {} if span.going_on else _undone(trace, seconds, None)
    seconds["lost"] = sum(undone.values())
    for name, lost in undone.items():
        seconds[name] -= lost
    interrupted = seconds["lost"] > 0 and sum(unsaved.values()) > 0  # else it had saved, and a checkpoint was damaged
    _fit(seconds, length)
    seconds["queue"] = queued
    return AttemptAccount(trace.number, span.began, span.ended, span.going_on, seconds, spent is not None, interrupted)


def _measured(span: _Span, spent: Spent) -> dict[str, float]:
    """Rank 0's sums; what was before it counts as start, and what goes on now as what it was when it last wrote."""
    seconds = {name: spent.seconds.get(name, 0.0) if name in MEASURED else 0.0 for name in BUCKETS}
    seconds["start"] += max(0.0, spent.began - span.began)
    if span.going_on and spent.phase in MEASURED:
        seconds[spent.phase] += max(0.0, span.ended - spent.at)
    return seconds


def _unmeasured(trace: Trace, span: _Span) -> dict[str, float]:
    """What the events tell of an attempt whose rank 0 has left no sums."""
    seconds = dict.fromkeys(BUCKETS, 0.0)
    seconds["start"] = (span.ended if trace.trains_from is None else trace.trains_from) - span.began
    seconds["start"] = max(0.0, seconds["start"])
    seconds["save"] = math.fsum(saved.stall or 0.0 for saved in trace.saved)
    return seconds


def _undone(trace: Trace, seconds: Mapping[str, float], kept: int | None) -> dict[str, float]:
    """Bucket -> seconds after the checkpoint from which the run went on, at step `kept`, or else after the last one."""
    spent = trace.spent
    if spent is None or (kept is None and trace.status == "finished"):
        return {}
    good = [saved for saved in trace.saved if kept is None or saved.step <= kept]
    base = good[-1].step if good else trace.first_step
    share = 1.0
    if kept is not None and base is not None and base < kept:
        # The run went on from a checkpoint that was whole, but killed before its event: by then it may have gone on.
        share = max(0.0, (spent.step - kept) / (spent.step - base)) if spent.step > base else 0.0
    by_then: Mapping[str, float] | None = good[-1].spent if good else {}
    if by_then is None:
        return {}  # an event of a version that did not say
    return {name: share * max(0.0, seconds[name] - by_then.get(name, 0.0)) for name in UNDOABLE}


def _fit(seconds: dict[str, float], length: float) -> None:
    """Make the buckets add up to `length` seconds: the rest is idle; of too much, what came last goes first.

    It is too much when a fenced attempt went on beside its successor, and when clocks differ.
    """
    excess = sum(seconds.values()) - length
    for name in ("lost", *UNDOABLE, "save", "compile", "start"):
        cut = min(max(excess, 0.0), seconds[name])
        seconds[name] -= cut
        excess -= cut
    seconds["idle"] = max(0.0, length - sum(seconds.values()))
