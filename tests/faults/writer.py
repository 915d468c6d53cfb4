"""The smallest run that writes checkpoints, through the trainer's own functions: two steps, each with its row."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tmrc.config.rundir import RunDir, append_event, read_jsonl
from tmrc.config.schema import OptimizerConfig
from tmrc.train.checkpoint import (
    Checkpoint,
    TrainerState,
    files_of,
    load_model,
    load_optimizer,
    load_state,
    newest_checkpoint,
    set_aside,
)
from tmrc.train.failures import RunFailure
from tmrc.train.fence import take_over
from tmrc.train.keeper import Keeper
from tmrc.train.ledger import CHAIN_BYTES, Sums
from tmrc.train.ledger_file import rewind_ledger
from tmrc.train.metrics import rewind
from tmrc.train.optim import build_optimizer
from tmrc.train.outcome import failed

ORIGIN = bytes(CHAIN_BYTES)
KEEP = 1  # one less than a run may: so that deleting the old checkpoint is part of what is tested
STATE = TrainerState(
    step=1, sequences=8, micro_batch_size=4, world_size=1, threads=1, torch_version="2", data_fingerprint="abc"
)


class AtOnce(Executor):
    """Runs everything at once and in the same thread, so that the system calls of an attempt have one order."""

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(work(*args, **kwargs))
        except Exception as error:
            done.set_exception(error)
        return done


def trained(step: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model that belongs to `step`."""
    torch.manual_seed(step)
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8))
    optimizer = build_optimizer(model.named_parameters(), OptimizerConfig())
    model(torch.randn(3, 4)).sum().backward()
    optimizer.step()
    return model, optimizer


def attempt_in_words(path: str, number: int) -> int:
    """An attempt as a process has it: exit code 1 and one line when the disk fails."""
    try:
        attempt(path, number)
    except (OSError, RunFailure) as error:
        with contextlib.suppress(OSError):
            print(f"error: {failed(error, 0).message}", flush=True)
        return 1
    return 0


@dataclass(frozen=True)
class Found:
    """What an attempt finds: the step of its checkpoint, and the steps of the rows of metrics that stay."""

    step: int
    rows: list[int]
    complaint: str  # about the ledger


def attempt(path: str, number: int, until: int = 2, keep: int = KEEP) -> Found:
    """One attempt: shut out earlier ones, find the newest checkpoint, bring the files to it, train to step `until`."""
    run = RunDir(Path(path))
    fence = take_over(run, number)
    checkpoint = newest_checkpoint(run)
    state = load_state(checkpoint) if checkpoint else None
    step = state.step if state else 0
    if checkpoint:
        require_contents(checkpoint)
    metrics = rewind(fence, step, False)
    ledger = rewind_ledger(fence, step, state.ledger if state else "", ORIGIN)
    set_aside(fence, step)
    found = Found(step, [row["step"] for row in read_jsonl(run.metrics)], ledger.problem)
    keeper = Keeper(fence, metrics, ledger, keep, torch.device("cpu"), writer=AtOnce())
    keeper.event("resumed" if state else "started", step)
    for done in range(step + 1, until + 1):
        keeper.record(done, Sums(order=done))
        keeper.write({"step": done, "loss": float(done), "tokens_per_s": 1.0})
        assert keeper.save(files_of(*trained(done)), replace(STATE, step=done, ledger=keeper.ledger_head), patience=0.0)
        append_event(run, "durable", step=done)  # what the test goes by
    keeper.close()
    return found


def require_contents(checkpoint: Checkpoint) -> None:
    """Fail unless the checkpoint holds exactly the model and the optimizer state of its step."""
    model, optimizer = trained(checkpoint.step)
    loaded, other = trained(checkpoint.step + 100)
    load_model(checkpoint, loaded)
    load_optimizer(checkpoint, loaded, other)
    for mine, theirs in zip(model.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        for name, value in optimizer.state[mine].items():
            assert torch.equal(value, other.state[theirs][name])


def steps_durable(path: Path) -> int:
    """The step that the run has been told is durable."""
    return max((row["step"] for row in read_jsonl(path / "events.jsonl") if row["event"] == "durable"), default=0)


def require_goes_on(path: Path, number: int) -> None:
    """Fail unless the next attempt finds all that was durable, whole, and ends as one that was never disturbed."""
    durable = steps_durable(path)
    found = attempt(str(path), number)
    assert found.step >= durable, f"step {durable} was durable, but {found.step} was found"
    assert found.step in (1, 2)
    assert found.rows == list(range(1, found.step + 1))
    assert not found.complaint
    run = RunDir(path)
    assert [row["step"] for row in read_jsonl(run.metrics)] == [1, 2]
    left = {one.name for one in run.checkpoints.iterdir()}
    old = {"step_00000001"} if found.step == 2 else set()  # which the next save would delete
    assert {f".attempt_{number}", "step_00000002"} <= left <= {f".attempt_{number}", "step_00000002", *old}, left
    checkpoint = newest_checkpoint(run)
    assert checkpoint is not None and checkpoint.step == 2
    require_contents(checkpoint)
