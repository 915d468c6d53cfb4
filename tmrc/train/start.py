"""Everything between joining the other ranks and the first step."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from tmrc.config.errors import ConfigError, DataError, UserError
from tmrc.config.rundir import RunDir
from tmrc.config.schema import Config
from tmrc.data.plan import DataPlan, mismatches, plan_data
from tmrc.model.build import parameter_count
from tmrc.train.checkpoint import (
    Checkpoint,
    TrainerState,
    checkpoint_steps,
    load_model,
    load_optimizer,
    load_state,
    model_tensors,
    newest_checkpoint,
    optimizer_tensors,
    set_aside,
)
from tmrc.train.distributed import World, broadcast_tensors, from_leader
from tmrc.train.failures import RunFailure
from tmrc.train.fence import Fence, take_over
from tmrc.train.keeper import Keeper
from tmrc.train.loop import Loop, Progress
from tmrc.train.metrics import rewind
from tmrc.train.setup import Parts, build_parts, warm_up_batch
from tmrc.train.stop import Agreement, Interrupted, StopRequest

T = TypeVar("T")


class StoppedEarly(Exception):
    """All ranks have agreed to stop before the first step. Nothing is to be saved."""


@dataclass
class Start:
    """The start of an attempt on one rank. `fence` is there once earlier attempts are shut out."""

    run: RunDir
    attempt: int
    config: Config
    world: World
    request: StopRequest
    agreement: Agreement
    fence: Fence | None = None

    def loop(self) -> Loop:
        """Build the run or restore it. Raises StoppedEarly, UserError, RunFailure and OSError."""
        config, world = self.config, self.world
        self._leave_if_asked()
        plan = self._phase("reading the data set's layout", lambda: plan_data(config))
        self.fence = self._lead("shutting out earlier attempts", lambda: take_over(self.run, self.attempt))
        checkpoint = self._lead("verifying the newest checkpoint", lambda: newest_checkpoint(self.run))
        state = load_state(checkpoint) if checkpoint else None
        _require_same_run(state, plan)
        world.pulse("building the model")
        parts = build_parts(config, plan, world, state.micro_batch_size if state else None)
        self._warm_up(parts)
        progress = Progress()
        world.pulse.step = state.step if state else 0
        if checkpoint and state:
            self._restore(checkpoint, state, parts)
            progress = Progress(state.step, state.validation_due, state.step, time.monotonic())
        world.pulse("preparing the run directory")
        keeper = self._keeper(self.fence, parts, state, progress) if world.leads else None
        world.pulse("starting to train")
        return Loop(parts, self.request, self.agreement, progress, keeper)

    def step(self) -> int:
        """The step of the newest checkpoint, which is where the next attempt will begin."""
        return max(checkpoint_steps(self.run), default=0)

    def _phase(self, name: str, work: Callable[[], T]) -> T:
        """Do work that needs no other rank. A stop signal cuts it short, and then or soon all ranks leave."""
        self.world.pulse(name)
        result = None
        with contextlib.suppress(Interrupted), self.request.interrupting():
            result = work()
        self._leave_if_asked()
        return result  # type: ignore[return-value]  # without a result this rank has been asked, and is gone

    def _lead(self, name: str, work: Callable[[], T]) -> T:
        """Let rank 0 do `work` for all. What it returns or raises is what every rank returns or raises.

        On a shared file system ranks can see different directories.
        """
        value, error = from_leader(self._phase(name, lambda: _try(work) if self.world.leads else None), self.world)
        if error is not None:
            raise error
        result: T = value
        return result

    def _leave_if_asked(self) -> None:
        self.world.pulse("agreeing with the other ranks")
        self.agreement.propose(stop=self.request.signal is not None, save=False)
        if self.agreement.decide().stop:
            raise StoppedEarly

    def _warm_up(self, parts: Parts) -> None:
        """Compile, and let DDP see a backward pass, before there is a state that this could change."""
        if parts.compiled:
            self._phase("compiling", lambda: parts.stepper.warm_up(warm_up_batch(parts), reduces=False))
        if self.world.size > 1:
            self.world.pulse("warming up")
            parts.stepper.warm_up(warm_up_batch(parts), reduces=True)

    def _restore(self, checkpoint: Checkpoint, state: TrainerState, parts: Parts) -> None:
        """Load rank 0's reading of the checkpoint on every rank."""

        def load() -> None:
            load_model(checkpoint, parts.model)
            load_optimizer(checkpoint, parts.model, parts.optimizer)

        self._phase("restoring the checkpoint", load)
        self.world.pulse("sharing the checkpoint")
        # One reading for all: what rank 0 verified is what every rank trains on.
        broadcast_tensors(list(model_tensors(parts.model).values()), parts.world)
        device_tensors = optimizer_tensors(parts.model, parts.optimizer).values()
        broadcast_tensors([tensor for tensor in device_tensors if tensor.device == parts.world.device], parts.world)
        if parts.scaler.is_enabled() and state.scaler:
            parts.scaler.load_state_dict(state.scaler)

    def _keeper(self, fence: Fence, parts: Parts, state: TrainerState | None, progress: Progress) -> Keeper:
        """Bring the run's files to `progress`, and say that training starts."""
        metrics = rewind(fence, progress.step, progress.validation_due)
        set_aside(fence, progress.step)
        keeper = Keeper(fence, metrics, self.config.training.keep_checkpoints, self.world.pulse.spent)
        _say_started(keeper, parts, state)
        return keeper


def _try(work: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return work(), None
    except (UserError, RunFailure, OSError) as error:
        return None, error


def _require_same_run(state: TrainerState | None, plan: DataPlan) -> None:
    if state is None:
        return
    if state.data_fingerprint != plan.fingerprint:
        raise DataError(f"{plan.metadata.file}: the shards are not those that the run began with; start a new run")
    if state.step > plan.total_steps:
        raise ConfigError(f"training.train_steps: the run is at step {state.step} already, past {plan.total_steps}")


def _say_started(keeper: Keeper, parts: Parts, state: TrainerState | None) -> None:
    """Leave the start in events.jsonl and, in the log, what may make a resumed run differ in the last bits."""
    threads = torch.get_num_threads()
    keeper.event(
        "resumed" if state else "started",
        step=state.step if state else 0,
        total_steps=parts.plan.total_steps,
        steps_per_epoch=parts.plan.steps_per_epoch,
        world_size=parts.world.size,
        micro_batch_size=parts.share.micro_batch_size,
        parameters=parameter_count(parts.model),
        device=str(parts.world.device),
        threads=threads,
    )
    at = f"resumes after step {state.step:,}" if state else "starts"
    where = f"{parts.world.size} x {parts.world.device.type}"
    keeper.say(f"attempt {keeper.attempt} {at}, {parts.plan.total_steps:,} steps in all, on {where}")
    if parts.config.datasets.allow_mismatch:
        for problem in mismatches(parts.config, parts.plan.metadata):
            print(f"warning: {problem}", file=sys.stderr, flush=True)
    if state is None:
        return
    now = {"world_size": parts.world.size, "threads": threads, "torch_version": torch.__version__}
    for name, value in now.items():
        before = getattr(state, name)
        if before != value:
            print(
                f"warning: {name} was {before} and is {value}: sums may round differently from the uninterrupted run's",
                file=sys.stderr,
                flush=True,
            )
