"""Ending a run on somebody's wish: on the queue, on its nodes, or on this machine."""

from __future__ import annotations

import contextlib
import getpass
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.attempts import write_json
from launch.commands import SilentError, ask
from launch.facts import Attempt, number_of, read_facts, read_object
from launch.processes import command_line
from launch.queue import PATIENCE, QueueUnknown, queue
from launch.standing import phase
from launch.status import RunStatus, statuses
from tmrc.config.errors import UserError
from tmrc.config.rundir import RunDir, append_event
from tmrc.config.waiting import waiting

LEAVE_PATIENCE = 10.0  # seconds for a job to leave the queue once Slurm has been told
BEGIN_PATIENCE = 20.0  # seconds for a local run that is being started to be at the point where it can be asked
POLL = 0.3


@dataclass(frozen=True)
class Cancelled:
    """What was done: nothing (`none`), `asked` to save and stop, `cancelled` before it ran, or `killed`."""

    run_id: str
    run_dir: str
    action: str
    state: str  # before
    job_id: str | None
    message: str


def cancel_runs(runs: Sequence[RunDir], at_once: bool) -> Iterator[Cancelled | UserError]:
    """Cancel runs, saving first unless `at_once`; one that has ended is left as it is.

    In place of a run whose executor cannot be told comes the error; of that run nothing has changed then.
    """
    found, problem = statuses(runs)
    jobs = [(run, one) for run, one in zip(runs, found, strict=True) if one.active and one.job_id]
    together = _cancel_together(jobs, at_once) if len(jobs) > 1 and not problem else {}
    for run, one in zip(runs, found, strict=True):
        try:
            yield together.get(one.run_id) or _cancel(run, one, at_once, problem)
        except UserError as error:
            yield error


def _cancel(run: RunDir, one: RunStatus, at_once: bool, problem: str) -> Cancelled:
    if not one.active:
        why = f" ({one.cause})" if one.cause and one.state in ("failed", "lost") else ""
        return _done(one, "none", f"is {one.state}{why}; nothing to cancel")
    if one.executor == "slurm":
        return _cancel_job(run, one, at_once, problem)
    return _cancel_here(run, one, at_once)


def _cancel_together(jobs: Sequence[tuple[RunDir, RunStatus]], at_once: bool) -> dict[str, Cancelled]:
    """Run id -> what was done, of the jobs that one call of scancel could tell; of the others nothing has changed."""
    done: dict[str, Cancelled] = {}
    for plainly in (True, False):
        group = [(run, one) for run, one in jobs if _is_plain(one, at_once) is plainly]
        notes = [_leave_note(run, plainly) for run, _ in group]
        ids = [str(one.job_id) for _, one in group]
        if ids and _scancel(*([] if plainly else ["--signal=TERM"]), *ids):
            for note in notes:  # each for itself tells which of them is refused, and why
                note.unlink(missing_ok=True)
            continue
        with waiting(f"{len(ids)} jobs to leave the queue"):
            gone = plainly and bool(ids) and _have_left(ids)
        done |= {one.run_id: _told(run, one, plainly, gone) for run, one in group}
    return done


def _is_plain(one: RunStatus, at_once: bool) -> bool:
    """Whether plain scancel does it: a suspended job cannot save, and one that waits has nothing to save."""
    return at_once or one.state in ("pending", "suspended")


def _told(run: RunDir, one: RunStatus, plainly: bool, gone: bool) -> Cancelled:
    """What one call of scancel for many jobs has done to this one."""
    return _ended(run, one, gone) if plainly else _asked(one)


def _asked(one: RunStatus) -> Cancelled:
    return _done(one, "asked", f"job {one.job_id} was asked to save and stop; it will not be requeued")


def _cancel_job(run: RunDir, one: RunStatus, at_once: bool, problem: str) -> Cancelled:
    if one.job_id is None:
        raise UserError(f"{run.path}: its job is not known, so it cannot be cancelled")
    if problem:
        raise UserError(f"{run.path}: job {one.job_id} cannot be cancelled from here: {problem}")
    at_once = _is_plain(one, at_once)
    note = _leave_note(run, at_once)
    try:
        if at_once:
            return _end_job(run, one, one.job_id)
        _ask_job(one.job_id)
    except UserError:
        note.unlink(missing_ok=True)
        raise
    return _asked(one)


def _leave_note(run: RunDir, at_once: bool) -> Path:
    """cancel.json, on which no supervisor starts or requeues the run until it is resumed."""
    note = run.cancel
    try:
        write_json(note, {"time": time.time(), "user": _user(), "host": socket.gethostname(), "at_once": at_once})
    except OSError as error:
        raise UserError(f"{note}: cannot be written: {error.strerror or error}") from None
    return note


