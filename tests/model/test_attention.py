"""The backends agree with attention written out, choose as documented and refuse what they cannot do."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tmrc.config.errors import ConfigError
from tmrc.config.schema import ModelConfig
from tmrc.model import attention, layers
from tmrc.model.attention import attend, attention_backend, build_mask
from tmrc.model.layers import CausalSelfAttention

SMALL = ModelConfig(d_model=32, n_head=2)


def documents(B: int, T: int) -> torch.Tensor:
    return (torch.rand(B, T, generator=torch.Generator().manual_seed(1)) < 0.1).cumsum(1)


def qkv(B: int = 2, H: int = 2, T: int = 45, Q: int = 16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(B, H, T, Q, generator=generator) for _ in range(3)]


def by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(~visible, -math.inf)
    return scores.softmax(-1) @ v


@pytest.mark.parametrize(
    ("keys", "device", "backend"),
    [
        ({}, "cuda", "flex"),
        ({}, "cpu", "sdpa"),
        ({"flex": False}, "cuda", "sdpa"),
        ({"flex": False}, "cpu", "sdpa"),
        ({"flex": False, "flash": True, "mask": "causal"}, "cuda", "flash"),
        ({"flex": False, "flash": True, "mask": "causal"}, "cpu", "flash"),
        ({"flex": False, "flash": True, "mask": "causal", "autocast_precision": "float32"}, "cpu", "flash"),
    ],
)
def test_backend(keys: dict[str, Any], device: str, backend: str) -> None:
    assert attention_backend(dataclasses.replace(ModelConfig(), **keys), device) == backend


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"flash": True}, "both true"),
        ({"flash": True, "flex": False}, "'causal_document' needs model.flex"),
        ({"flash": True, "flex": False, "mask": "causal", "autocast_precision": "float32"}, "no float32 kernel"),
        ({"n_head": 64}, "heads of width 8"),
    ],
)
def test_impossible_choices_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        attention_backend(dataclasses.replace(ModelConfig(), **keys), "cuda")


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("name", ["causal", "causal_document"])
@pytest.mark.parametrize("T", [1, 45, 130])
def test_sdpa_and_flex_are_attention_by_hand(name: str, T: int) -> None:
    """Flex runs unfused here: on a CPU its compiled form has no backward, and forward is all that is asked."""
    model = dataclasses.replace(SMALL, mask=name)
    ids_BT = documents(2, T)
    dense = build_mask(model, "sdpa", ids_BT)
    assert isinstance(dense, torch.Tensor)
    q, k, v = qkv(T=T)
    wanted = by_hand(q, k, v, dense)
    torch.testing.assert_close(attend(q, k, v, dense), wanted)
    block_mask = build_mask(model, "flex", ids_BT)
    torch.testing.assert_close(attend(q, k, v, block_mask, compile_flex=False), wanted)


def test_no_mask_is_plain_causal() -> None:
    q, k, v = qkv()
    visible = torch.ones(45, 45).tril().bool()
    torch.testing.assert_close(attend(q, k, v, None), by_hand(q, k, v, visible))
    torch.testing.assert_close(attend(q, k, v, None, force_flash=True), by_hand(q, k, v, visible))


def test_attention_dropout_follows_the_configuration_not_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """SDPA that stands in for flex drops no attention weights; SDPA that was asked for does, in training only."""
    seen: list[float] = []

    def spy(q: torch.Tensor, *args: Any, dropout_p: float, **kwargs: Any) -> torch.Tensor:
        seen.append(dropout_p)
        return q

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    for flex in (True, False):
        layer = CausalSelfAttention(dataclasses.replace(SMALL, flex=flex, dropout_p=0.25))
        for training in (True, False):
            layer.train(training)(torch.zeros(1, 4, 32), None)
    assert seen == [0.0, 0.0, 0.25, 0.0]


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_flex_is_compiled_once_and_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []

    def compile_(function: Any, **kwargs: Any) -> Any:
        compiled.append(function)  # unfused flex asks for a compilation too, of a function of its own
        return function

    monkeypatch.setattr(torch, "compile", compile_)
    attention._compiled.cache_clear()
    block_mask = build_mask(SMALL, "flex", documents(1, 20))
    parts = [CausalSelfAttention(dataclasses.replace(SMALL, compile_flex=on)) for on in (False, True, True, True)]
    with torch.no_grad():
        for layer, count in zip(parts, [0, 1, 1, 1], strict=True):
            layer(torch.zeros(1, 20, 32), block_mask)
            assert compiled.count(attention.flex_attention) == count
    attention._compiled.cache_clear()


def test_a_layer_hands_on_its_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, bool]] = []

    def spy(q: torch.Tensor, *args: Any, compile_flex: bool, force_flash: bool, **kwargs: Any) -> torch.Tensor:
        seen.append((compile_flex, force_flash))
        return q

    monkeypatch.setattr(layers, "attend", spy)
    for keys in ({}, {"compile_flex": False}, {"flex": False, "flash": True}):
        CausalSelfAttention(dataclasses.replace(SMALL, **keys))(torch.zeros(1, 4, 32), None)
    assert seen == [(True, False), (False, False), (True, True)]


COMPILED_FLEX = """
import dataclasses, functools, torch
from tmrc.config.schema import Config, ModelConfig, TokenizerConfig
from tmrc.model.attention import _compiled, attend, build_mask
from tmrc.model.build import build_model

