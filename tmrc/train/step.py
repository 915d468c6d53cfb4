"""One optimizer step: forward and backward over this rank's micro-batches, reduction, clipping, update."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Variable
from torch.nn.parallel import DistributedDataParallel

from tmrc.config.schema import Config
from tmrc.model.gpt import GPT
from tmrc.train.batch import IGNORED, Batch
from tmrc.train.loss import chunked_loss
from tmrc.train.pulse import Pulse
from tmrc.train.reduce import ExactReduction

NEVER = 2**62  # code of "no step was non-finite"


class LossModule(nn.Module):
    """The model with its loss: what is compiled and what DDP wraps."""

    def __init__(self, predictor: nn.Module, precision: torch.dtype, device_type: str) -> None:
        super().__init__()
        self.predictor = predictor
        self._precision = precision
        self._device_type = device_type

    def logits(self, tokens_BT: Tensor, mask: Any) -> Tensor:
        """logits_BTV under autocast."""
        with self._autocast():
            logits: Tensor = self.predictor(tokens_BT, mask)
        return logits

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor, mask: Any) -> Tensor:
        """Sum of the next-token cross-entropies in nats, float32, over the positions that are not ignored."""
        with self._autocast():
            loss: Tensor = self._summed_loss(tokens_BT, targets_BT, mask)
        return loss

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile what lies within autocast: code that enters autocast itself is in none of torch's caches as a whole,
        and would be traced and differentiated anew in each process."""
        self._summed_loss = torch.compile(self._summed_loss, *args, **kwargs)  # type: ignore[method-assign]

    def _summed_loss(self, tokens_BT: Tensor, targets_BT: Tensor, mask: Any) -> Tensor:
        model = self._in_pieces()
        if model is not None:
            hidden_ND, head = model.hidden(tokens_BT, mask).flatten(0, 1), model.lm_head
            with torch.autocast(self._device_type, enabled=False):  # it multiplies in the precision that it is told
                return chunked_loss(hidden_ND, head.weight, head.bias, targets_BT.flatten(), self._precision)
        logits_NV = self.predictor(tokens_BT, mask).flatten(0, 1)
        return nn.functional.cross_entropy(
            logits_NV.float(), targets_BT.flatten(), ignore_index=IGNORED, reduction="sum"
        )

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device_type, self._precision, enabled=self._precision != torch.float32)

    def _in_pieces(self) -> GPT | None:
        """The model if its loss can take the logits in pieces, which pays on a CPU.

        Not in float16, whose gradients have to be scaled before they are computed, and of a model of somebody's own
        only its `forward` is known.
        """
        model = self.predictor
        if not isinstance(model, GPT) or type(model).forward is not GPT.forward:
            return None
        pays = self._device_type == "cpu" and self._precision != torch.float16 and not torch.compiler.is_compiling()
        return model if pays else None


