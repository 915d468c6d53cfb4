"""A run on one rank, from its directory to its outcome."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import sys
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tmrc.config.load import load_config
from tmrc.config.rundir import EXIT_CRASHED, EXIT_FINISHED, EXIT_USER_ERROR, EXIT_WANTS_REQUEUE, RunDir, append_event
from tmrc.config.schema import Config
from tmrc.config.traces import SPENT
from tmrc.train import outcome as outcomes
from tmrc.train.distributed import from_leader, join_world
from tmrc.train.failures import RunFailure, disk_error, is_plain
from tmrc.train.fit import explained
from tmrc.train.loop import Loop
from tmrc.train.outcome import Outcome
from tmrc.train.pulse import pulse_of
from tmrc.train.spent import Spent
from tmrc.train.start import Start, StoppedEarly
from tmrc.train.stop import SIGNAL_ELSEWHERE, Agreement, StopRequest
from tmrc.train.tracking import Tracker


@dataclass
class Session:
    """What is known of this process while it runs, for the report on how it ended."""

    run: RunDir
    attempt: int
    rank: int
    request: StopRequest
    spent: Spent | None = None  # on rank 0
    start: Start | None = None
    loop: Loop | None = None

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.loop.progress.step if self.loop else 0


def main(arguments: Sequence[str]) -> int:
    """Run and return the exit code: 0 finished, 2 config or data error, 75 stopped and wants the queue, 1 failure."""
    if len(arguments) != 1 or not _is_directory(Path(arguments[0])):
        print("usage: python -m tmrc.train RUN_DIR", file=sys.stderr)
        return EXIT_USER_ERROR
    os.umask(os.umask(0o077) | stat.S_IWOTH)  # what not everybody may write to, nobody can lead astray
    run = RunDir(Path(arguments[0]))
    request = StopRequest()
    request.install()
    rank = int(os.environ.get("RANK", "0"))
    _speak_once(rank)
    try:
        number = outcomes.attempt_number(run, rank)
    except OSError as unread:
        _say(f"error: rank {rank}: {disk_error('the attempts of the run cannot be read', unread)}")
        return EXIT_CRASHED
    session = Session(run, number, rank, request)
    try:
        outcome = _train(session)
    except Exception as caught:
        error = _lost_to_another(session) or _short_of_memory(session, caught) or caught
        outcome = outcomes.failed(error, session.step)
        _explain(error, outcome, session)
    if session.spent:
        session.spent.begin("ending", session.step)
    if outcome.status != "failed":
        request.dismiss()
    try:
        _record(session, outcome)
    except OSError as error:  # a full disk: the exit code still says how it ended
        _say(f"error: rank {session.rank}: the outcome cannot be recorded: {error}")
    if session.spent:
        session.spent.close()
    under_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    # torchrun would report an orderly stop as a crash; the launcher reads the recorded outcome.
    return EXIT_FINISHED if under_torchrun and outcome.exit_code == EXIT_WANTS_REQUEUE else outcome.exit_code


def _is_directory(path: Path) -> bool:
    with contextlib.suppress(OSError):  # of a directory above it that may not be searched
        return path.is_dir()
    return False


def _lost_to_another(session: Session) -> Exception | None:
    """What is behind any error of an attempt that has been shut out."""
    fence = session.start.fence if session.start else None
    return fence.lost() if fence else None


def _short_of_memory(session: Session, error: Exception) -> Exception | None:
    """What is behind an out-of-memory with a micro-batch size that somebody has chosen."""
    return explained(error, session.start.config, session.start.world) if session.start else None


def _record(session: Session, outcome: Outcome) -> None:
    """Leave the outcome in this rank's file and, from rank 0, in events.jsonl."""
    outcomes.record(session.run, session.attempt, session.rank, outcome)
    # That another process went first is no news, and why it did is not known here: the launcher says it.
    if session.rank != 0 or outcome.kind in ("stopped", "peer_lost"):
        return
    fields: dict[str, Any] = {"attempt": session.attempt, "step": outcome.step}
    if outcome.status == "failed":
        fields |= {"exit_code": outcome.exit_code, "kind": outcome.kind, "cause": outcome.message}
    append_event(session.run, outcome.status, **fields)


def _speak_once(rank: int) -> None:
    """Warnings as plain lines, from rank 0 alone: what they say is the same on every rank."""
    logging.basicConfig(level=logging.WARNING if rank == 0 else logging.ERROR, format="%(message)s")
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    if rank != 0:
        warnings.simplefilter("ignore")


def _explain(error: Exception, outcome: Outcome, session: Session) -> None:
    """One line for what a person can mend, a traceback for what is our bug."""
    if not (isinstance(error, RunFailure) or is_plain(outcome.kind)):
        _say(traceback.format_exc().rstrip())
    _say(f"error: rank {session.rank}: {outcome.message}")


def _say(line: str) -> None:
    """A line on stderr, which can be on a full disk as well."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def _train(session: Session) -> Outcome:
    """Join the other ranks, build or restore the run, and train."""
    if session.rank == 0:
        session.spent = Spent(session.run.attempt(session.attempt) / SPENT)
    pulse = pulse_of(session.rank, session.spent)
    pulse("reading the configuration")
    knows_attempt = session.rank == 0 or "TMRC_ATTEMPT" in os.environ
    if knows_attempt:  # before anything that takes long, so that a request to stop can be delivered
        outcomes.announce(session.run, session.attempt, session.rank)
    config = load_config(session.run.config)
    _set_determinism(config)
    with join_world(config.training, pulse) as world:
        session.attempt = from_leader(session.attempt, world)
        if not knows_attempt:
            outcomes.announce(session.run, session.attempt, session.rank)
        start = Start(session.run, session.attempt, config, world, session.request, Agreement(world))
        session.start = start
        try:
            session.loop = start.loop()
        except StoppedEarly:
            return _stopped_early(session, start.step())
        tracker = Tracker(session.run, config.wandb_log, session.attempt) if world.leads else None
        outcome = session.loop.run()
        pulse("ending")
        if tracker:
            tracker.finish(outcome.status)
        return outcome


def _stopped_early(session: Session, step: int) -> Outcome:
    if error := _lost_to_another(session):
        raise error
    cause = session.request.signal or SIGNAL_ELSEWHERE
    if session.rank == 0:
        append_event(session.run, "signal", attempt=session.attempt, step=step, cause=cause)
    return outcomes.stopped(step, cause)


def _set_determinism(config: Config) -> None:
    if config.training.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cuda.matmul.allow_tf32 = config.model.autocast_precision != "float32"
    torch.manual_seed(config.training.seed)
