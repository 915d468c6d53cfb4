"""The attempts of one run on disk: who runs it now, what its ranks said, how it ended.

attempts/<n>/owner.json       host, process and job that runs attempt n, written by the job before training starts
attempts/<n>/rank_<k>.pid     process of rank k, written by it once its signal handlers stand
attempts/<n>/rank_<k>.json    what rank k ended with, written by it
attempts/<n>/node_<k>.json    what became of torchrun on the k-th node of a Slurm job, written by the job there
attempts/<n>/spent.json       where its time goes, written by rank 0 about once a second (see tmrc.train.spent)
attempts/<n>/job.json         what the attempt ended with, written by the job last
attempts/lock                 held (flock) by the job while it runs
attempts/submit.lock          held (flock) by `tmrc-submit` from its first look at the run to its own end
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.facts import read_object
from launch.processes import alive, command_line, start_time
from tmrc.config.errors import UserError
from tmrc.config.rundir import RunDir, checkpoint_steps


@dataclass(frozen=True)
class Owner:
    """The process that runs an attempt, and where.

    `submitter` is the `tmrc-submit --local` (id, start time) that shows it. `logs` are the logs of the nodes, the first
    node's first, and `log_offset` is where in that one this attempt begins. `checkpoint` is the step of the newest
    checkpoint when it began, at the time `began`.
    """

    host: str
    pid: int
    started: int | None
    job_id: str | None = None
    submitter: tuple[int, int | None] | None = None
    executor: str = "local"
    nodes: tuple[str, ...] = ()
    logs: tuple[str, ...] = ()
    log_offset: int = 0
    began: float = 0.0
    checkpoint: int | None = None

    def here(self) -> bool:
        """Whether it is a process of this machine, so that it can be looked at."""
        return self.host == socket.gethostname()

    def alive(self) -> bool:
        """Whether it still runs. Only meaningful where `here()`."""
        return alive(self.pid, self.started)


@dataclass(frozen=True)
class Ending:
    """How an attempt ended: the exit code (see tmrc.config.rundir), the word for it, and one line why.

    `kind` is the cause in one word, `node` the host that it points to, `checkpoint` the newest step that was saved when
    it `ended`, and `action` what was done with the run: none, requeued, resubmitted or held.
    """

    exit_code: int
    status: str
    message: str = ""
    step: int | None = None
    kind: str = ""
    node: str | None = None
    checkpoint: int | None = None
    ended: float = 0.0
    action: str = "none"


def last_attempt(run: RunDir) -> int:
    """The highest attempt number so far; 0 before the first.

    An attempt also has a directory `checkpoints/.attempt_<n>` to write in, which outlives a removed attempts/.
    """
    begun = [file.name.removeprefix(".attempt_") for file in run.checkpoints.glob(".attempt_*")]
    folder = run.path / "attempts"
    names = [entry.name for entry in folder.iterdir()] if folder.exists() else []
    return max((int(name) for name in [*names, *begun] if name.isdecimal()), default=0)


def begin_attempt(run: RunDir, owner: Owner) -> int:
    """Create the next attempt's directory with `owner` in it; returns its number."""
    number = last_attempt(run) + 1
    while True:
        try:
            run.attempt(number).mkdir(parents=True)
        except FileExistsError:
            number += 1
            continue
        write_json(run.attempt(number) / "owner.json", vars(owner))
        return number


def this_process(job_id: str | None, submitter: tuple[int, int | None] | None = None, **facts: Any) -> Owner:
    """The calling process as an owner, with further `facts` of the attempt that it begins now."""
    me = Owner(socket.gethostname(), os.getpid(), start_time(os.getpid()), job_id, submitter, began=time.time())
    return dataclasses.replace(me, **facts)


def newest_step(run: RunDir) -> int | None:
    """The step of the newest checkpoint that is there under its name, not verified; None without one."""
    return max(checkpoint_steps(run), default=None)