def seed_of(seed: int, step: int, micro_batch: int) -> int:
    """Seed of dropout in one micro-batch: a function of what is computed, not of who does or what came before."""
    digest = hashlib.blake2b(f"{seed}:{step}:{micro_batch}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@dataclass(frozen=True)
class StepResult:
    """What a step leaves on the device; reading it waits for the device."""

    losses: Tensor  # loss sums of this rank's micro-batches, in nats
    targets: int  # of the global batch
    grad_norm: Tensor  # global, before clipping
    learning_rate: float


class Stepper:
    """Runs optimizer steps. `module` is the LossModule or DDP around it; a `reduction` takes DDP's place."""

    def __init__(
        self,
        config: Config,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        build_mask: Callable[[Tensor], Any],
        device: torch.device,
        pulse: Pulse,
        reduction: ExactReduction | None = None,
    ) -> None:
        self._config = config
        self._reduction = reduction
        self._pulse = pulse
        self._module = module
        self._optimizer = optimizer
        self._scaler = scaler
        self._build_mask = build_mask
        self._parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._first_bad = torch.full((), NEVER, dtype=torch.long, device=device)
        self._micro_batches = config.training.batch_size + 1

    def backward(self, batch: Batch, index: int, step: int, scale: float, last: bool) -> Tensor:
        """Accumulate the gradient of one micro-batch's loss times `scale`; returns the loss sum."""
        if self._config.model.dropout_p > 0:
            torch.manual_seed(seed_of(self._config.training.seed, step, index))
        with contextlib.nullcontext() if last else self._without_reduction():
            loss: Tensor = self._module(batch.tokens_BT, batch.targets_BT, self._build_mask(batch.document_ids_BT))
            self._backward(self._scaler.scale(loss * scale), last and self._reduction is None)
        if self._reduction is not None:
            self._reduction.add(index)
        if self._reduction is not None and last:
            self._pulse("reducing the gradients")
            self._reduction.finish()
        loss = loss.detach()
        self._note_if_bad(loss, step * self._micro_batches + index)
        return loss

    def update(self, step: int, learning_rate: float) -> Tensor:
        """Clip and apply the accumulated gradient; returns the global gradient norm before clipping."""
        clip = self._config.training.grad_clip
        self._scaler.unscale_(self._optimizer)
        grads = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        norm = nn.utils.get_total_norm(grads)
        if clip > 0:
            nn.utils.clip_grads_with_norm_(self._parameters, clip, norm)
        if not self._scaler.is_enabled():  # with float16 an overflow is the scaler's business
            self._note_if_bad(norm, step * self._micro_batches + self._micro_batches - 1)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._forget_gradients()
        return norm

    def warm_up(self, batch: Batch, reduces: bool, passes: int = 1) -> None:
        """Throw-away forward and backward passes, which compile what is to be compiled.

        DDP orders its reduction by what it saw in the first backward; after this, the first step of a resumed run
        sums in the same order as the same step of a run that was never interrupted. Without `reduces` this rank needs
        no other one. From the second pass on, gradients are there as they are while a step accumulates them.
        """
        generator = torch.get_rng_state()
        if not reduces and isinstance(self._module, DistributedDataParallel):
            self._module.require_forward_param_sync = False  # its first forward would exchange the buffers
        try:
            with contextlib.nullcontext() if reduces else self._without_reduction():
                for _ in range(passes):
                    loss = self._module(batch.tokens_BT, batch.targets_BT, self._build_mask(batch.document_ids_BT))
                    self._backward(loss, reduces)
        finally:
            self._forget_gradients()
            torch.set_rng_state(generator)

    @property
    def learns_its_order(self) -> bool:
        """Whether the order of the reduction depends on what a first backward pass sees."""
        return isinstance(self._module, DistributedDataParallel)

    @property
    def first_bad(self) -> Tensor:
        """Code of the first non-finite micro-batch of this rank (see `bad_step`), or NEVER."""
        return self._first_bad

    def bad_step(self, code: int) -> tuple[int, int | None]:
        """(step, micro-batch) of a code; the micro-batch is None when the gradient overflowed, not a loss."""
        step, index = divmod(code, self._micro_batches)
        return step, index if index < self._micro_batches - 1 else None

    def _backward(self, loss: Tensor, reduces: bool) -> None:
        """Backward pass, with a beat between this rank's own arithmetic and its wait for the others' gradients."""

        def before_waiting(_: Tensor) -> None:  # runs after the backward pass and before DDP's end of it
            Variable._execution_engine.queue_callback(lambda: self._pulse("reducing the gradients"))

        if reduces:
            loss.register_hook(before_waiting)  # type: ignore[no-untyped-call]
        torch.autograd.backward(loss)

    def _note_if_bad(self, value: Tensor, code: int) -> None:
        """Remember the first non-finite value without waiting for the device."""
        bad = ~torch.isfinite(value) & (self._first_bad == NEVER)
        self._first_bad = torch.where(bad, code, self._first_bad)

    def _forget_gradients(self) -> None:
        if self._reduction is not None:
            self._reduction.clear()
        else:
            self._optimizer.zero_grad(set_to_none=True)

    def _without_reduction(self) -> contextlib.AbstractContextManager[None]:
        if isinstance(self._module, DistributedDataParallel):
            return self._module.no_sync()
        return contextlib.nullcontext()
