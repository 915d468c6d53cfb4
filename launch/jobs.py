"""A job as Slurm's controller knows it, asked and steered from inside the job."""

from __future__ import annotations

import datetime
import math
import re
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from launch.commands import SilentError, ask

TIMEOUT = 30.0  # seconds for one Slurm command; they try for a while themselves when the controller does not answer
RETRY = 5.0  # seconds between two tries while the controller does not answer
# How Slurm's commands say that the controller cannot be reached, as against that it refuses
_UNREACHABLE = re.compile(
    r"unable to contact|connection refused|connection timed out|timed out|zero bytes|communication connection|"
    r"try again|temporarily|backup controller|standby mode",
    re.IGNORECASE,
)


class NoSlurmError(Exception):
    """Slurm cannot be asked at all, or knows nothing: waiting would not help."""


_ALIVE = ("RUNNING", "SIGNALING", "CONFIGURING", "RESIZING", "SUSPENDED", "STOPPED")


@dataclass(frozen=True)
class JobFacts:
    """What `scontrol show job` says.

    `restarts` counts requeues, `preempted` tells that Slurm wants the nodes back, `seconds_left` are those to the end
    of the job's time.
    """

    state: str
    reason: str
    restarts: int
    preempted: bool
    seconds_left: float = math.inf

    @property
    def ending(self) -> bool:
        """Whether Slurm is taking the job's nodes away, whatever the job does."""
        return self.state not in _ALIVE


def job_id_of(environ: Mapping[str, str]) -> str:
    """The id that `scontrol requeue` takes: `<array>_<task>` for an array's task (its raw id would be another's)."""
    array, task = environ.get("SLURM_ARRAY_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else environ["SLURM_JOB_ID"]


def show_job(job_id: str) -> JobFacts | None:
    """What the controller says of the job now; None when it does not answer or has forgotten it.

    Raises NoSlurmError where scontrol is not there to be asked, or does not know the job.
    """
    done = _call("scontrol", "show", "job", "-o", job_id)
    if done is None or done.returncode != 0 or "JobState=" not in done.stdout:  # it can print nothing for a moment
        if done is not None and "Invalid job id" in done.stderr:
            raise NoSlurmError(f"Slurm does not know job {job_id}")
        return None
    told = done.stdout.partition(" Command=")[0]  # what follows can hold anything: paths, people's comments
    found: dict[str, str] = {}
    for word in told.split():
        name, _, value = word.partition("=")
        found.setdefault(name, value)
    preempted = found.get("PreemptTime", "None") not in ("None", "N/A", "Unknown")
    restarts = int(found.get("Restarts", "0"))
    left = _seconds_until(found.get("EndTime", ""))
    return JobFacts(found.get("JobState", ""), found.get("Reason", ""), restarts, preempted, left)


def requeue(job_id: str, restarts: int, keep_trying: Callable[[], bool]) -> str:
    """Put the job, restarted `restarts` times so far, back into the queue; returns why not, or nothing.

    While the controller does not answer it is asked again, as long as `keep_trying` says so.
    """
    try:
        while (refusal := _try_requeue(job_id, restarts)) is None and keep_trying():
            time.sleep(RETRY)
    except NoSlurmError as error:
        return str(error)
    return "Slurm's controller does not answer" if refusal is None else refusal


def _try_requeue(job_id: str, restarts: int) -> str | None:
    """Why the job cannot be requeued, nothing when it is, None when nobody answers."""
    done = _call("scontrol", "requeue", job_id)
    if done is not None and done.returncode == 0:
        return ""
    facts = show_job(job_id)
    if facts is None:
        return None
    if facts.restarts > restarts or facts.state == "PENDING":
        return ""  # somebody else was faster
    words = " ".join(done.stderr.split()) if done else ""
    if done is None or _UNREACHABLE.search(words):
        return None
    return words.removeprefix("scontrol: ") or "scontrol requeue failed without a word"


def ask_tasks_to_stop(job_id: str) -> None:
    """USR2 to the tasks of every step of the job; the batch step does not get it."""
    _answer("scancel", "--signal=USR2", job_id)


def hosts(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Names of the job's nodes, in Slurm's order. Raises NoSlurmError when scontrol cannot say."""
    listed = environ.get("SLURM_JOB_NODELIST", "")
    if not re.search(r"[\[,]", listed):
        return (listed,) if listed else ()
    names = _answer("scontrol", "show", "hostnames", listed).split()
    if not names:
        raise NoSlurmError(f"scontrol cannot say which nodes {listed} are")
    return tuple(names)


def down_nodes(names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the nodes that are down as far as the controller knows; none when it does not answer."""
    answer = _answer("sinfo", "-h", "-N", "-o", "%N %t", "-n", ",".join(names)) if names else ""
    states = dict(line.split(maxsplit=1) for line in answer.splitlines() if " " in line)
    return tuple(name for name in names if re.match(r"down|fail|unk|.*\*", states.get(name, "")))


def past_state(job_id: str) -> str:
    """How sacct says that the job's last finished try ended, such as NODE_FAIL; empty where it does not know."""
    lines = _answer("sacct", "-n", "-P", "-X", "-D", "-j", job_id, "-o", "State").split("\n")
    ended = [line.split()[0] for line in lines if line.strip() and line.split()[0] not in ("RUNNING", "PENDING")]
    return ended[-1] if ended else ""


def _seconds_until(written: str) -> float:
    """Seconds from now to a time as Slurm writes it; infinite for one that is unknown."""
    try:
        return datetime.datetime.fromisoformat(written).timestamp() - time.time()
    except ValueError:
        return math.inf


def _answer(*command: str) -> str:
    """What the command prints; nothing when it fails, takes too long or is not there."""
    try:
        done = _call(*command)
    except NoSlurmError:
        return ""
    return done.stdout if done is not None and done.returncode == 0 else ""


def _call(*command: str) -> subprocess.CompletedProcess[str] | None:
    """The command when it has ended; None when it takes too long or fails to start. Raises NoSlurmError without it."""
    try:
        return ask(*command, patience=TIMEOUT)
    except SilentError as error:
        if error.missing:
            raise NoSlurmError(str(error)) from None
        return None
