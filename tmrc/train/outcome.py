"""How this process of a run ended, left as files for whoever started it."""

from __future__ import annotations

import errno
import os
import socket
import traceback
from dataclasses import asdict, dataclass
from typing import Literal

from tmrc.config.errors import UserError
from tmrc.config.rundir import EXIT_CRASHED, EXIT_FINISHED, EXIT_WANTS_REQUEUE, RunDir
from tmrc.train import durable


@dataclass(frozen=True)
class Outcome:
    """The end of one process. `message` is one line for people."""

    exit_code: int
    status: Literal["finished", "stopped", "failed"]
    step: int
    message: str


class RunFailure(Exception):
    """The run cannot go on, for a reason that is neither the user's input nor a bug: one line, exit code 1."""


class NonFiniteError(RunFailure):
    """The loss or the gradient is NaN or infinite."""


def finished(step: int) -> Outcome:
    """The last step was done."""
    return Outcome(EXIT_FINISHED, "finished", step, f"finished after step {step}")


def stopped(step: int, cause: str) -> Outcome:
    """Stopped in order after `step`; its checkpoint is durable."""
    return Outcome(EXIT_WANTS_REQUEUE, "stopped", step, f"stopped after step {step} ({cause}); wants the queue again")


def failed(error: BaseException, step: int) -> Outcome:
    """The exception that ended the process."""
    if isinstance(error, UserError):
        return Outcome(error.exit_code, "failed", step, str(error))
    if isinstance(error, RunFailure):
        return Outcome(EXIT_CRASHED, "failed", step, str(error))
    return Outcome(EXIT_CRASHED, "failed", step, " ".join(traceback.format_exception_only(error)[-1].split()))


def is_of_the_machine(error: BaseException) -> bool:
    """Whether the error is a full, read-only or failing disk rather than a bug."""
    kinds = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.ESTALE}
    return isinstance(error, OSError) and error.errno in kinds


def attempt_number(run: RunDir) -> int:
    """This attempt's number, from the launcher or one after the last."""
    if given := os.environ.get("TMRC_ATTEMPT"):
        return int(given)
    folder = run.path / "attempts"
    taken = [int(path.name) for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    return max(taken, default=0) + 1


def announce(run: RunDir, attempt: int, rank: int) -> None:
    """Say where this process runs; from now on a stop signal is heeded."""
    folder = run.attempt(attempt)
    folder.mkdir(parents=True, exist_ok=True)
    durable.replace_file(folder / f"rank_{rank}.pid", f"{socket.gethostname()} {os.getpid()}\n".encode())


def record(run: RunDir, attempt: int, rank: int, outcome: Outcome) -> None:
    """Leave the outcome for the launcher."""
    folder = run.attempt(attempt)
    folder.mkdir(parents=True, exist_ok=True)
    durable.write_json(folder / f"rank_{rank}.json", asdict(outcome))
