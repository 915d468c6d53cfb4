"""Waiting for the moment at which a fault hits."""

from __future__ import annotations

import time
from collections.abc import Callable

from launch.attempts import newest_step
from launch.drill.course import Course
from launch.drill.plan import Moment
from launch.drill.watch import SAVING, VALIDATING, Sight, Watcher

LATE = 0.3  # seconds of an end that is seen by nobody: what a fault "at the end" is spread over, at least
QUICK, SLOW = 0.004, 0.02  # seconds between looks: a checkpoint of a small model takes 20 ms


def _settled(moment: Moment, course: Course) -> Moment:
    """The moment, or one by steps where the run has none of its kind."""
    missing = (moment.kind == "checkpoint" and not course.saves) or (
        moment.kind == "validation" and not course.validations
    )
    return Moment("step", moment.at, moment.within) if missing else moment


def wait_for(moment: Moment, course: Course, watcher: Watcher, over: Callable[[], bool], begun: float) -> bool:
    """Wait until it is the moment, of the attempt that began at `begun` (time.monotonic()). False when it is over."""
    moment = _settled(moment, course)
    first = _resumes_at(watcher)
    if moment.kind in ("start-up", "time"):
        share = first / max(course.steps, 1)
        span = course.start if moment.kind == "start-up" else course.wall - share * course.training
        return _until(lambda _: time.monotonic() >= begun + moment.at * span, watcher, over)
    if moment.kind == "step":
        return _until(_reaches(first + 1 + int(moment.at * max(course.steps - first, 1))), watcher, over) and _pause(
            moment.within * course.training / max(course.steps, 1), over
        )
    if moment.kind == "end":
        return _until(_reaches(course.steps), watcher, over) and _pause(moment.at * max(course.end, LATE), over)
    phase, count = (VALIDATING, course.validations) if moment.kind == "validation" else (SAVING, course.saves)
    left = max(1, round(count * (1 - first / max(course.steps, 1))))
    return _nth(phase, 1 + int(moment.at * left), watcher, over) and _pause(moment.within * course.save, over)


def shown(moment: Moment, sight: Sight, seconds: float) -> str:
    """When it hit, in words: the kind that was planned, and what was seen: `step 36 (18.4 s, validating)`."""
    step, since = f"step {sight.step}", f"{seconds:.1f} s"
    kind = {"step": step, "time": since}.get(moment.kind, moment.kind)
    return f"{kind} ({', '.join(text for text in (step, since, sight.phase) if text and text != kind)})"


def _resumes_at(watcher: Watcher) -> int:
    """The step that the attempt which begins goes on from, as far as it can be known now."""
    return (newest_step(watcher.run) if watcher.run else None) or 0


def _reaches(step: int) -> Callable[[Sight], bool]:
    return lambda sight: sight.step >= step


def _until(condition: Callable[[Sight], bool], watcher: Watcher, over: Callable[[], bool], every: float = SLOW) -> bool:
    while True:
        if condition(watcher.look()):
            return not over()
        if over():
            return False
        time.sleep(every)


def _nth(phase: str, number: int, watcher: Watcher, over: Callable[[], bool]) -> bool:
    """Wait for the `number`-th time that rank 0 begins with the phase."""
    for _ in range(number):
        if not _until(lambda sight: sight.phase != phase, watcher, over, QUICK):
            return False
        if not _until(lambda sight: sight.phase == phase, watcher, over, QUICK):
            return False
    return True


def _pause(seconds: float, over: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, SLOW))
    return not over()
