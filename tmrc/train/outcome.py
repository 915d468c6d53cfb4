"""How this process of a run ended, left as files for whoever started it."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from tmrc.config.errors import UserError
from tmrc.config.rundir import EXIT_CRASHED, EXIT_FINISHED, EXIT_WANTS_REQUEUE, RunDir
from tmrc.train import durable
from tmrc.train.failures import Kind, RunFailure, disk_error, kind_of
from tmrc.train.saved import begun_attempts

ROOM_BYTES = 1 << 16  # for the last words of ranks and launcher: files, events and lines of the log
_ROOM = ".room"
MESSAGE_LENGTH = 600  # characters; PyTorch's own messages can fill a screen


@dataclass(frozen=True)
class Outcome:
    """The end of one process. `kind` is the word for it, `message` one line for people."""

    exit_code: int
    status: Literal["finished", "stopped", "failed"]
    step: int
    message: str
    kind: Kind


def finished(step: int) -> Outcome:
    """The last step was done."""
    return Outcome(EXIT_FINISHED, "finished", step, f"finished after step {step}", "finished")


def stopped(step: int, cause: str) -> Outcome:
    """Stopped in order after `step`; its checkpoint is durable."""
    message = f"stopped after step {step} ({cause}); wants the queue again"
    return Outcome(EXIT_WANTS_REQUEUE, "stopped", step, message, "stopped")


def failed(error: BaseException, step: int) -> Outcome:
    """The exception that ended the process."""
    code = error.exit_code if isinstance(error, UserError) else EXIT_CRASHED
    if isinstance(error, OSError) and kind_of(error) == "disk":
        error = disk_error("a file of the run cannot be read or written", error)
    ours = isinstance(error, UserError | RunFailure)
    message = str(error) if ours else " ".join(traceback.format_exception_only(error)[-1].split())[:MESSAGE_LENGTH]
    return Outcome(code, "failed", step, message, kind_of(error))


def attempt_number(run: RunDir, rank: int) -> int:
    """This attempt's number, from the launcher or one after the last.

    Without a launcher rank 0 takes the number, so that no other process has it, and tells the others when they join.
    """
    if given := os.environ.get("TMRC_ATTEMPT"):
        return int(given)
    folder = run.path / "attempts"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    taken = [int(name) for name in names if re.fullmatch("[0-9]{1,9}", name)]
    number = max([*taken, *begun_attempts(run)], default=0) + 1
    while rank == 0 and not _take(run.attempt(number)):
        number += 1
    return number


def _take(folder: Path) -> bool:
    with contextlib.suppress(OSError):  # one that matters comes again when the outcome is written
        folder.parent.mkdir(exist_ok=True)
        folder.mkdir()
        return True
    return not folder.exists()


def announce(run: RunDir, attempt: int, rank: int) -> None:
    """Say where this process runs; from now on a stop signal is heeded."""
    folder = run.attempt(attempt)
    folder.mkdir(parents=True, exist_ok=True)
    if rank == 0:
        _reserve(folder / _ROOM)
    durable.replace_file(folder / f"rank_{rank}.pid", f"{socket.gethostname()} {os.getpid()}\n".encode())


def record(run: RunDir, attempt: int, rank: int, outcome: Outcome) -> None:
    """Leave the outcome for the launcher. Raises OSError, also when the run's directory has been moved away."""
    folder = run.attempt(attempt)
    for path in (folder.parent, folder):  # but not the run's own directory: it would look like a run
        path.mkdir(exist_ok=True)
    with contextlib.suppress(OSError):
        (folder / _ROOM).unlink()
    durable.replace_json(folder / f"rank_{rank}.json", asdict(outcome))


def _reserve(path: Path) -> None:
    """Take room that is given back before the outcome is written: where the disk is full, why it ended is known."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            os.posix_fallocate(fd, 0, ROOM_BYTES)
        finally:
            os.close(fd)
