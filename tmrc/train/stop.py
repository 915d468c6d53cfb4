"""Stopping in order: signals set a flag, and all ranks agree on the step at which they stop or save."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

import torch
import torch.distributed as dist

from tmrc.train.distributed import World
from tmrc.train.ledger import Sums

_PR_SET_PDEATHSIG = 1
_LOOK_EVERY = 2.0  # seconds between looks whether the parent still lives
ORPHAN_PATIENCE = 60.0  # seconds that a rank has for saving and leaving when its torchrun has died
SIGNAL_ELSEWHERE = "signal on another rank"
# Those that clusters and people send to ask for an end, and those that would kill a process which does not expect them
STOP_SIGNALS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


class Interrupted(BaseException):
    """A stop signal has come while `StopRequest.interrupting`; no library catches this by accident."""


class StopRequest:
    """Whether a signal has asked this process to stop. Handlers only note it: saving inside one can deadlock."""

    def __init__(self) -> None:
        self.signal: str | None = None  # the first that came
        self._interrupts = False

    def install(self) -> None:
        """Note every stop signal from now on. A hang-up that is ignored (nohup) stays so."""
        for number in STOP_SIGNALS:
            if not (number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN):
                signal.signal(number, self._note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def dismiss(self) -> None:
        """Ignore stop signals from now on: all is done, and Python would die of one while it ends."""
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or signal.Signals(number).name
        if self._interrupts:
            self._interrupts = False
            raise Interrupted

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """A stop signal, also one that has come already, raises Interrupted. For work that nobody will miss."""
        self._interrupts = True
        try:
            if self.signal is not None:
                raise Interrupted
            yield
        finally:
            self._interrupts = False


def stop_with_parent() -> None:
    """Ask for SIGTERM when torchrun dies, even by SIGKILL: a rank must not train on alone. Linux only.

    One that cannot stop in order, since its save or a collective stands still, ends `ORPHAN_PATIENCE` seconds later:
    where Slurm tracks processes by their groups (proctrack/pgid) nobody else would end it.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the request
        os.kill(os.getpid(), signal.SIGTERM)
    threading.Thread(target=_end_after, args=(parent,), name="parent", daemon=True).start()


def _end_after(parent: int) -> None:
    """Kill this process when `parent` has been dead for a while."""
    while os.getppid() == parent:
        time.sleep(_LOOK_EVERY)
    time.sleep(ORPHAN_PATIENCE)
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Decision:
    """What all ranks do after the current step, and the ledger's sums over all that they read for it."""

    stop: bool
    save: bool
    sums: Sums = Sums()


class Agreement:
    """One decision a step, the same on every rank.

    Each rank puts in its flags when it has its data and reads the agreed ones when the step ends: the exchange takes
    place behind the step's arithmetic, on the CPU, and nobody stops at another step than the others. The sums of what
    the ranks have read are added up on the way.
    """

    def __init__(self, world: World) -> None:
        self._counts = torch.zeros(5, dtype=torch.int64)
        self._group = dist.new_group(backend="gloo", timeout=world.patience) if world.size > 1 else None
        self._pending: dist.Work | None = None

    def propose(self, stop: bool, save: bool, sums: Sums = Sums()) -> None:  # noqa: B008 - immutable
        """Put in this rank's wishes for the step that begins, and the sums of what it has read for it."""
        self._counts = torch.tensor([stop, save, *map(_signed, sums)], dtype=torch.int64)
        if self._group is not None:
            self._pending = dist.all_reduce(self._counts, dist.ReduceOp.SUM, group=self._group, async_op=True)

    def all_agree(self, yes: bool) -> bool:
        """Return once every rank is here: whether all said yes. Raises RuntimeError when one is gone."""
        votes = torch.tensor([int(yes)])
        if self._group is not None:
            dist.all_reduce(votes, dist.ReduceOp.MIN, group=self._group)
        return bool(votes.item())

    def decide(self) -> Decision:
        """The decision on what was proposed last; waits for the slowest rank's proposal."""
        if self._pending is not None:
            self._pending.wait()
            self._pending = None
        stop, save, *sums = self._counts.tolist()
        return Decision(stop > 0, save > 0, Sums(*(value % 2**64 for value in sums)))


def _signed(value: int) -> int:
    """A number modulo 2^64 as an int64, whose sums wrap in the same way."""
    return value - 2**64 if value >= 2**63 else value
