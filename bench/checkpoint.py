"""What a checkpoint costs training: the time for which it stands still, against two ways in which others save.

The peers are `torch.save` with fsync and rename, and `torch.distributed.checkpoint.async_save`. Every side saves the
same model and AdamW state. That what ours writes comes back bit for bit is seen to first.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from bench.harness import Aim, Figure, Given, Result, Side, compare, repeated, timed
from tmrc.config.load import load_config
from tmrc.config.rundir import RunDir
from tmrc.model.build import build_model, parameter_count
from tmrc.train.checkpoint import files_of, load_model, load_optimizer, newest_checkpoint
from tmrc.train.fence import take_over
from tmrc.train.keeper import Keeper
from tmrc.train.ledger import CHAIN_BYTES
from tmrc.train.ledger_file import rewind_ledger
from tmrc.train.metrics import rewind
from tmrc.train.optim import build_optimizer
from tmrc.train.saved import TrainerState

SIZES = ["tokenizer.vocab_size=32000"]  # on top of configs/train/default.yaml
State = tuple[nn.Module, torch.optim.Optimizer]


def run(given: Given) -> Iterator[Result]:
    """Compare stalls, after a check that what we write comes back bit for bit."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as in training, before torch first asks for memory
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    state = trained(device)
    ours = Ours(given.scratch / "ours", state, device)
    require_equal(ours, state)
    size = parameter_count(state[0]) / 1e6
    what = f"a save of {size:.0f} M parameters with Adam state holds up training on {device.type}"
    blocking = Side("torch.save + fsync + rename", timed(lambda: save_blocking(given.scratch / "torch.pt", state)))
    side = Side("tmrc", timed(ours.save, ours.finish))
    yield compare(what, Aim("at most", 0.1), side, blocking, given.repeats)
    with dcp_side(given.scratch / "dcp", state, device) as theirs:
        yield compare(what, Aim("at most", 1.0), side, theirs, given.repeats)
    yield durable(ours, given.repeats)
    yield slowdown(ours, given.repeats)
    ours.close()


def trained(device: torch.device) -> State:
    """The default model after one step of AdamW with made-up gradients."""
    torch.manual_seed(0)
    config = load_config("default", SIZES)
    model = build_model(config).to(device)
    optimizer = build_optimizer(model.named_parameters(), config.optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return model, optimizer


class Ours:
    """The trainer's own way: `save` is what training waits for, `finish` what goes on beside it."""

    def __init__(self, folder: Path, state: State, device: torch.device) -> None:
        folder.mkdir()
        self.run, self.state, self.step = RunDir(folder), state, 0
        fence = take_over(self.run, 1)
        metrics, ledger = rewind(fence, 0, False), rewind_ledger(fence, 0, "", bytes(CHAIN_BYTES))
        self.keeper = Keeper(fence, metrics, ledger, 2, device)
        self.keeper.prepare(files_of(*state))

    def save(self) -> None:
        self.step += 1
        state = TrainerState(self.step, 0, 1, 1, torch.get_num_threads(), torch.__version__, "")
        self.keeper.begin_save(files_of(*self.state), state)
        self.keeper.protect()
        if torch.cuda.is_available():  # beside training this waits only if the next pass is shorter than the copy
            torch.cuda.current_stream().synchronize()

    def finish(self) -> None:
        assert self.keeper.settle(patience=0.0, wait=True)

    def close(self) -> None:
        self.keeper.close()


def require_equal(ours: Ours, state: State) -> None:
    """Fail unless what is on disk is what was in memory."""
    ours.save()
    ours.finish()
    checkpoint = newest_checkpoint(ours.run)
    other = trained(next(state[0].parameters()).device)
    with torch.no_grad():
        for parameter in other[0].parameters():
            parameter.zero_()
    assert checkpoint is not None
    load_model(checkpoint, other[0])
    load_optimizer(checkpoint, *other)
    for name, tensors in files_of(*state).items():
        for entry, tensor in tensors.items():
            assert torch.equal(tensor, files_of(*other)[name][entry]), entry


def save_blocking(path: Path, state: State) -> None:
    """What most trainers do, made durable."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save({"model": state[0].state_dict(), "optimizer": state[1].state_dict()}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


@contextlib.contextmanager
def dcp_side(folder: Path, state: State, device: torch.device) -> Iterator[Side]:
    """`dcp.async_save` with staging into host memory that is kept from one save to the next, and a writing thread."""
    on_gpu = device.type == "cuda"
    stager = DefaultStager(StagingOptions(on_gpu, False, on_gpu, on_gpu))
    pending: list[Any] = []

    warnings.filterwarnings("ignore", "torch.distributed is disabled")  # which is meant: there is one process

    def save() -> None:
        response = dcp.async_save(files_of(*state), checkpoint_id=str(folder), async_stager=stager, no_dist=True)
        pending.append(response)
        if on_gpu:  # the weights may change from here on
            response.staging_completion.result()

    def finish() -> None:
        response = pending.pop()
        getattr(response, "upload_completion", response).result()
        shutil.rmtree(folder, ignore_errors=True)

    try:
        yield Side("dcp.async_save", timed(save, finish))
    finally:
        stager.close()


def durable(ours: Ours, repeats: int) -> Result:
    """Seconds until the checkpoint is durable, old ones deleted."""

    def save() -> None:
        ours.save()
        ours.finish()

    return Figure("until it is durable", repeated(timed(save), repeats), "s")


def slowdown(ours: Ours, repeats: int) -> Result:
    """How much a foreground that uses all cores is slowed down while checkpoints are written without a pause."""
    factor = torch.randn(1024, 1024)

    def work() -> None:
        for _ in range(60):
            torch.mm(factor, factor)

    def beside() -> float:
        ours.save()
        return timed(work, ours.finish)()

    alone = timed(work)
    ratios = tuple(beside() / alone() for _ in range(repeats))
    return Figure("work of the processor beside a write, to work alone", ratios, "x")
