"""The training loop."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import operator
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from tmrc.config.estimate import flops_per_token
from tmrc.train.batch import HostBatch, count_targets, to_device
from tmrc.train.checkpoint import Files, files_of
from tmrc.train.distributed import gather
from tmrc.train.feed import Feed
from tmrc.train.finite import require_finite
from tmrc.train.keeper import Keeper
from tmrc.train.ledger import Sums
from tmrc.train.metrics import Throughput, memory_gib, peak_flops
from tmrc.train.outcome import Outcome, finished, stopped
from tmrc.train.same import noted
from tmrc.train.saved import TrainerState
from tmrc.train.schedule import learning_rate
from tmrc.train.setup import Parts
from tmrc.train.step import StepResult
from tmrc.train.stop import SIGNAL_ELSEWHERE, Agreement, StopRequest

# Seconds, where the disk has no room for a checkpoint
TRY_AGAIN = 60.0  # between tries while training goes on
LOOK_FOR_ROOM = 5.0  # between tries when there is nothing else left to do
PATIENCE_WHEN_STOPPED = 30.0  # for room to appear when the run has been asked to stop


@dataclass
class Progress:
    """Where the run stands. `step` counts the optimizer steps that are done."""

    step: int = 0
    validation_due: bool = True  # the validation that belongs to `step` has not been run
    resumed_step: int = 0  # that there was a checkpoint of when the attempt began
    saved_at: float = field(default_factory=time.monotonic)


class Loop:
    """Trains from `progress` to the end of the plan, a stop signal or a failure."""

    def __init__(
        self, parts: Parts, request: StopRequest, agreement: Agreement, progress: Progress, keeper: Keeper | None
    ) -> None:
        self.parts = parts
        self.progress = progress
        self._request = request
        self._training = parts.config.training
        self._agreement = agreement
        self._keeper = keeper  # on rank 0
        self._throughput = Throughput(parts.tokens_per_step)
        self._on_cpu = parts.world.device.type == "cpu"

    def run(self) -> Outcome:
        """Train. Raises NonFiniteError, DataError and OSError; whatever was saved before stays intact."""
        parts = self.parts
        pin = not self._on_cpu
        feed = Feed(parts.reader, parts.share, self.progress.step, parts.plan.total_steps, pin)
        try:
            outcome = self._train(feed)
        except BaseException:
            feed.close()
            with contextlib.suppress(OSError):  # what went wrong first is what is told
                self._close_files()
            raise
        feed.close()
        self._close_files()
        return outcome

    def _train(self, feed: Feed) -> Outcome:
        parts, progress = self.parts, self.progress
        if progress.validation_due and not self._validate():
            return self._stop()
        self._throughput.start()
        while progress.step < parts.plan.total_steps:
            parts.world.pulse("reading data")
            began = time.perf_counter()
            hosts = feed.next()
            self._throughput.waited(time.perf_counter() - began)
            self._propose(hosts)
            result = self._train_step(hosts)
            if progress.step == progress.resumed_step + 1:
                self._prepare_saves()
            if not self._after_step(result):
                return self._stop()
        self._save_at_last(self._training.save_every)
        return finished(progress.step)

    def _close_files(self) -> None:
        if self._keeper:
            self._keeper.close()

    def _propose(self, hosts: list[HostBatch]) -> None:
        """Put in this rank's wishes for the step that begins, and what the ledger records of its share."""
        sums = functools.reduce(operator.add, (host.sums for host in hosts), Sums())
        self._agreement.propose(self._request.signal is not None, self._save_is_due(), sums)

    def _train_step(self, hosts: list[HostBatch]) -> StepResult:
        """One optimizer step on this rank's micro-batches."""
        parts, step = self.parts, self.progress.step
        targets = count_targets(parts.reader.lengths(parts.reader.samples(step)).tolist())
        scale = parts.averaged_over / targets
        losses = []
        for position, host in enumerate(hosts):
            parts.world.pulse("forward and backward")
            batch = to_device(host, parts.world.device, parts.config.datasets.eos_token)
            if parts.probe:
                parts.probe.look_up(parts.reader, host)
                mask = parts.build_mask(batch.document_ids_BT)
                parts.probe.check(parts.reader, host, batch, mask, f"step {step + 1}")
            losses.append(parts.stepper.backward(batch, host.index, step, scale, position == len(hosts) - 1))
        if self._keeper:
            self._keeper.protect()
        rate = learning_rate(step, parts.plan.total_steps, parts.config.optimizer.lr, self._training)
        parts.world.pulse("updating the weights")
        norm = parts.stepper.update(step, rate)
        self.progress.step = parts.world.pulse.step = step + 1
        return StepResult(torch.stack(losses), targets, norm, rate)

    def _after_step(self, result: StepResult) -> bool:
        """Log, validate and save as is due after a step. False when all ranks agreed to stop."""
        progress, training = self.progress, self._training
        self._look_after_save()
        self.parts.world.pulse("agreeing with the other ranks")
        decision = self._agreement.decide()
        if self._keeper:
            self._keeper.record(progress.step, decision.sums)
        at_end = progress.step == self.parts.plan.total_steps
        logs = progress.step % training.log_interval == 0 or at_end or progress.step == 1
        progress.validation_due = self.parts.validation is not None and (
            at_end or progress.step % training.val_interval == 0
        )
        if self._on_cpu or logs or decision.stop or decision.save or progress.validation_due:
            self._require_finite()
        if logs:
            self._log(result)
        if decision.stop and not at_end:
            return False
        if progress.validation_due and not self._validate():
            return False
        if decision.save and not at_end:
            self._save()
        return True

    def _log(self, result: StepResult) -> None:
        """Write the row of this step. The loss is that of the step's global batch, not a mean over steps."""
        parts = self.parts
        losses = itertools.chain.from_iterable(gather(result.losses.tolist(), parts.world))
        loss = math.fsum(losses) / result.targets  # fsum is exact: who computed which part does not matter
        tokens_per_s, data_wait = self._throughput.rates()
        peak, flops = peak_flops(parts.world.device), flops_per_token(parts.config)
        row: dict[str, Any] = {
            "step": self.progress.step,
            "loss": loss,
            "lr": result.learning_rate,
            "grad_norm": result.grad_norm.item(),
            "tokens": self.progress.step * parts.tokens_per_step,
            "epoch": (self.progress.step - 1) // parts.plan.steps_per_epoch,
            "tokens_per_s": tokens_per_s,
            "mfu": tokens_per_s * flops / (peak * parts.world.size) if peak and flops else None,
            "memory_gib": memory_gib(parts.world.device),
            "data_wait": data_wait,
            "accuracy": 1.0 if parts.probe else None,  # anything less has stopped the run
            "time": time.time(),
        }
        self._write(row)
        self._throughput.start()

    def _validate(self) -> bool:
        """Run the validation that is due and log it. False when all ranks agreed to stop instead."""
        parts, progress = self.parts, self.progress
        if parts.validation is None:
            progress.validation_due = False
            return True
        parts.world.pulse("validating")
        loss = parts.validation.run(parts.module, parts.build_mask, parts.probe, self._interrupted)
        if loss is None:
            return False
        progress.validation_due = False
        self._write({"step": progress.step, "val_loss": loss, "time": time.time()})
        self._throughput.start()
        return True

    def _interrupted(self) -> bool:
        self.parts.world.pulse("agreeing with the other ranks")
        self._agreement.propose(stop=self._request.signal is not None, save=False)
        decision = self._agreement.decide()
        self.parts.world.pulse("validating")
        return decision.stop

    def _stop(self) -> Outcome:
        cause = self._request.signal or SIGNAL_ELSEWHERE
        if self._keeper:
            self._keeper.event("signal", self.progress.step, cause=cause)
        self._save_at_last(PATIENCE_WHEN_STOPPED)
        return stopped(self.progress.step, cause)

    def _save_is_due(self) -> bool:
        """Rank 0's clock decides for all."""
        waited = time.monotonic() - self.progress.saved_at
        return self.parts.world.leads and self._training.save_model and waited >= self._training.save_every

    def _prepare_saves(self) -> None:
        """After the first step, since an optimizer has no state before."""
        if self._keeper and self._training.save_model:
            self._keeper.prepare(self._files())

    def _look_after_save(self, wait: bool = False) -> bool:
        """See to the checkpoint that is being written, if there is one. False when the disk had no room for it.

        Raises DiskError when there has been none for too long.
        """
        if self._keeper is None or self._keeper.settle(self._training.save_every, wait):
            return True
        save_every = self._training.save_every
        self.progress.saved_at = time.monotonic() - save_every + min(save_every, TRY_AGAIN)
        return False

    def _save(self) -> None:
        """Begin to write a checkpoint of the current step. Training goes on as soon as its state is copied."""
        self._require_finite()
        self.parts.world.pulse("writing a checkpoint")
        if self._keeper and self._look_after_save(wait=True):  # never two at once
            self._keeper.begin_save(self._files(), self._state(self._keeper.ledger_head))
            self.progress.saved_at = time.monotonic()
        self._throughput.start()

    def _save_at_last(self, patience: float) -> None:
        """The save after which training ends: while the disk is full, wait for room."""
        self._be_patient_again()
        while not self._save_and_wait(patience):
            time.sleep(min(LOOK_FOR_ROOM, patience))
            if patience > PATIENCE_WHEN_STOPPED and self._interrupted():
                patience = PATIENCE_WHEN_STOPPED
                self._be_patient_again()

    def _be_patient_again(self) -> None:
        if self._keeper:
            self._keeper.be_patient_again()

    def _save_and_wait(self, patience: float) -> bool:
        """Have a durable checkpoint of the current step, unless nothing is trained or saving is off.

        False, on every rank, when the disk is full and has been so for less than `patience` seconds. Raises DiskError.
        """
        parts, progress = self.parts, self.progress
        if self._keeper:
            self._keeper.require()
        if not self._training.save_model or progress.step == progress.resumed_step:
            return True
        self._require_finite()
        parts.world.pulse("writing a checkpoint")
        saved = True
        if self._keeper:
            saved = self._keeper.save(self._files(), self._state(self._keeper.ledger_head), patience)
        parts.world.pulse("waiting for the checkpoint")
        return self._agreement.all_agree(saved)  # nobody leaves while rank 0 still writes

    def _files(self) -> Files:
        return files_of(self.parts.model, self.parts.optimizer)

    def _state(self, ledger_head: str) -> TrainerState:
        parts, progress = self.parts, self.progress
        return TrainerState(
            step=progress.step,
            sequences=progress.step * self._training.batch_size,
            micro_batch_size=parts.share.micro_batch_size,
            world_size=parts.world.size,
            threads=torch.get_num_threads(),
            torch_version=torch.__version__,
            data_fingerprint=parts.plan.fingerprint,
            validation_due=progress.validation_due,
            scaler=parts.scaler.state_dict(),
            config=noted(parts.config, parts.plan),
            ledger=ledger_head,
        )

    def _require_finite(self) -> None:
        require_finite(self.parts, self.progress.step, self._keeper)

    def _write(self, row: dict[str, Any]) -> None:
        if self._keeper:
            self._keeper.write(row)