torch.set_num_threads(1)
compile = torch.compile = functools.partial(torch.compile, backend="aot_eager")
keys = ModelConfig(d_model=32, n_head=2, n_layer=2, context_length=80)
model = build_model(dataclasses.replace(Config(), model=keys, tokenizer=TokenizerConfig(vocab_size=61)))
whole = compile(model, fullgraph=True)
with torch.no_grad():
    for batch in range(4):
        torch.compiler.set_stance("fail_on_recompile" if batch else "default")
        ids = (torch.rand(2, 75) < 0.1).cumsum(1)
        block_mask, dense = build_mask(keys, "flex", ids), build_mask(keys, "sdpa", ids)
        x = torch.randint(0, 61, (2, 75))
        torch.testing.assert_close(whole(x, block_mask), model(x, dense), rtol=1e-4, atol=1e-4)
        assert _compiled.cache_info().misses == (batch > 0)
        q, k, v = torch.randn(3, 2, 2, 75, 16)
        torch.testing.assert_close(attend(q, k, v, block_mask), attend(q, k, v, dense))
print("agreed", _compiled.cache_info().misses)
"""


def test_compiled_flex_takes_each_batch_without_compiling_again() -> None:
    """Inside a compiled model, in one graph and without a compilation of its own, and alone, compiled once.

    In a process of its own: compiled flex changes how later calls in the process run.
    """
    done = subprocess.run([sys.executable, "-c", COMPILED_FLEX], capture_output=True, text=True)
    assert done.stdout == "agreed 1\n", done.stderr


def test_importing_compiles_nothing() -> None:
    code = "import sys, tmrc.model.build, tmrc.model.gpt; print('torch._inductor' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("T", [100, 128, 500])
def test_flex_on_a_gpu_is_dense_attention(T: int) -> None:
    """Mask and flex compiled, in bfloat16, forward and backward, against SDPA with the dense mask in float32."""
    model = ModelConfig(d_model=128, n_head=2)
    ids_BT = documents(2, T).cuda()
    assert attention_backend(model, "cuda") == "flex"
    gradients = []
    for backend, dtype in (("flex", torch.bfloat16), ("sdpa", torch.float32)):
        tensors = [t.cuda().to(dtype).requires_grad_() for t in qkv(T=T, Q=64)]
        out = attend(*tensors, build_mask(model, backend, ids_BT))  # type: ignore[arg-type]
        out.float().square().sum().backward()
        gradients.append([out.float()] + [t.grad.float() for t in tensors if t.grad is not None])
    for fused, dense in zip(*gradients, strict=True):
        assert (fused - dense).norm() < 0.02 * dense.norm()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_flash_on_a_gpu_is_causal_and_refuses_float32() -> None:
    tensors = [t.cuda() for t in qkv(Q=64)]
    visible = torch.ones(45, 45, device="cuda").tril().bool()
    out = attend(*[t.bfloat16() for t in tensors], None, force_flash=True)
    assert (out.float() - by_hand(*tensors, visible)).norm() < 0.02 * out.float().norm()
    with pytest.raises(RuntimeError):
        attend(*tensors, None, force_flash=True)
