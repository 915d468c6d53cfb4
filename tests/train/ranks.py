"""Training processes forked from one that has imported everything: a start costs little, so there can be many."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import re
import resource
import socket
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.train.conftest import Trial

M_MMAP_THRESHOLD = -3  # of glibc's malloc.h: larger blocks go back to the system when they are freed
PRELOADED = ["torch._dynamo", "tmrc.train.run", "tests.train.paused"]


def launch(
    trial: Trial, processes: int, place: str = "", log: Path | None = None, room: Mapping[int, int] | None = None
) -> list[int]:
    """Run the trial on so many processes to its end; their exit codes.

    `place` is that of tests.train.paused, where a process sends itself a signal. What they say goes to `log`. `room`
    has, by rank, how many MiB of memory a process may ask for beyond what it has when its model is built.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    port = _free_port()
    ranks: list[BaseProcess] = [
        context.Process(
            target=_rank, args=(str(trial.run.path), rank, processes, port, place, log, (room or {}).get(rank))
        )
        for rank in range(processes)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
    codes = [rank.exitcode if rank.exitcode is not None else -1 for rank in ranks]
    for rank in ranks:
        if rank.is_alive():
            rank.kill()
    return codes


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _rank(run: str, rank: int, size: int, port: int, place: str, log: Path | None, room: int | None) -> None:
    """One process of a run, as torchrun would start it."""
    import torch

    from tests.train.paused import pause_before
    from tmrc.train.run import main

    with (log or Path(os.devnull)).open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    settings = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in settings.items()})
    os.environ.pop("TORCHELASTIC_RUN_ID", None)
    torch.set_num_threads(1)
    if place:
        pause_before(place)
    if room is not None:
        _limit_memory(room)
    sys.exit(main([run]))


def _limit_memory(room: int) -> None:
    """Limit what this process may have, as `ulimit -d` does, once its model is built."""
    from tmrc.train import start

    build = start.build_parts

    def limited(*args: Any) -> Any:
        # Else what was freed is kept, and the limit is one on address space.
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 18)
        parts = build(*args)
        has = int(re.search(r"VmData:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024  # type: ignore[index]
        resource.setrlimit(resource.RLIMIT_DATA, (has + room * 2**20, resource.RLIM_INFINITY))
        return parts

    start.build_parts = limited


def expect(codes: Sequence[int], code: int) -> None:
    """Fail unless every process left with `code`."""
    assert list(codes) == [code] * len(codes)
