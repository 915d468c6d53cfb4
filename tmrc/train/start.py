"""Everything between joining the other ranks and the first step."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from tmrc.config.changes import Changes
from tmrc.config.errors import UserError
from tmrc.config.estimate import checkpoint_bytes
from tmrc.config.rundir import RunDir, append_event, checkpoint_steps
from tmrc.config.schema import Config
from tmrc.data.plan import DataPlan, mismatches, plan_data
from tmrc.model.build import parameter_count
from tmrc.train.checkpoint import (
    Checkpoint,
    load_model,
    load_optimizer,
    load_state,
    model_tensors,
    newest_checkpoint,
    set_aside,
)
from tmrc.train.distributed import World, broadcast_tensors, from_leader
from tmrc.train.failures import RunFailure, warn
from tmrc.train.fence import Fence, take_over
from tmrc.train.fit import Halving, fit, needs_trial, try_size
from tmrc.train.keeper import Keeper
from tmrc.train.ledger import origin
from tmrc.train.ledger_file import rewind_ledger
from tmrc.train.loop import Loop, Progress
from tmrc.train.metrics import rewind
from tmrc.train.same import circumstances, require_same_run, say_so
from tmrc.train.saved import TrainerState
from tmrc.train.setup import Parts, build_parts, warm_up_batch
from tmrc.train.sharing import Layout, lay_out, layout_of, shared_tensors
from tmrc.train.stamps import compare_data, write_stamps
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
    _course: Changes = field(default_factory=dict)  # what the checkpoint was trained with, and is no longer

    def loop(self) -> Loop:
        """Build the run or restore it. Raises StoppedEarly, UserError, RunFailure and OSError."""
        config, world = self.config, self.world
        self._leave_if_asked()
        plan = self._phase("reading the data set's layout", lambda: plan_data(config))
        self.fence = self._lead("shutting out earlier attempts", lambda: take_over(self.run, self.attempt))
        checkpoint, state = self._lead("verifying the newest checkpoint", lambda: _newest(self.run))
        self._course = self._lead(
            "comparing with the checkpoint", lambda: require_same_run(self.run, state, config, plan)
        )
        if state:
            self._compare_data(plan, state)
        world.pulse("building the model")
        parts = build_parts(config, plan, world, state.micro_batch_size if state else None)
        world.pulse.step = state.step if state else 0
        parts = self._warm_up(parts)
        progress = Progress()
        if checkpoint and state:
            self._restore(checkpoint, state, parts)
            progress = Progress(state.step, state.validation_due, state.step, time.monotonic())
        world.pulse("preparing the run directory")
        passed_over = checkpoint.passed_over if checkpoint else ()
        keeper = self._keeper(self.fence, parts, state, progress, passed_over) if world.leads else None
        world.pulse("starting to train")
        return Loop(parts, self.request, self.agreement, progress, keeper)

    def step(self) -> int:
        """The step of the newest checkpoint, which is where the next attempt will begin."""
        return max(checkpoint_steps(self.run), default=0)

    def _compare_data(self, plan: DataPlan, state: TrainerState) -> None:
        """Raise DataError when the data are no longer those of the steps before. Says so when they may not be."""
        compare = functools.partial(compare_data, self.run, self.config, plan, state.step, state.ledger)
        if (warning := self._lead("comparing the data", compare)) and self.world.leads:
            warn(warning)

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

    def _warm_up(self, parts: Parts) -> Parts:
        """Find a size that fits, compile, and let DDP see a backward pass, before there is a state to be changed."""
        if needs_trial(parts):
            parts = fit(parts, lambda tried: self._phase("compiling", lambda: try_size(tried)), self._tell_halving)
        elif parts.compiled:
            self._phase("compiling", lambda: parts.stepper.warm_up(warm_up_batch(parts), reduces=False))
        if parts.stepper.learns_its_order:
            self.world.pulse("warming up")
            parts.stepper.warm_up(warm_up_batch(parts), reduces=True)
        return parts

    def _tell_halving(self, halving: Halving) -> None:
        if self.world.leads:
            step = self.world.pulse.step
            append_event(self.run, "micro_batch_size", attempt=self.attempt, step=step, **halving.fields())
            print(halving, flush=True)

    def _restore(self, checkpoint: Checkpoint, state: TrainerState, parts: Parts) -> None:
        """Load rank 0's reading of the checkpoint on every rank: others may not see the files yet, or see old ones."""

        def load() -> Layout:
            load_model(checkpoint, parts.model)
            load_optimizer(checkpoint, parts.model, parts.optimizer)
            return layout_of(parts.model, parts.optimizer, parts.world.device)

        layout = self._lead("restoring the checkpoint", load)
        self.world.pulse("sharing the checkpoint")
        if not self.world.leads:
            lay_out(parts.model, parts.optimizer, layout)
        broadcast_tensors(list(model_tensors(parts.model).values()), parts.world)
        broadcast_tensors(shared_tensors(parts.model, parts.optimizer, parts.world.device), parts.world)
        if parts.scaler.is_enabled() and state.scaler:
            parts.scaler.load_state_dict(state.scaler)

    def _keeper(
        self, fence: Fence, parts: Parts, state: TrainerState | None, progress: Progress, passed_over: Sequence[str]
    ) -> Keeper:
        """Bring the run's files to `progress`, and say that training starts."""
        if self.config.training.save_model and (size := checkpoint_bytes(self.config)):
            fence.require_room(size)  # to find out at the first save would cost what was trained until then
        metrics = rewind(fence, progress.step, progress.validation_due)
        begin = origin(self.config, parts.plan.fingerprint)
        ledger = rewind_ledger(fence, progress.step, state.ledger if state else "", begin)
        if state is None or not state.ledger:  # else it was there, and nobody knows any more what it said
            write_stamps(fence, parts.plan)
        set_aside(fence, progress.step)
        keep, spent = self.config.training.keep_checkpoints, self.world.pulse.spent
        keeper = Keeper(fence, metrics, ledger, keep, self.world.device, spent)
        _say_started(keeper, parts, state, self._course, passed_over)
        if ledger.problem:
            warn(f"{ledger.problem}; another one begins after step {progress.step:,}")
            keeper.event("ledger", progress.step, problem=ledger.problem)
        return keeper


