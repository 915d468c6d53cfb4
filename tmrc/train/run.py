"""A run on one rank, from its directory to its outcome."""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tmrc.config.errors import CheckpointError, ConfigError, DataError
from tmrc.config.load import load_config
from tmrc.config.rundir import EXIT_FINISHED, EXIT_USER_ERROR, EXIT_WANTS_REQUEUE, RunDir, append_event
from tmrc.config.schema import Config
from tmrc.data.plan import DataPlan, mismatches, plan_data
from tmrc.model.build import parameter_count
from tmrc.train import outcome as outcomes
from tmrc.train.checkpoint import (
    Checkpoint,
    TrainerState,
    load_model,
    load_optimizer,
    load_state,
    model_tensors,
    newest_checkpoint,
    optimizer_tensors,
    set_aside,
)
from tmrc.train.distributed import World, broadcast_tensors, from_leader, join_world
from tmrc.train.failures import is_plain
from tmrc.train.loop import Loop, Progress
from tmrc.train.metrics import rewind
from tmrc.train.outcome import Outcome
from tmrc.train.pulse import Pulse, pulse_of
from tmrc.train.setup import Parts, build_parts, warm_up_batch
from tmrc.train.stop import StopRequest
from tmrc.train.tracking import Tracker


@dataclass
class Session:
    """What is known of this process while it runs, for the report on how it ended."""

    run: RunDir
    attempt: int
    rank: int
    request: StopRequest
    pulse: Pulse = field(default_factory=Pulse)
    loop: Loop | None = None

    @property
    def step(self) -> int:
        return self.loop.progress.step if self.loop else 0


def main(arguments: Sequence[str]) -> int:
    """Run and return the exit code: 0 finished, 2 config or data error, 75 stopped and wants the queue, 1 failure."""
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print("usage: python -m tmrc.train RUN_DIR", file=sys.stderr)
        return EXIT_USER_ERROR
    run = RunDir(Path(arguments[0]))
    request = StopRequest()
    request.install()
    session = Session(run, outcomes.attempt_number(run), int(os.environ.get("RANK", "0")), request)
    _speak_once(session.rank)
    try:
        outcome = _train(session)
    except Exception as error:
        outcome = outcomes.failed(error, session.step)
        _explain(error, outcome, session)
    try:
        _record(session, outcome)
    except OSError as error:  # a full disk: the exit code still says how it ended
        print(f"error: rank {session.rank}: the outcome cannot be recorded: {error}", file=sys.stderr, flush=True)
    under_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    # torchrun would report an orderly stop as a crash; the launcher reads the recorded outcome.
    return EXIT_FINISHED if under_torchrun and outcome.exit_code == EXIT_WANTS_REQUEUE else outcome.exit_code


def _record(session: Session, outcome: Outcome) -> None:
    """Leave the outcome in this rank's file and, from rank 0, in events.jsonl."""
    outcomes.record(session.run, session.attempt, session.rank, outcome)
    # That another process went first is no news, and why it did is not known here: the launcher says it.
    if session.rank != 0 or outcome.kind in ("stopped", "peer_lost"):
        return
    fields: dict[str, Any] = {"attempt": session.attempt, "step": outcome.step}
    if outcome.status == "failed":
        fields |= {"exit_code": outcome.exit_code, "kind": outcome.kind, "cause": outcome.message}
    append_event(session.run, outcome.status, **fields)


def _speak_once(rank: int) -> None:
    """Warnings as plain lines, from rank 0 alone: what they say is the same on every rank."""
    logging.basicConfig(level=logging.WARNING if rank == 0 else logging.ERROR, format="%(message)s")
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    if rank != 0:
        warnings.simplefilter("ignore")


def _explain(error: Exception, outcome: Outcome, session: Session) -> None:
    """One line for what a person can mend, a traceback for what is our bug."""
    if not is_plain(outcome.kind):
        traceback.print_exc()
    print(f"error: rank {session.rank}: {outcome.message}", file=sys.stderr, flush=True)


