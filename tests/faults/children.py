"""Processes that are forked from one that has imported everything, under strace where system calls are to fail."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from tests.faults.install import obstacle
from tests.train.ranks import PRELOADED

needs_strace = pytest.mark.skipif(bool(obstacle()), reason=obstacle() or "strace is there")
NOBODY = 65534


def start(work: Callable[..., Any], *args: Any, log: Path, stopped: bool = False, nobody: bool = False) -> BaseProcess:
    """Call `work(*args)` in a process of its own; what it says goes to `log`, what it returns is its exit code.

    `stopped`: it waits for SIGCONT first. `nobody`: it has the rights of a user who owns nothing.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED, "tests.faults.writer"])
    child = context.Process(target=_enter, args=(work, args, str(log), stopped, nobody))
    child.start()
    if stopped:
        _wait_for_state(child, "T")
    return child


def _enter(work: Callable[..., Any], args: Sequence[Any], log: str, stopped: bool, nobody: bool) -> None:
    import torch

    torch.set_num_threads(1)
    with Path(log).open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if nobody:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    if stopped:
        os.kill(os.getpid(), signal.SIGSTOP)
    code = work(*args)
    raise SystemExit(code if isinstance(code, int) else 0)


@contextmanager
def public_folder() -> Iterator[Path]:
    """A directory that everybody can reach. Those of pytest are not, and each pytest that starts sees to that."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def give_to_nobody(path: Path) -> None:
    """Make the tree at `path` belong to the user of `start(..., nobody=True)`."""
    for one in (path, *path.rglob("*")):
        os.chown(one, NOBODY, NOBODY)


def train(run: str, environment: Mapping[str, str]) -> int:
    """One rank of a run, as `python -m tmrc.train` has it. For `start`."""
    from tmrc.train.run import main

    os.environ.pop("TORCHELASTIC_RUN_ID", None)
    os.environ.update(environment)
    return main([run])


def finish(child: BaseProcess, seconds: float = 100) -> int:
    """The exit code of the child, which is killed if it does not end; that of a signal is negative."""
    child.join(seconds)
    if child.exitcode is None:
        child.kill()
        child.join()
        pytest.fail("the process does not end")
    return child.exitcode


@contextmanager
def traced(child: BaseProcess, *options: str) -> Iterator[None]:
    """Let the child, which is stopped, go on under `strace OPTIONS`; `-e inject=...` makes its system calls fail."""
    command = ["strace", "-f", "-p", str(child.pid), *options]
    strace = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert strace.stderr is not None
    said = strace.stderr.readline()
    assert "attached" in said, said
    assert child.pid is not None
    os.kill(child.pid, signal.SIGCONT)
    try:
        yield
    finally:
        if child.is_alive():
            child.kill()
        strace.communicate(timeout=30)


def calls(trace: Path) -> list[tuple[str, str, str]]:
    """Name, arguments and result of each system call that strace has written down and that did not fail."""
    found = re.findall(r"^(?:\d+ +)?(\w+)\((.*)\) += ([0-9]+)[^\n]*$", trace.read_text(), re.MULTILINE)
    return [(name, arguments, result) for name, arguments, result in found]


def _wait_for_state(child: BaseProcess, state: str) -> None:
    deadline = time.monotonic() + 60
    while f"\nState:\t{state}" not in Path(f"/proc/{child.pid}/status").read_text():
        assert child.is_alive() and time.monotonic() < deadline, "the process does not come to its start"
        time.sleep(0.005)
