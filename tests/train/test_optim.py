"""Optimizers against the published update and against each other."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from tmrc.config.errors import ConfigError
from tmrc.config.schema import OptimizerConfig
from tmrc.train.optim import OPTIMIZERS, build_optimizer

CONFIG = OptimizerConfig(lr=0.1, weight_decay=0.2, betas=(0.8, 0.9), eps=1e-6)


def run(config: OptimizerConfig, steps: int = 3) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(8, 4)
    optimizer = build_optimizer(model.named_parameters(), config)
    for _ in range(steps):
        model(torch.randn(5, 8)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def by_hand(steps: int = 3) -> torch.Tensor:
    """AdamW of Loshchilov and Hutter, algorithm 2, on the weight."""
    torch.manual_seed(0)
    model = nn.Linear(8, 4)
    m, v = {}, {}
    for t in range(1, steps + 1):
        model(torch.randn(5, 8)).square().sum().backward()
        with torch.no_grad():
            for p in model.parameters():
                g = p.grad
                assert g is not None
                m[p] = 0.8 * m.get(p, torch.zeros_like(p)) + 0.2 * g
                v[p] = 0.9 * v.get(p, torch.zeros_like(p)) + 0.1 * g * g
                hat_m, hat_v = m[p] / (1 - 0.8**t), v[p] / (1 - 0.9**t)
                p -= 0.1 * (hat_m / (hat_v.sqrt() + 1e-6) + 0.2 * p)
                p.grad = None
    return model.weight.detach()


def test_adamw_is_the_published_update() -> None:
    model, _ = run(CONFIG)
    torch.testing.assert_close(model.weight.detach(), by_hand(), rtol=1e-5, atol=1e-6)


def test_bfloat16_moments_follow_the_same_path_at_half_the_memory() -> None:
    model, optimizer = run(dataclasses.replace(CONFIG, precision="bfloat16"))
    torch.testing.assert_close(model.weight.detach(), by_hand(), rtol=0.05, atol=0.02)
    moments = [value for state in optimizer.state.values() for name, value in state.items() if name != "step"]
    assert {value.dtype for value in moments} == {torch.bfloat16}


def test_a_bfloat16_second_moment_does_not_freeze() -> None:
    """Rounding to nearest would leave it where it is: 0.1 % of it is less than half a unit in the last place."""
    weight = nn.Parameter(torch.zeros(4096))
    config = OptimizerConfig(lr=1e-9, weight_decay=0.0, betas=(0.9, 0.999), precision="bfloat16")
    optimizer = build_optimizer([("weight", weight)], config)
    for gradient in [1.0] + [3.0] * 200:
        weight.grad = torch.full_like(weight, gradient)
        optimizer.step()
    expected = 9 * (1 - 0.999**200) + 0.001 * 0.999**200
    assert float(optimizer.state[weight]["exp_avg_sq"].float().mean()) == pytest.approx(expected, rel=0.02)


def test_decay_reaches_everything_unless_only_matrices_are_asked_for() -> None:
    model = nn.Linear(8, 4)
    everything = build_optimizer(model.named_parameters(), CONFIG)
    assert [group["weight_decay"] for group in everything.param_groups] == [0.2]
    matrices = build_optimizer(model.named_parameters(), dataclasses.replace(CONFIG, decay_matrices_only=True))
    decays = {id(p): group["weight_decay"] for group in matrices.param_groups for p in group["params"]}
    assert decays == {id(model.weight): 0.2, id(model.bias): 0.0}


def test_float32_is_fused() -> None:
    assert all(group["fused"] for group in run(CONFIG)[1].param_groups)


def test_an_unknown_optimizer_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match="AdamW"):
        OPTIMIZERS.get("Adam")
