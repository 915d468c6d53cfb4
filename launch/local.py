"""A run in the foreground of this machine, through Submitit's local executor.

Ctrl-C, a closed terminal and a killed `tmrc-submit` all mean: save and stop. Submitit's processes must not see the
signal themselves (its controller kills the job a second after Ctrl-C), so they are started with it ignored, and the
job is asked by its process id.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from launch.attempts import Ending, Owner, last_attempt, living_ranks, read_ending, read_owner, write_json
from launch.goodput import record_goodput
from launch.gpus import Resources
from launch.job import TRAINER, TrainJob
from launch.plaintext import one_line
from launch.processes import adopt_orphans, kill_descendants, start_time
from launch.progress import Display, State, display, quiet_when_nobody_reads
from launch.signals import let_through
from launch.tail import Tail
from tmrc.config.errors import UserError
from tmrc.config.rundir import EXIT_CRASHED, RunDir, append_event

POLL = 0.1  # seconds between looks at the run
TEN_YEARS = 60 * 24 * 3650  # minutes; Submitit's own default ends a local job after two
ORPHAN_PATIENCE = 35.0  # seconds for training processes to save when their job was killed
ASKED = (
    "saving and stopping ... (Ctrl-C twice more ends it without saving)",
    "still saving; once more ends it without saving",
    "ending it without saving",
)
ASKED_BEFORE_TRAINING = (
    "stopping ... (Ctrl-C twice more ends it at once)",
    "still stopping; once more ends it at once",
    "ending it at once",
)


@dataclass(frozen=True)
class LocalResult:
    """What became of a local run."""

    ending: Ending
    state: State
    job_id: str
    log: Path


@dataclass
class StopRequests:
    """Requests to stop: how many came, how many were passed on."""

    came: int = 0
    passed_on: int = 0


@dataclass(frozen=True)
class _Own:
    """The attempt that our own job has begun."""

    number: int
    owner: Owner


def run_local(run: RunDir, resources: Resources, trainer: str = TRAINER) -> LocalResult:
    """Run one attempt, showing its progress on stderr; returns when nothing of it is left."""
    adopt_orphans()
    before = last_attempt(run)
    me = (os.getpid(), start_time(os.getpid()))
    job = TrainJob(str(run.path), resources.processes, resources.devices, me, trainer)
    tails = Tail(run.metrics), Tail(run.events)
    for tail in tails:
        tail.skip()
    state = State()
    with signals_counted() as requests, display() as shown:
        submitted = _submit(run, job)
        with contextlib.suppress(OSError):
            append_event(run, "submitted", attempt=before + 1, executor="local", job_id=submitted.job_id)
        own: _Own | None = None
        while not (submitted.done() and (own is None or not own.owner.alive())):
            own = own or _find_own(run, before, me)
            _look(state, tails, shown)
            _pass_on(requests, own, state, shown)
            time.sleep(POLL)
        _look(state, tails, shown)
        ending = _ending(run, own or _find_own(run, before, me), submitted.paths.stdout)
    kill_descendants(os.getpid())
    return LocalResult(ending, state, submitted.job_id, submitted.paths.stdout)


def _submit(run: RunDir, job: TrainJob) -> Any:
    """Hand the job to Submitit; the processes it starts take `launch` from the run's own copy of the code."""
    from submitit.core.utils import environment_variables
    from submitit.local.local import LocalExecutor

    for stale in run.submitit.glob("*.pkl*"):
        stale.unlink()  # a process id used again would find the pickles of an earlier attempt
    executor = LocalExecutor(folder=run.submitit)
    executor.update_parameters(timeout_min=TEN_YEARS, signal_delay_s=0, tasks_per_node=1, stderr_to_stdout=True)
    inherited = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(run.code), inherited] if inherited else [str(run.code)])
    # The executor hides all GPUs from a job that asks for none; the job names its devices itself.
    with environment_variables(PYTHONPATH=path, PYTHONSAFEPATH="1"), _signals_ignored():
        try:
            return executor.submit(job)
        except OSError as error:
            raise UserError(f"{run.path}: the job cannot be started: {error.strerror or error}") from None


