"""The training loop."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError

from tmrc.config.estimate import flops_per_token
from tmrc.config.rundir import RunDir, append_event
from tmrc.train.batch import HostBatch, count_targets, to_device
from tmrc.train.checkpoint import TrainerState, prune, save_checkpoint
from tmrc.train.distributed import all_reduce
from tmrc.train.failures import DiskError, NonFiniteError
from tmrc.train.feed import Feed
from tmrc.train.metrics import MetricsFile, Throughput, memory_gib, peak_flops
from tmrc.train.outcome import Outcome, finished, stopped
from tmrc.train.schedule import learning_rate
from tmrc.train.setup import Parts
from tmrc.train.step import NEVER, StepResult
from tmrc.train.stop import Agreement, StopRequest


@dataclass
class Progress:
    """Where the run stands. `step` counts the optimizer steps that are done."""

    step: int = 0
    validation_due: bool = True  # the validation that belongs to `step` has not been run
    saved_step: int = -1
    saved_at: float = field(default_factory=time.monotonic)


class Loop:
    """Trains from `progress` to the end of the plan, a stop signal or a failure."""

    def __init__(self, run: RunDir, attempt: int, parts: Parts, request: StopRequest, progress: Progress) -> None:
        self.run_dir = run
        self.attempt = attempt
        self.parts = parts
        self.progress = progress
        self._request = request
        self._training = parts.config.training
        self._metrics = MetricsFile(run) if parts.world.leads else None
        self._agreement = Agreement(parts.world)
        self._throughput = Throughput(parts.tokens_per_step)
        self._on_cpu = parts.world.device.type == "cpu"

    def run(self) -> Outcome:
        """Train. Raises NonFiniteError, DataError and OSError; whatever was saved before stays intact."""
        parts, progress = self.parts, self.progress
        total = parts.plan.total_steps
        pin = not self._on_cpu
        feed = Feed(parts.reader, parts.share, progress.step, total, pin)
        try:
            if progress.validation_due and not self._validate():
                return self._stop()
            self._throughput.start()
            while progress.step < total:
                self._agreement.propose(stop=self._request.signal is not None, save=self._save_is_due())
                parts.world.pulse("reading data")
                began = time.perf_counter()
                hosts = feed.next()
                self._throughput.waited(time.perf_counter() - began)
                result = self._train_step(hosts)
                if not self._after_step(result):
                    return self._stop()
            self._save()
            return finished(progress.step)
        finally:
            feed.close()
            if self._metrics:
                self._metrics.close()

    def _train_step(self, hosts: list[HostBatch]) -> StepResult:
        """One optimizer step on this rank's micro-batches."""
        parts, step = self.parts, self.progress.step
        targets = count_targets(parts.reader.lengths(parts.reader.samples(step)).tolist())
        scale = parts.world.size / targets  # DDP takes the mean over ranks
        losses = []
        for position, host in enumerate(hosts):
            parts.world.pulse("forward and backward")
            batch = to_device(host, parts.world.device, parts.config.datasets.eos_token)
            if parts.probe:
                parts.probe.look_up(parts.reader, host)
                mask = parts.build_mask(batch.document_ids_BT)
                parts.probe.check(parts.reader, host, batch, mask, f"step {step + 1}")
            losses.append(parts.stepper.backward(batch, host.index, step, scale, position == len(hosts) - 1))
        rate = learning_rate(step, parts.plan.total_steps, parts.config.optimizer.lr, self._training)
        parts.world.pulse("updating the weights")
        norm = parts.stepper.update(step, rate)
        self.progress.step = parts.world.pulse.step = step + 1
        return StepResult(torch.stack(losses).sum() / targets, norm, rate)

    def _after_step(self, result: StepResult) -> bool:
        """Log, validate and save as is due after a step. False when all ranks agreed to stop."""
        progress, training = self.progress, self._training
        self.parts.world.pulse("agreeing with the other ranks")
        decision = self._agreement.decide()
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
        loss = all_reduce(result.loss.double(), dist.ReduceOp.SUM, parts.world).item()
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
        cause = self._request.signal or "signal on another rank"
        if self.parts.world.leads:
            append_event(self.run_dir, "signal", attempt=self.attempt, step=self.progress.step, cause=cause)
        self._save()
        return stopped(self.progress.step, cause)

    def _save_is_due(self) -> bool:
        """Rank 0's clock decides for all."""
        waited = time.monotonic() - self.progress.saved_at
        return self.parts.world.leads and self._training.save_model and waited >= self._training.save_every

    def _save(self) -> None:
        """Write a checkpoint of the current step, unless it is there already or saving is switched off."""
        progress = self.progress
        if not self._training.save_model or progress.saved_step == progress.step:
            return
        self._require_finite()
        self.parts.world.pulse("writing a checkpoint")
        if self.parts.world.leads:
            began = time.perf_counter()
            assert self._metrics is not None
            self._metrics.sync()  # a row that the checkpoint counts as written must not be lost
            path = self._write_checkpoint()
            seconds = time.perf_counter() - began
            append_event(
                self.run_dir, "checkpoint", attempt=self.attempt, step=progress.step, path=path.name, seconds=seconds
            )
        self.parts.world.pulse("waiting for the checkpoint")
        self._agreement.wait_for_all()  # nobody leaves while rank 0 still writes
        progress.saved_step, progress.saved_at = progress.step, time.monotonic()
        self._throughput.start()

    def _write_checkpoint(self) -> Path:
        try:
            path = save_checkpoint(self.run_dir, self.parts.model, self.parts.optimizer, self._state())
            prune(self.run_dir, self._training.keep_checkpoints)
        except (OSError, SafetensorError) as error:
            step = self.progress.step
            raise DiskError(
                f"the checkpoint of step {step} cannot be written ({error}); earlier ones are intact"
            ) from None
        return path

    def _state(self) -> TrainerState:
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
        )

    def _require_finite(self) -> None:
        """Raise NonFiniteError, the same on every rank, when a loss or gradient since the start was not finite."""
        parts = self.parts
        code = int(all_reduce(parts.stepper.first_bad.clone(), dist.ReduceOp.MIN, parts.world).item())
        if code == NEVER:
            return
        step, index = parts.stepper.bad_step(code)
        samples = parts.reader.samples(step)
        size = parts.share.micro_batch_size
        suspects = (samples if index is None else samples[index * size : (index + 1) * size]).tolist()
        where = ", ".join(f"{item} ({parts.reader.locate(item)})" for item in suspects[:4])
        more = f" and {len(suspects) - 4} more, see events.jsonl" if len(suspects) > 4 else ""
        what = "gradient" if index is None else "loss"
        if parts.world.leads:
            append_event(self.run_dir, "non_finite", attempt=self.attempt, step=step + 1, what=what, sequences=suspects)
        raise NonFiniteError(f"the {what} of step {step + 1} is not finite; sequences {where}{more}")

    def _write(self, row: dict[str, Any]) -> None:
        if self._metrics:
            self._metrics.write(row)