def read_owner(run: RunDir, number: int) -> Owner | None:
    """Who ran or runs attempt `number`; None until the job has said so. Raises UserError for another file's content."""
    file = run.attempt(number) / "owner.json"
    found = read_json(file)
    if not found:
        return None
    lists = {name: tuple(value) for name, value in found.items() if isinstance(value, list)}
    known = _known(Owner, {**found, **lists})
    if not (isinstance(known.get("host"), str) and isinstance(known.get("pid"), int) and "started" in known):
        raise UserError(f"{file}: does not name the host and process of attempt {number}; if that has ended, remove it")
    return Owner(**known)


def read_ending(run: RunDir, number: int) -> Ending | None:
    """How attempt `number` ended; None while it runs or when its job died without a word."""
    found = read_json(run.attempt(number) / "job.json")
    return Ending(**_known(Ending, found)) if found else None


def hold_lock(run: RunDir, patience: float = 0.0, name: str = "lock") -> int:
    """Take the run's lock until this process ends; returns its descriptor.

    Raises UserError when another process has it for longer than `patience` seconds, or the file cannot be opened.
    """
    file = run.path / "attempts" / name
    try:
        file.parent.mkdir(exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"{error.filename or file}: {error.strerror or error}") from None
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                return descriptor  # a filesystem without locks: the owner file has to do
            if time.monotonic() >= deadline:
                os.close(descriptor)
                raise UserError(f"{run.path}: {_holder(run, name)}") from None
            time.sleep(0.05)
        else:
            return descriptor


def _holder(run: RunDir, lock: str) -> str:
    """Who has the lock."""
    if lock == "submit.lock":
        return "another tmrc-submit is at work on this run"
    owner = read_owner(run, last_attempt(run))
    return f"still running{_by(owner if owner and (owner.alive() or not owner.here()) else None)}"


def refuse_running(run: RunDir) -> None:
    """Raise UserError while some process runs this run."""
    number = last_attempt(run)
    owner = read_owner(run, number) if number else None
    if number:
        os.close(hold_lock(run))
    for pid in living_ranks(run, number):  # orphans of a job that was killed
        raise UserError(f"{run.path}: still running (training process {pid} on {socket.gethostname()})")
    if owner is None or read_ending(run, number) is not None:
        return
    if owner.here():
        if owner.alive():
            raise UserError(f"{run.path}: still running{_by(owner)}")
        return
    if owner.job_id is None:
        file = run.attempt(number) / "owner.json"
        raise UserError(f"{run.path}: running{_by(owner)} as far as can be seen here; if it is gone, remove {file}")


def living_ranks(run: RunDir, number: int) -> list[int]:
    """Training processes of attempt `number` that still run on this host."""
    files = run.attempt(number).glob("rank_*.pid")
    pids = [pid for file in files if (pid := read_pid(file)) is not None and alive(pid, None)]
    return [pid for pid in pids if any(word in command_line(pid) for word in (run.run_id, "tmrc.train"))]


def read_pid(file: Path) -> int | None:
    """The process id in a rank's .pid file, if it is there and of a process of this machine."""
    try:
        host, pid = (file.read_text("utf8") if file.is_file() else "").split()
        return int(pid) if host == socket.gethostname() else None
    except (OSError, ValueError):
        return None


def _known(cls: type, found: dict[str, Any]) -> dict[str, Any]:
    """The fields that `cls` has: the file may be from another version of tmrc, since a run keeps its code."""
    return {field.name: found[field.name] for field in dataclasses.fields(cls) if field.name in found}


def _by(owner: Owner | None) -> str:
    if owner is None:
        return ""
    job = f", job {owner.job_id}" if owner.job_id else ""
    return f" (process {owner.pid} on {owner.host}{job})"


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None when it is not there, not whole, or nothing that tmrc writes."""
    return read_object(path) or None


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write `values` so that a reader sees the whole file or none, durable when this returns."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf8", errors="backslashreplace") as file:
        json.dump(values, file, ensure_ascii=False, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