def _newest(run: RunDir) -> tuple[Checkpoint | None, TrainerState | None]:
    checkpoint = newest_checkpoint(run)
    return checkpoint, load_state(checkpoint) if checkpoint else None


def _try(work: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return work(), None
    except (UserError, RunFailure, OSError) as error:
        return None, error


def _say_started(
    keeper: Keeper, parts: Parts, state: TrainerState | None, course: Changes, passed_over: Sequence[str]
) -> None:
    """Leave the start in events.jsonl and, in the log, what may make a resumed run differ in the last bits."""
    differs = circumstances(state, parts) if state else {}
    told = (("differs", differs), ("course", course), ("passed_over", list(passed_over)))
    keeper.event(
        "resumed" if state else "started",
        step=state.step if state else 0,
        total_steps=parts.plan.total_steps,
        steps_per_epoch=parts.plan.steps_per_epoch,
        world_size=parts.world.size,
        micro_batch_size=parts.share.micro_batch_size,
        parameters=parameter_count(parts.model),
        device=str(parts.world.device),
        threads=torch.get_num_threads(),
        torch_version=torch.__version__,
        ledger=keeper.ledger_head,
        **{name: values for name, values in told if values},
    )
    at = f"resumes after step {state.step:,}" if state else "starts"
    where = f"{parts.world.size} x {parts.world.device.type}"
    keeper.say(f"attempt {keeper.attempt} {at}, {parts.plan.total_steps:,} steps in all, on {where}")
    if parts.config.datasets.allow_mismatch:
        for problem in mismatches(parts.config, parts.plan.metadata):
            warn(problem)
    say_so(differs, course)