def _train(session: Session) -> Outcome:
    """Join the other ranks, build or restore the run, and train."""
    pulse = session.pulse = pulse_of(session.rank)
    pulse("reading the configuration")
    config = load_config(session.run.config)
    _set_determinism(config)
    with join_world(config.training, pulse) as world:
        session.attempt = from_leader(session.attempt, world)
        outcomes.announce(session.run, session.attempt, session.rank)
        pulse("reading the data set's layout")
        plan = plan_data(config)
        checkpoint = _agree_on_checkpoint(session.run, world)
        state = load_state(checkpoint) if checkpoint else None
        _require_same_run(state, plan)
        pulse("building the model")
        parts = build_parts(config, plan, world, state.micro_batch_size if state else None)
        pulse("warming up")
        if world.size > 1 or parts.compiled:
            parts.stepper.warm_up(warm_up_batch(parts))
        progress = Progress()
        if checkpoint and state:
            _restore(checkpoint, state, parts)
            progress = Progress(state.step, state.validation_due, state.step, time.monotonic())
        pulse("preparing the run directory")
        if world.leads:
            rewind(session.run, progress.step, progress.validation_due)
            set_aside(session.run, progress.step)
            _say_started(session, parts, state)
        pulse("starting to train")
        session.loop = Loop(session.run, session.attempt, parts, session.request, progress)
        tracker = Tracker(session.run, config.wandb_log) if world.leads else None
        outcome = session.loop.run()
        if tracker:
            tracker.finish(wait=outcome.status == "finished")
        return outcome


def _set_determinism(config: Config) -> None:
    if config.training.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cuda.matmul.allow_tf32 = config.model.autocast_precision != "float32"
    torch.manual_seed(config.training.seed)


def _agree_on_checkpoint(run: RunDir, world: World) -> Checkpoint | None:
    """The newest good checkpoint as rank 0 sees it: on a shared file system ranks can see different directories."""
    found: dict[str, Any] = {}
    world.pulse("verifying the newest checkpoint")
    if world.leads:
        try:
            checkpoint = newest_checkpoint(run)
            found = {"path": str(checkpoint.path), "step": checkpoint.step} if checkpoint else {}
        except CheckpointError as error:
            found = {"error": str(error)}
    world.pulse("waiting for the choice of a checkpoint")
    found = from_leader(found, world)
    if "error" in found:
        raise CheckpointError(found["error"])
    return Checkpoint(Path(found["path"]), found["step"]) if found else None


def _require_same_run(state: TrainerState | None, plan: DataPlan) -> None:
    if state is None:
        return
    if state.data_fingerprint != plan.fingerprint:
        raise DataError(f"{plan.metadata.file}: the shards are not those that the run began with; start a new run")
    if state.step > plan.total_steps:
        raise ConfigError(f"training.train_steps: the run is at step {state.step} already, past {plan.total_steps}")


def _restore(checkpoint: Checkpoint, state: TrainerState, parts: Parts) -> None:
    """Load rank 0's reading of the checkpoint on every rank."""
    parts.world.pulse("restoring the checkpoint")
    load_model(checkpoint, parts.model)
    load_optimizer(checkpoint, parts.model, parts.optimizer)
    parts.world.pulse("sharing the checkpoint")
    # One reading for all: what rank 0 verified is what every rank trains on.
    broadcast_tensors(list(model_tensors(parts.model).values()), parts.world)
    device_tensors = optimizer_tensors(parts.model, parts.optimizer).values()
    broadcast_tensors([tensor for tensor in device_tensors if tensor.device == parts.world.device], parts.world)
    if parts.scaler.is_enabled() and state.scaler:
        parts.scaler.load_state_dict(state.scaler)


def _say_started(session: Session, parts: Parts, state: TrainerState | None) -> None:
    """Leave the start in events.jsonl and, in the log, what may make a resumed run differ in the last bits."""
    threads = torch.get_num_threads()
    append_event(
        session.run,
        "resumed" if state else "started",
        attempt=session.attempt,
        step=state.step if state else 0,
        total_steps=parts.plan.total_steps,
        steps_per_epoch=parts.plan.steps_per_epoch,
        world_size=parts.world.size,
        micro_batch_size=parts.share.micro_batch_size,
        parameters=parameter_count(parts.model),
        device=str(parts.world.device),
        threads=threads,
    )
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
