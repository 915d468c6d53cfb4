"""What Slurm itself has written into a job's log about the end of the job or its step."""

from __future__ import annotations

import re
from pathlib import Path

# slurmstepd's line; without a reason it was somebody's scancel
_ENDED = re.compile(r"\*\*\* JOB \S+ ON \S+ CANCELLED AT \S+?(?: DUE TO ([A-Z ]+?))? \*\*\*")
_KINDS = {
    "PREEMPTION": "preempted", "TIME LIMIT": "time_limit", "NODE FAILURE": "node_failure", "JOB REQUEUE": "requeued",
}  # fmt: skip
_NOT_STARTED = re.compile(r"execve\(\): (.+)$", re.MULTILINE)
_LIMIT = 200_000  # bytes at the end of the log that are read


def why_ended(log: str) -> str:
    """The kind of the last end that Slurm tells of, `cancelled` for one without a reason; nothing when it is silent."""
    found = list(_ENDED.finditer(log))
    if not found:
        return ""
    reason = found[-1][1]
    return "cancelled" if reason is None else _KINDS.get(reason, "")


def why_not_started(log: str) -> str:
    """Why a task could not be executed at all, such as `apptainer: No such file or directory`."""
    found = _NOT_STARTED.search(log)
    return found[1].strip()[:300] if found else ""


def read_log(path: Path, offset: int) -> str:
    """The log from `offset` on, as far as it is worth reading; empty when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(offset, path.stat().st_size - _LIMIT))
            return file.read().decode("utf8", "replace")
    except OSError:
        return ""
