"""What state a run is in: its files' word, checked against Slurm's queue or the processes of this host."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from launch.facts import Facts, Row, integer, number_of, word
from launch.processes import alive, command_line
from launch.queue import WAITING, AccountRow, QueueRow
from launch.words import how_ended

# pending: in the queue. starting: has nodes, no step yet. saving: was asked to stop. suspended: by Slurm.
ACTIVE = ("pending", "starting", "running", "saving", "suspended")
# What an attempt says of itself. held: failed too often to be tried again by itself. stopped: by a person, saved.
ENDED = ("finished", "failed", "held", "cancelled", "stopped")
# lost: its job is gone without a word. created: never submitted.
STATES = (*ACTIVE, *ENDED, "lost", "created")
START_PATIENCE = 60.0  # seconds that a local run may take to show that it is there


@dataclass(frozen=True)
class Slurm:
    """Slurm's answers about some jobs; `problem` is why it gave none."""

    rows: Mapping[str, QueueRow] = field(default_factory=dict)
    accounts: Mapping[str, AccountRow] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class Standing:
    """One of STATES. `cause` is why where the run's own files do not say; `sure` whether more than files was asked."""

    state: str
    cause: str = ""
    sure: bool = True


def standing(facts: Facts, slurm: Slurm) -> Standing:
    """The state of a run, given what Slurm says of its `current_job`."""
    now = phase(facts)
    if now not in ("waiting", "running"):
        return Standing(now)
    if executor(facts) != "slurm":
        return _on_this_host(facts)
    by_files = "pending" if now == "waiting" else training_state(facts)
    if slurm.problem:
        return Standing("cancelled" if facts.cancel.get("at_once") is True else by_files, sure=False)
    job = current_job(facts) or "-"
    row = slurm.rows.get(job)
    if row is None or not row.active:
        account = slurm.accounts.get(job)
        cancelled = any(said.state == "CANCELLED" for said in (account, row) if said)
        return _gone(facts, how_ended(job, row, account), "cancelled" if cancelled else "lost")
    if row.state in WAITING or (now == "waiting" and (row.state == "COMPLETING" or _not_yet_again(facts, row))):
        return Standing("pending")
    if row.state in ("SUSPENDED", "STOPPED"):
        return Standing("suspended")
    return Standing("starting" if now == "waiting" else by_files)


def phase(facts: Facts) -> str:
    """By the files alone: created, waiting, running, or one of ENDED."""
    last, newest = facts.last, facts.newest("submitted", "started", "resumed", "cancelled")
    if newest is not None and newest["event"] == "cancelled":
        return "cancelled"
    if fresh_submission(facts) is not None:
        return "waiting"
    if last is None:
        return _without_attempts(facts)
    if last.over:
        if last.action in ("requeued", "resubmitted"):
            return "waiting"
        return "held" if last.action == "held" else last.status if last.status in ENDED else "failed"
    return "running"


def _without_attempts(facts: Facts) -> str:
    """The same of a run without any attempt's directory; there may have been one: created, running or of ENDED."""
    newest = facts.newest("submitted", "started", "resumed", *ENDED)
    if newest is None or newest["event"] == "submitted":
        return "created"
    return str(newest["event"]) if newest["event"] in ENDED else "running"


def executor(facts: Facts) -> str:
    """slurm or local; empty where nobody has said."""
    fresh = fresh_submission(facts)
    if fresh is not None:
        return word(fresh, "executor")
    if facts.last and facts.last.executor:
        return facts.last.executor
    handed = facts.newest("submitted")  # the attempt has a directory, and is about to say whose it is
    return word(handed, "executor") if facts.last and handed else ""


def current_job(facts: Facts) -> str | None:
    """The Slurm job that runs the run, or will or did last."""
    if executor(facts) != "slurm":
        return None
    handed = facts.newest("submitted")
    job = _job_of(handed) if handed else None
    if facts.last is None or (handed and job and not _before(handed, facts.last.began)):
        return job
    return facts.last.job_id or job


def training_state(facts: Facts) -> str:
    """What a living attempt is doing, by its events."""
    if not facts.of_attempt("started", "resumed"):
        return "starting"
    asked = facts.cancel and not _before(facts.cancel, facts.last.began if facts.last else None)
    return "saving" if asked or facts.of_attempt("signal") else "running"


def fresh_submission(facts: Facts) -> Row | None:
    """The last submission, if no attempt has come of it yet."""
    row, last = facts.newest("submitted"), facts.last
    if row is None:
        return None
    if last is None:
        return row if _without_attempts(facts) == "created" else None
    attempt = integer(row, "attempt")
    if attempt is not None:
        return row if attempt > last.number else None
    return None if _before(row, last.began) or _job_of(row) == last.job_id else row


def _not_yet_again(facts: Facts, row: QueueRow) -> bool:
    """Whether the job, which is to be requeued, is still where the last attempt has ended."""
    ended = facts.last.ended if facts.last and fresh_submission(facts) is None else None
    return ended is not None and row.start is not None and row.start < ended


def _on_this_host(facts: Facts) -> Standing:
    """A run of `tmrc-submit --local`, whose processes only its own host can look at."""
    fresh, last = fresh_submission(facts), facts.last
    if fresh is not None:  # Submitit's process is there, but has not yet begun the attempt
        pid = _job_of(fresh) or ""
        if pid.isdecimal() and len(pid) < 10 and facts.run.run_id in command_line(int(pid)):
            return Standing("starting")
        if _before(fresh, time.time() - START_PATIENCE):
            return _gone(facts, "it was submitted, but has never begun")
        return Standing("starting", sure=False)
    silent = not facts.of_attempt("started", "resumed", *ENDED)
    if last is not None and last.pid is None and silent and time.time() - (last.began or 0.0) < START_PATIENCE:
        return Standing("starting", sure=False)
    if last is None or last.pid is None:
        return _gone(facts, "nobody knows which process runs it")
    if last.host != socket.gethostname():
        return Standing(training_state(facts), sure=False)
    if alive(last.pid, last.started):
        return Standing(training_state(facts))
    return _gone(facts, f"its process {last.pid} on {last.host} is gone without a word")


def _gone(facts: Facts, words: str, state: str = "lost") -> Standing:
    """Nobody runs it: as its events say, else cancelled if somebody wanted that, else `state`."""
    said = facts.of_attempt("started", "resumed", "requeued", *ENDED) if phase(facts) == "running" else []
    if said and said[-1]["event"] in ENDED:
        return Standing(said[-1]["event"])
    if facts.cancel:
        by = word(facts.cancel, "user")
        return Standing("cancelled", f"cancelled by {by}" if by else words)
    return Standing(state, words)


def _before(row: Row, moment: float | None) -> bool:
    """Whether an event is known to be older than `moment`."""
    when = number_of(row, "time")
    return when is not None and moment is not None and when < moment


def _job_of(row: Row) -> str | None:
    value = row.get("job_id")
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None