def _ask_job(job_id: str) -> None:
    """TERM to the job's step. Before there is one, the batch script and what supervises the run in it are told."""
    words = _scancel("--signal=TERM", job_id)
    if words:
        words = _scancel("--batch", "--signal=TERM", job_id)
    if words:
        raise UserError(f"job {job_id} cannot be asked to stop: {words}")


def _end_job(run: RunDir, one: RunStatus, job_id: str) -> Cancelled:
    """Plain scancel."""
    if words := _scancel(job_id):
        raise UserError(f"job {job_id} cannot be cancelled: {words}")
    with waiting(f"job {job_id} to leave the queue"):
        gone = _have_left([job_id])
    return _ended(run, one, gone)


def _ended(run: RunDir, one: RunStatus, gone: bool) -> Cancelled:
    """What plain scancel has done, and a word in the run's events where nobody was running that could leave one."""
    job_id = one.job_id
    if gone and phase(read_facts(run)) in ("waiting", "running"):
        (now,), _ = statuses([run])
        with contextlib.suppress(OSError):
            append_event(run, "cancelled", attempt=now.attempts, step=now.step, kind="cancelled", job_id=job_id)
    if one.state == "pending":
        return _done(one, "cancelled", f"job {job_id} was cancelled before it ran")
    ending = "" if gone else "; Slurm is still ending it"
    return _done(one, "killed", f"job {job_id} was cancelled at once{ending}")


def _have_left(job_ids: Sequence[str]) -> bool:
    """Whether the jobs leave the queue within the time that this usually takes."""
    deadline = time.monotonic() + LEAVE_PATIENCE
    while time.monotonic() < deadline:
        try:
            rows = queue(job_ids)
        except QueueUnknown:
            return False
        if not any(row.active for row in rows.values()):
            return True
        time.sleep(POLL)
    return False


def _cancel_here(run: RunDir, one: RunStatus, at_once: bool) -> Cancelled:
    """SIGINT to the process of a run in the foreground, as Ctrl-C; three of them end it at once."""
    with waiting("the run to be at the point where it can be asked"):
        last = _attempt_here(run)
    if last is None or last.pid is None:
        return _done(one, "none", "has just ended; nothing to cancel")
    asked = number_of(read_object(run.cancel), "time")
    if not at_once and asked is not None and asked > (last.began or 0.0):  # asked three times, it would not save
        return _done(one, "asked", "was asked to save and stop before; --now ends it at once")
    _leave_note(run, at_once)
    told = 0
    try:
        for told in range(3 if at_once else 1):
            time.sleep(POLL if told else 0.0)
            os.kill(last.pid, signal.SIGINT)
    except ProcessLookupError:
        if told == 0:
            return _done(one, "none", "has just ended; nothing to cancel")
    except OSError as error:
        raise UserError(f"{run.path}: process {last.pid} cannot be told: {error.strerror}") from None
    if at_once:
        return _done(one, "killed", "was ended at once, back to the last checkpoint")
    return _done(one, "asked", "was asked to save and stop")


def _attempt_here(run: RunDir) -> Attempt | None:
    """The attempt that goes on, once it has begun; None when it is over. Raises UserError if we cannot reach it."""
    deadline = time.monotonic() + BEGIN_PATIENCE
    while (now := phase(facts := read_facts(run))) == "waiting" or facts.last is None or facts.last.pid is None:
        if time.monotonic() > deadline:
            raise UserError(f"{run.path}: is being started, but not yet where it could be asked to stop; try again")
        time.sleep(POLL)
    last = facts.last
    if now != "running" or last.pid is None:
        return None
    if last.host != socket.gethostname():
        raise UserError(f"{run.path}: runs on {last.host} (process {last.pid}); cancel it there")
    command = command_line(last.pid)
    if command and run.run_id not in command:  # files may be wrong, and process ids are used again
        raise UserError(
            f"{run.path}: process {last.pid} is not the run's, but {command.split()[0]!r}; nothing was done"
        )
    return last


def _scancel(*arguments: str) -> str:
    """Run scancel; returns why it failed, or nothing. Raises UserError where it cannot be run."""
    try:
        done = ask("scancel", *arguments, patience=3 * PATIENCE, aloud=True)
    except SilentError as error:
        hint = ": cancel the run on a machine of its cluster" if error.missing else ""
        raise UserError(f"{error}{hint}") from None
    words = " ".join(done.stderr.replace("scancel: error: ", "").split())
    return words or (f"scancel failed with exit code {done.returncode}" if done.returncode else "")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _done(one: RunStatus, action: str, message: str) -> Cancelled:
    return Cancelled(one.run_id, one.run_dir, action, one.state, one.job_id, message)
