"""Optimizers by name. Each is built from the model's named parameters and the configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from tmrc.config.registry import Registry
from tmrc.config.schema import OptimizerConfig

NamedParameters = Iterable[tuple[str, nn.Parameter]]
BuildOptimizer = Callable[[list[dict[str, Any]], OptimizerConfig], torch.optim.Optimizer]
OPTIMIZERS: Registry[BuildOptimizer] = Registry("optimizer")


@OPTIMIZERS.register("AdamW")
def adamw(groups: list[dict[str, Any]], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), fused into one kernel."""
    if config.precision == "bfloat16":
        return AdamWLowPrecision(groups, lr=config.lr, betas=config.betas, eps=config.eps)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def build_optimizer(parameters: NamedParameters, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer that `config` names, over all trainable parameters."""
    return OPTIMIZERS.get(config.name)(decay_groups(parameters, config), config)


def decay_groups(parameters: NamedParameters, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Parameter groups with their weight decay: one for all, or matrices apart when only they decay."""
    trainable = [parameter for _, parameter in parameters if parameter.requires_grad]
    if not config.decay_matrices_only:
        return [{"params": trainable, "weight_decay": config.weight_decay}]
    matrices = [parameter for parameter in trainable if parameter.dim() >= 2]
    vectors = [parameter for parameter in trainable if parameter.dim() < 2]
    return [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]


class AdamWLowPrecision(torch.optim.Optimizer):
    """AdamW whose moments are kept in bfloat16: half the optimizer memory.

    The update is computed in float32. Rounding to nearest would freeze the second moment, whose change in one step
    is smaller than half a bfloat16 ulp, so it is rounded stochastically with bits that are a function of the step
    and the parameter's index: a resumed run draws the same ones.
    """

    def __init__(
        self,
        params: list[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Apply one update; gradients must be float32."""
        if closure is not None:
            raise ValueError("AdamWLowPrecision takes no closure")
        index = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group, index)
                index += 1

    def _update(self, parameter: Tensor, grad: Tensor, group: dict[str, Any], index: int) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(parameter, dtype=torch.bfloat16)
            state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=torch.bfloat16)
        beta1, beta2 = group["betas"]
        state["step"] += 1
        step = int(state["step"].item())  # lives on the CPU: no device is waited for
        first = state["exp_avg"].float().lerp_(grad, 1 - beta1)
        second = state["exp_avg_sq"].float().mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        denominator = (second / (1 - beta2**step)).sqrt_().add_(group["eps"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.addcdiv_(first, denominator, value=-group["lr"] / (1 - beta1**step))
        state["exp_avg"].copy_(first)
        state["exp_avg_sq"].copy_(_round_stochastically(second, seed=step * 1_000_003 + index))


def _round_stochastically(values: Tensor, seed: int) -> Tensor:
    """float32 to bfloat16, up or down with the probability that keeps the mean."""
    generator = torch.Generator(values.device).manual_seed(seed)
    noise = torch.randint(0, 1 << 16, values.shape, generator=generator, device=values.device, dtype=torch.int32)
    bits = values.contiguous().view(torch.int32) + noise
    return (bits & -65536).view(torch.float32).to(torch.bfloat16)
