"""The torch-free estimates against the model itself."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tmrc.config import estimate
from tmrc.config.schema import Config, ModelConfig, OptimizerConfig, TokenizerConfig
from tmrc.model.attention import build_mask
from tmrc.model.build import build_model, parameter_count

flag = st.booleans()
models = st.builds(
    lambda head_width, n_head, **keys: ModelConfig(n_head=n_head, d_model=n_head * head_width, **keys),
    head_width=st.integers(1, 9),
    n_head=st.integers(1, 4),
    n_layer=st.integers(1, 4),
    context_length=st.integers(2, 70),
    mlp_scale_factor=st.integers(1, 5),
    **dict.fromkeys(("mlp_bias", "attn_bias", "proj_bias", "ln_bias", "cls_head_bias"), flag),
)


@given(model=models, vocab_size=st.integers(2, 300))
@settings(max_examples=60, deadline=None)
def test_parameters_are_those_of_the_model(model: ModelConfig, vocab_size: int) -> None:
    config = dataclasses.replace(Config(), model=model, tokenizer=TokenizerConfig(vocab_size=vocab_size))
    with torch.device("meta"):
        built = build_model(config)
    for embedding in (True, False):
        assert estimate.parameters(config, embedding) == parameter_count(built, embedding)


def test_the_default_configuration() -> None:
    """The numbers by hand: 8 layers of 512, context 512, vocabulary 32128."""
    config = Config()
    layer = 4 * 512 * 512 + 512 + 8 * 512 * 512 + 2048 + 512 + 4 * 512
    N = 8 * layer + 1024 + 32128 * 513
    assert estimate.parameters(config, embedding=False) == N
    assert estimate.parameters(config) == N + (32128 + 512) * 512
    assert estimate.flops_per_token(config) == 6 * N + 12 * 8 * 4 * 128 * 512
    assert estimate.checkpoint_bytes(config) == 12 * (N + (32128 + 512) * 512)
    bfloat16 = dataclasses.replace(config, optimizer=OptimizerConfig(precision="bfloat16"))
    assert estimate.checkpoint_bytes(bfloat16) == 8 * (N + (32128 + 512) * 512)


def test_a_matmul_count_of_the_model_agrees(tiny_config: Any) -> None:
    """PyTorch's own counter of the FLOPs of a forward and backward pass; it knows plain attention as two matmuls."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    config = tiny_config(context_length=40)
    model = build_model(config)
    x = torch.zeros(2, 40, dtype=torch.int64)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(x, build_mask(config.model, "sdpa", x)).sum().backward()
    biases_and_norms = sum(p.numel() for p in model.parameters() if p.ndim == 1)
    counted = estimate.flops_per_token(config)
    assert counted is not None
    assert counter.get_total_flops() == 80 * (counted - 6 * biases_and_norms)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_activation_memory_is_about_what_autograd_keeps(precision: Any) -> None:
    model = ModelConfig(d_model=64, n_head=2, n_layer=4, context_length=128, autocast_precision=precision)
    config = dataclasses.replace(Config(), model=model, tokenizer=TokenizerConfig(vocab_size=500))
    built = build_model(config)
    x = torch.zeros(4, 128, dtype=torch.int64)
    mask = build_mask(model, "sdpa", x)
    weights = {p.untyped_storage().data_ptr() for p in built.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            out = built(x, mask)
        loss = F.cross_entropy(out.float().flatten(0, 1), x.flatten())
    assert loss.requires_grad
    N = parameter_count(built)
    activations = (estimate.training_memory_bytes(config, 4) or 0) - (estimate.training_memory_bytes(config, 0) or 0)
    copy = 2 * N if precision == "bfloat16" else 0
    assert 0.7 < activations / (sum(kept.values()) - copy) < 1.5


def test_memory_grows_with_what_it_should(tiny_config: Any) -> None:
    config = tiny_config()
    state = estimate.training_memory_bytes(config, 0)
    assert state == 16 * (estimate.parameters(config) or 0)
    assert (estimate.training_memory_bytes(config, 2) or 0) > state


def test_another_model_is_not_guessed() -> None:
    config = dataclasses.replace(Config(), model=ModelConfig(name="mine"))
    assert estimate.parameters(config) is None
    assert estimate.flops_per_token(config) is None
    assert estimate.checkpoint_bytes(config) is None
    assert estimate.training_memory_bytes(config, 1) is None


def test_it_needs_no_torch() -> None:
    code = "import sys, tmrc.config.estimate; print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
