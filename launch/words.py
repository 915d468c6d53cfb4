"""Slurm's words for why a job waits and how it ended, in plain ones."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from pathlib import Path

from launch.queue import AccountRow, QueueRow

NEAR = 600.0  # seconds ahead within which times are told to the second
_WAITS = {
    "Priority": "behind jobs of higher priority",
    "Resources": "next in line, until nodes are free",
    "BeginTime": "not before its begin time",
    "Dependency": "for another job to end",
    "DependencyNeverSatisfied": "for a job that failed, so it never starts",
    "JobHeldUser": "held by a user; scontrol release lets it go",
    "JobHeldAdmin": "held by an administrator",
    "JobHoldMaxRequeue": "held by Slurm after too many requeues; scontrol release lets it go",
    "JobArrayTaskLimit": "for other tasks of its array, of which only so many run at once",
    "PartitionTimeLimit": "its time limit is longer than the partition allows",
    "PartitionNodeLimit": "it wants more nodes than the partition allows",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition is inactive",
    "BadConstraints": "no node has what it asks for",
    "ReqNodeNotAvail": "the nodes it needs are down, drained or reserved, for maintenance or for jobs in partitions of "
    "higher priority",
    "Reservation": "for its reservation to begin",
    "Licenses": "for a licence",
    "InvalidAccount": "its account is not valid",
    "InvalidQOS": "its QOS is not valid",
    "NodeDown": "a node that it needs is down",
    "Nodes required for job are DOWN": "the nodes it needs are in use by or reserved for jobs in partitions of higher "
    "priority, or down or drained",
    "Prolog": "for the nodes to be prepared",
    "Cleaning": "for the nodes to be cleaned up after its last attempt",
    "launch failed requeued held": "held, since it could not be started; scontrol release lets it go",
}
_ENDS = {
    "TIMEOUT": "ran into its time limit",
    "OUT_OF_MEMORY": "used more memory than it had asked for",
    "NODE_FAIL": "lost its node",
    "PREEMPTED": "was preempted",
    "BOOT_FAIL": "could not be started on its nodes",
    "DEADLINE": "missed its deadline",
    "COMPLETED": "ended",
}


def why_waiting(row: QueueRow) -> str:
    """Why a job is still in the queue, and when Slurm expects it to start."""
    if row.reason == "BeginTime" and row.start:
        if row.start <= time.time():
            return "its begin time has come; Slurm looks at it again soon"
        return f"not before {_ahead(row.start)}"
    expected = f"starts about {_ahead(row.start)}; " if row.start and row.start > time.time() else ""
    return expected + (_waits_for(row.reason) if row.reason else "not looked at yet")


def _waits_for(reason: str) -> str:
    words = reason.replace("_", " ")
    for known, plain in _WAITS.items():
        if words == known or words.startswith(f"{known},"):
            return plain
    if words.startswith("QOS"):
        return f"a limit of its QOS is reached ({words})"
    if words.startswith(("Assoc", "Max", "Group")):
        return f"a limit of its account or user is reached ({words})"
    return words


def how_ended(job_id: str, row: QueueRow | None, account: AccountRow | None) -> str:
    """One line on a job that is gone, from what Slurm remembers of it."""
    state = account.state if account else row.state if row else ""
    if not state or state in ("RUNNING", "PENDING"):  # accounts that lag behind
        return f"job {job_id} is not in the queue any more and has left no word"
    if state == "CANCELLED":
        return f"job {job_id} was cancelled{f' by {account.by}' if account and account.by else ''} with scancel"
    if state == "FAILED" and account:
        ended = f"signal {account.signal}" if account.signal else f"exit code {account.exit_code}"
        return f"job {job_id} failed with {ended} (FAILED)"
    return f"job {job_id} {_ENDS.get(state, 'has ended')} ({state})"


def _ahead(moment: float) -> str:
    """A time to come, so exact that it does not look past."""
    return clock(moment, ":%S" if moment - time.time() < NEAR else "")


def clock(moment: float, seconds: str = "") -> str:
    """A unix time in local time: the hour today, else with the day; with the year when it is far away."""
    try:
        when, now = time.localtime(moment), time.localtime()
    except (ValueError, OverflowError, OSError):
        return "-"
    if when[:3] == now[:3]:
        return time.strftime(f"%H:%M{seconds}", when)
    day = "%b %d" if abs(moment - time.time()) < 180 * 86400 else "%Y-%m-%d"
    return time.strftime(f"{day} %H:%M{seconds}", when)


def typed_command(command: str) -> str:
    """How to call one of our commands: by name where that is on PATH, else by path."""
    return command if shutil.which(command) else shlex.quote(str(Path(sys.executable).parent / command))
