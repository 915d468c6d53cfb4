"""What Slurm knows of many jobs, from one squeue and one sacct call.

Users' own SQUEUE_* and SACCT_* settings (a format, a filter by partition) are left out, so that a job is never taken
for gone because of them.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass

from launch.commands import ENGLISH, SilentError, ask
from launch.times import duration

PATIENCE = 10.0  # seconds for an answer; a slurmctld that is down keeps squeue trying for longer
WAITING = ("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD")
RUNNING = ("RUNNING", "CONFIGURING", "COMPLETING", "SIGNALING", "STAGE_OUT", "RESIZING", "SUSPENDED", "STOPPED")
_JOB_ID = re.compile(r"(\d+)(?:_(\d+))?")
_PENDING_ARRAY = re.compile(r"(\d+)_\[(.*?)\]?")


class QueueUnknown(Exception):
    """Slurm does not say what is in its queue; the message is one line why."""


@dataclass(frozen=True)
class QueueRow:
    """A job as squeue shows it; for some minutes that includes jobs that have ended."""

    state: str  # Slurm's word, such as PENDING
    reason: str = ""  # Slurm's word for why it waits; empty for none
    nodes: str = ""  # Slurm's short form, such as node[1-4]
    start: float | None = None  # unix time of its start, for a waiting job the expected one
    time_left: float | None = None  # seconds until its time limit

    @property
    def active(self) -> bool:
        """Whether it waits or runs, rather than having ended."""
        return self.state in WAITING or self.state in RUNNING


@dataclass(frozen=True)
class AccountRow:
    """A job as Slurm's accounting remembers it."""

    state: str  # Slurm's word, such as TIMEOUT
    by: str | None = None  # who cancelled it
    exit_code: int = 0
    signal: int = 0
    nodes: str = ""
    ended: float | None = None  # unix time


def queue(job_ids: Iterable[str], aloud: bool = False) -> dict[str, QueueRow]:
    """Job id (`123`, `123_4` for the task of an array) -> what squeue says; jobs it does not know are left out.

    `aloud` says on stderr that squeue is waited for. Raises QueueUnknown where nobody answers: no squeue, slurmctld
    down, ten seconds without a word.
    """
    wanted = {job_id for job_id in job_ids if _JOB_ID.fullmatch(job_id)}
    if not wanted:
        return {}
    command = ["squeue", "-h", "-r", "-t", "all", "-o", "%i|%T|%N|%S|%L|%r", "-j", _bases(wanted)]
    done = _ask(command, aloud)
    if done.returncode != 0:
        if "Invalid job id" in done.stderr:  # what it says of the only job asked for when that has long ended
            return {}
        raise QueueUnknown(_last_line(done.stderr) or f"squeue failed with exit code {done.returncode}")
    rows: dict[str, QueueRow] = {}
    arrays: list[tuple[str, str, QueueRow]] = []
    for line in done.stdout.splitlines():
        fields = line.strip().split("|", 5)
        if len(fields) < 6:
            continue
        row = _queue_row(fields)
        rows[fields[0]] = row
        if pending := _PENDING_ARRAY.fullmatch(fields[0]):
            arrays.append((pending[1], pending[2], row))
    found = {job_id: rows.get(job_id) or _in_array(job_id, arrays) for job_id in wanted}
    return {job_id: row for job_id, row in found.items() if row is not None}


def accounting(job_ids: Iterable[str], aloud: bool = False) -> dict[str, AccountRow]:
    """Job id -> what sacct says. Empty, silently, on the many clusters where nobody keeps accounts, or none answer."""
    wanted = {job_id for job_id in job_ids if _JOB_ID.fullmatch(job_id)}
    if not wanted:
        return {}
    try:
        command = ["sacct", "-n", "-P", "-X", "-o", "JobID,State,ExitCode,NodeList,End", "-j", _bases(wanted)]
        done = _ask(command, aloud)
    except QueueUnknown:
        return {}
    found = {}
    for line in done.stdout.splitlines() if done.returncode == 0 else ():
        fields = line.split("|")
        if len(fields) == 5 and fields[0] in wanted:
            found[fields[0]] = _account_row(fields)
    return found


def _ask(command: list[str], aloud: bool) -> subprocess.CompletedProcess[str]:
    """Run one of Slurm's commands, times as Unix times. Raises QueueUnknown when it cannot be run or takes too long."""
    try:
        return ask(*command, patience=PATIENCE, environ={**ENGLISH, "SLURM_TIME_FORMAT": "%s"}, aloud=aloud)
    except SilentError as error:
        raise QueueUnknown(str(error)) from None


def _bases(job_ids: set[str]) -> str:
    """The jobs to ask for. A task is asked for by its array, which has one record for all that wait."""
    return ",".join(sorted({job_id.partition("_")[0] for job_id in job_ids}))


def _queue_row(fields: list[str]) -> QueueRow:
    _, state, nodes, start, left, reason = fields
    why = "" if reason in ("None", "(null)", "N/A") else reason
    return QueueRow(
        state.strip().upper(), why, "" if nodes == "(null)" else nodes, _moment(start), duration(left.strip())
    )


def _account_row(fields: list[str]) -> AccountRow:
    _, state, exit_code, nodes, ended = fields
    word, _, by = state.partition(" by ")
    code, _, signal = exit_code.partition(":")
    return AccountRow(
        word.strip().rstrip("+").upper(),
        _user(by.strip()) if by else None,
        int(code) if code.isdecimal() else 0,
        int(signal) if signal.isdecimal() else 0,
        "" if "none" in nodes.lower() else nodes,
        _moment(ended),
    )


def _in_array(job_id: str, arrays: list[tuple[str, str, QueueRow]]) -> QueueRow | None:
    """The row of the waiting array whose list of tasks (`2-9%4`, `1,3,7-19:2`) has this one."""
    base, _, task = job_id.partition("_")
    if not task:
        return None
    return next((row for array, tasks, row in arrays if array == base and _covers(tasks, int(task))), None)


def _covers(tasks: str, task: int) -> bool:
    for part in tasks.partition("%")[0].split(","):
        if part.endswith("..."):  # squeue cuts long lists off
            return True
        bounds = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part.strip())
        if bounds and task in range(int(bounds[1]), int(bounds[2] or bounds[1]) + 1, max(1, int(bounds[3] or 1))):
            return True
    return False


def _moment(text: str) -> float | None:
    """Unix time; also where a wrapper around squeue prints local times instead of what it was asked for."""
    if text.isdecimal():
        return float(text) or None
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except (ValueError, OverflowError):
        return None


def _user(number: str) -> str:
    """Name of the user whom sacct names by number."""
    import pwd

    try:
        return pwd.getpwuid(int(number)).pw_name
    except (KeyError, ValueError, OverflowError):
        return number


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""