def _look(state: State, tails: tuple[Tail, Tail], shown: Display) -> None:
    """Take in what the run has written since the last look."""
    metrics, events = tails
    before, resumed = state.saved, state.resumed
    for row in events.rows():
        state.event(row)
    now = time.monotonic()
    for row in metrics.rows():
        state.metrics(row, now)
    with quiet_when_nobody_reads():
        if state.resumed != resumed:
            shown.say(f"resumed at step {state.resumed:,}")
            for line in state.passed_over:
                shown.say(f"warning: {one_line(line)}")
        if state.saved != before:
            shown.say(f"checkpoint at step {state.saved:,}")
        shown.update(state)


def _pass_on(requests: StopRequests, own: _Own | None, state: State, shown: Display) -> None:
    """Tell the job of requests to stop, once it can be told."""
    if requests.passed_on == requests.came:
        return
    if own is None:  # not yet at the point where it listens
        if requests.came >= 3:
            kill_descendants(os.getpid())
        return
    requests.passed_on += 1
    with quiet_when_nobody_reads():
        words = ASKED if state.started else ASKED_BEFORE_TRAINING
        shown.say(words[min(requests.passed_on, 3) - 1])
    with contextlib.suppress(ProcessLookupError):
        os.kill(own.owner.pid, signal.SIGINT)


def _find_own(run: RunDir, before: int, me: tuple[int, int | None]) -> _Own | None:
    """The attempt after `before` that our job has begun, if it has: another's job may have been faster."""
    for number in range(before + 1, last_attempt(run) + 1):
        owner = read_owner(run, number)
        unnamed = owner is not None and owner.submitter is None and owner.job_id is None  # a run with older code
        if owner is not None and owner.here() and (owner.submitter == me or unnamed):
            return _Own(number, owner)
    return None


def _ending(run: RunDir, own: _Own | None, log: Path) -> Ending:
    """How our job ended: what it wrote or, when it could not write, what it printed last."""
    said = own and read_ending(run, own.number)
    if said:
        return said
    if own is not None:
        _wait_for_orphans(run, own.number)
    last = _last_line(log)
    printed = re.fullmatch(r"tmrc: (finished|stopped|failed) \(exit code (\d+)\)(?:: (.*))?", last)
    if printed:
        return Ending(int(printed[2]), printed[1], printed[3] or "")
    if own is None:
        return Ending(EXIT_CRASHED, "failed", f"the job did not start{': ' if last else ''}{last}")
    ending = Ending(EXIT_CRASHED, "failed", "the job was killed before it could say how training ended")
    with contextlib.suppress(OSError):  # a full disk must not hide how training ended
        write_json(run.attempt(own.number) / "job.json", vars(ending))
        append_event(run, "failed", attempt=own.number, exit_code=ending.exit_code, cause=ending.message)
        record_goodput(run, own.number)
    return ending


def _wait_for_orphans(run: RunDir, attempt: int) -> None:
    """Give the training processes of a killed job time to save."""
    deadline = time.monotonic() + ORPHAN_PATIENCE
    while time.monotonic() < deadline and living_ranks(run, attempt):
        time.sleep(POLL)


def _last_line(log: Path) -> str:
    """The last line of the job's log; empty when there is none."""
    try:
        lines = log.read_text("utf8", "replace").split("\n")
    except OSError:
        return ""
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")


@contextmanager
def _signals_ignored() -> Iterator[None]:
    """What is started within inherits that the terminal's signals are ignored."""
    signals = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    before = [signal.signal(signum, signal.SIG_IGN) for signum in signals]
    try:
        yield
    finally:
        for signum, handler in zip(signals, before, strict=True):
            signal.signal(signum, handler)


@contextmanager
def signals_counted() -> Iterator[StopRequests]:
    """INT, TERM and HUP are requests to stop, but for those that whoever started us has us ignore."""
    requests = StopRequests()

    def count(signum: int, frame: FrameType | None) -> None:
        requests.came += 1

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    heeded = [signum for signum in signals if signal.getsignal(signum) is not signal.SIG_IGN]  # nohup ignores HUP
    before = [signal.signal(signum, count) for signum in heeded]
    let_through()  # what was held back while nobody listened
    try:
        yield requests
    finally:
        for signum, handler in zip(heeded, before, strict=True):
            signal.signal(signum, handler)
