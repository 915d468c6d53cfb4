"""Why a process of a run failed, in one word: what the launcher goes by when it decides whether to try again."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
from collections.abc import Iterator
from typing import Literal

import torch

from tmrc.config.errors import CheckpointError, DataError, UserError

Kind = Literal[
    "finished",
    "stopped",
    "config",
    "data",
    "out_of_memory",  # of the GPU or of the host
    "non_finite",
    "gpu_error",  # that points at hardware
    "disk",  # full, read-only or failing
    "port",  # taken by another program
    "superseded",  # a later attempt has taken over
    "peer_lost",  # another process went first: never the cause
    "code_error",
]


class RunFailure(Exception):
    """The run cannot go on, for a reason that is neither the user's input nor a bug: one line, exit code 1."""

    kind: Kind = "code_error"


class NonFiniteError(RunFailure):
    """The loss or the gradient is NaN or infinite."""

    kind = "non_finite"


class DiskError(RunFailure):
    """Something cannot be written."""

    kind = "disk"


class GpuError(RunFailure):
    """A GPU that should be there cannot be used."""

    kind = "gpu_error"


class NoMemoryError(RunFailure):
    """The micro-batches do not fit into memory."""

    kind = "out_of_memory"


class SupersededError(RunFailure):
    """A later attempt has taken over the run."""

    kind = "superseded"


NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_FAILING = "the disk, its server or this node's connection to it fails: resume the run when it is well again"
_PERMISSION = "this user has no right to: mend the permissions and resume the run"
_IN_THE_WAY = "something else stands there: move it away and resume the run"
_ADVICE = {
    errno.ENOSPC: "the disk is full: make room and resume the run",
    errno.EDQUOT: "the quota is used up: delete something or ask for more, and resume the run",
    errno.EFBIG: "the limit for the size of a file is too small (ulimit -f)",
    errno.EROFS: "the disk can only be read: have it mounted for writing again and resume the run",
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.ENOTDIR: _IN_THE_WAY,
    errno.EISDIR: _IN_THE_WAY,
    errno.ELOOP: _IN_THE_WAY,
    errno.EIO: _FAILING,
    errno.ESTALE: _FAILING,
    errno.ENODEV: _FAILING,
    errno.ENXIO: _IN_THE_WAY,  # a pipe, mostly
}
_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # how Rust, in which safetensors is written, names a system's error
# PyTorch, CUDA, NCCL and gloo say what happened in the text of a RuntimeError. The first that fits counts.
_WORDS: tuple[tuple[Kind, str], ...] = (
    (
        "out_of_memory",
        r"out of memory|DefaultCPUAllocator|[Cc]an(no|')t allocate memory|STATUS_ALLOC_FAILED|bad_alloc|"
        r"could not create a primitive$",  # oneDNN's words for it on a CPU
    ),
    ("port", r"EADDRINUSE|address already in use"),
    (
        "gpu_error",
        r"uncorrectable|\bECC\b|\bXid\b|NVLink|unspecified launch failure|hardware stack error|GPU is lost|"
        r"fallen off the bus|busy or unavailable|driver initialization failed|CUDA error: unknown error|"
        r"system not yet initialized|ncclSystemError",
    ),
    (
        "peer_lost",
        r"ncclRemoteError|NCCL communicator was aborted|closed by peer|reset by peer|Broken pipe|Connection refused|"
        r"pair closure|Timed out (after|waiting)|[Cc]onnection was likely closed|remote server shutdown|wait timeout",
    ),
)


def kind_of(error: BaseException) -> Kind:
    """The word for `error`, or for the exception that caused it."""
    return next((kind for one in _chain(error) if (kind := _kind(one))), "code_error")


def disk_error(what: str, error: BaseException) -> DiskError:
    """One line: `what` has failed, why, and what to do about it."""
    number = errno_of(error)
    reason = getattr(error, "strerror", None) or (os.strerror(number) if number else str(error))
    where = getattr(error, "filename", None)
    at = f": {where}" if where and str(where) not in what else ""
    advice = f"; {_ADVICE[number]}" if number in _ADVICE else ""
    return DiskError(" ".join(f"{what} ({reason}{at}){advice}".split()))


def errno_of(error: BaseException) -> int:
    """The system's number of an error, also of one that safetensors has put into words; 0 when it has none."""
    if isinstance(error, OSError):
        return error.errno or 0
    found = _OS_ERROR.search(str(error))
    return int(found[1]) if found else 0


def warn(line: str) -> None:
    """A warning on stderr. A log that cannot be written to is no reason to stop."""
    with contextlib.suppress(OSError, ValueError):
        print(f"warning: {line}", file=sys.stderr, flush=True)


def is_plain(kind: Kind) -> bool:
    """Whether the message says everything; else the traceback helps."""
    return kind not in ("code_error", "gpu_error", "out_of_memory")


def _kind(error: BaseException) -> Kind | None:
    if isinstance(error, RunFailure):
        return error.kind
    if isinstance(error, UserError):
        return "data" if isinstance(error, DataError | CheckpointError) else "config"
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "out_of_memory"
    if isinstance(error, ConnectionError):
        return "peer_lost"
    if isinstance(error, OSError):
        return "disk" if error.errno in _ADVICE else "out_of_memory" if error.errno == errno.ENOMEM else None
    if isinstance(error, RuntimeError):
        return next((kind for kind, words in _WORDS if re.search(words, str(error))), None)
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and, one after the other, what it was raised from."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__
