"""The whole model: who sees whom, what each key does, how it starts, and that it compiles in one graph."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from tmrc.config.errors import ConfigError
from tmrc.config.registry import registered
from tmrc.config.schema import Config, ModelConfig, TrainingConfig
from tmrc.model.activations import ACTIVATIONS
from tmrc.model.attention import build_mask
from tmrc.model.build import build_model, parameter_count

Tiny = Callable[..., Config]
T = 45  # neither the width nor the context length


def tokens(B: int = 2, length: int = T) -> Tensor:
    return torch.randint(0, 61, (B, length), generator=torch.Generator().manual_seed(3))


def logits(config: Config, tokens_BT: Tensor, document_ids_BT: Tensor | None = None, backend: Any = "sdpa") -> Tensor:
    """Of a freshly built model with larger weights than its own, so that every part of it shows in the result."""
    model = build_model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5).add_(0.01)
        ids = torch.zeros_like(tokens_BT) if document_ids_BT is None else document_ids_BT
        out: Tensor = model(tokens_BT, build_mask(config.model, backend, ids))
    return out


@pytest.mark.parametrize(
    "keys", [{}, {"mask": "causal"}, {"flex": False}, {"flex": False, "flash": True, "mask": "causal"}]
)
def test_a_token_changes_nothing_before_it(tiny_config: Tiny, keys: dict[str, Any]) -> None:
    config = tiny_config(**keys)
    backend = "flash" if config.model.flash else "sdpa"
    before = tokens()
    for position in (T - 1, 20, 0):
        after = before.clone()
        after[:, position] = (after[:, position] + 1) % 61
        a, b = logits(config, before, backend=backend), logits(config, after, backend=backend)
        assert torch.equal(a[:, :position], b[:, :position])
        assert not torch.allclose(a[:, position], b[:, position])
        assert position == T - 1 or not torch.allclose(a[:, -1], b[:, -1])


def test_a_document_sees_no_other(tiny_config: Tiny) -> None:
    """Changing every token of the middle document leaves the others' outputs as they were, bit for bit."""
    ids = torch.tensor([[0] * 13 + [1] * 17 + [2] * 15])
    before, after = tokens(1), tokens(1)
    after[:, 13:30] = (after[:, 13:30] + 7) % 61
    a, b = (logits(tiny_config(), x, ids) for x in (before, after))
    other = torch.cat([torch.arange(13), torch.arange(30, 45)])
    assert torch.equal(a[:, other], b[:, other])
    assert not torch.allclose(a[:, 13:30], b[:, 13:30])
    a, b = (logits(tiny_config(mask="causal"), x, ids) for x in (before, after))
    assert not torch.allclose(a[:, 30:], b[:, 30:])


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("mask", ["causal", "causal_document"])
def test_flex_and_sdpa_give_the_same_logits(tiny_config: Tiny, mask: str) -> None:
    config = tiny_config(mask=mask, compile_flex=False)
    ids = torch.tensor([[0] * 20 + [1] * 25, [0] * 45])
    flex, sdpa = (logits(config, tokens(), ids, backend) for backend in ("flex", "sdpa"))
    torch.testing.assert_close(flex, sdpa, rtol=1e-4, atol=1e-4)


# key, another value, and whether the parameters (their number) change too. Keys that choose a kernel or a precision
# leave the result alone; those of autocast belong to training, compile_flex and flash to test_attention.py.
EFFECTS = [
    ("d_model", 48, True),
    ("n_layer", 3, True),
    ("mlp_scale_factor", 2, True),
    ("context_length", 50, True),
    ("mlp_bias", False, True),
    ("attn_bias", True, True),
    ("proj_bias", False, True),
    ("ln_bias", False, True),
    ("cls_head_bias", False, True),
    ("n_head", 4, False),
    ("activation", "gelu", False),
    ("activation", "relu_squared", False),
    ("mask", "causal", False),
]


@pytest.mark.parametrize(("key", "value", "resizes"), EFFECTS)
def test_each_key_has_an_effect(tiny_config: Tiny, key: str, value: Any, resizes: bool) -> None:
    config, other = tiny_config(), tiny_config(**{key: value})
    sizes = [parameter_count(build_model(c)) for c in (config, other)]
    assert (sizes[0] != sizes[1]) == resizes
    ids = torch.tensor([[0] * 20 + [1] * 25])
    assert not torch.allclose(logits(config, tokens(1), ids), logits(other, tokens(1), ids))


def test_every_model_key_is_covered() -> None:
    elsewhere = {"name", "dropout_p", "autocast_precision", "flash", "flex", "compile_flex"}
    assert {key for key, _, _ in EFFECTS} | elsewhere == {f.name for f in dataclasses.fields(ModelConfig)}


def test_bias_keys_name_the_right_layers(tiny_config: Tiny) -> None:
    def biased(**keys: Any) -> set[str]:
        model = build_model(tiny_config(**keys))
        return {name.removesuffix(".bias") for name, _ in model.named_parameters() if name.endswith(".bias")}

    off = dict.fromkeys(("mlp_bias", "attn_bias", "proj_bias", "ln_bias", "cls_head_bias"), False)
    assert biased(**off, n_layer=1) == set()
    assert biased(**{**off, "mlp_bias": True}, n_layer=1) == {"blocks.0.mlp.up", "blocks.0.mlp.down"}
    assert biased(**{**off, "attn_bias": True}, n_layer=1) == {"blocks.0.attention.qkv"}
    assert biased(**{**off, "proj_bias": True}, n_layer=1) == {"blocks.0.attention.out"}
    assert biased(**{**off, "cls_head_bias": True}, n_layer=1) == {"lm_head"}
    norms = {"blocks.0.attention_norm", "blocks.0.mlp_norm", "final_norm"}
    assert biased(**{**off, "ln_bias": True}, n_layer=1) == norms


def test_activations_compute_what_they_are_called() -> None:
    x = torch.linspace(-3, 3, 13)
    wanted = {
        "relu": [max(v, 0.0) for v in x.tolist()],
        "relu_squared": [max(v, 0.0) ** 2 for v in x.tolist()],
        "gelu": [v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x.tolist()],
    }
    assert set(registered("activation")) == set(wanted)
    for name, values in wanted.items():
        torch.testing.assert_close(ACTIVATIONS.get(name)(x), torch.tensor(values))


def test_dropout_acts_in_training_only_and_in_its_three_places(tiny_config: Tiny) -> None:
    with pytest.warns(UserWarning, match="cannot drop attention weights"):
        model = build_model(tiny_config(dropout_p=0.5))
    places = {name for name, module in model.named_modules() if isinstance(module, nn.Dropout)}
    blocks = {f"blocks.{i}.{part}.dropout" for i in (0, 1) for part in ("attention", "mlp")}
    assert places == {"dropout"} | blocks
    mask = build_mask(tiny_config().model, "sdpa", torch.zeros(1, T))
    with torch.no_grad():
        assert torch.equal(model.eval()(tokens(1), mask), model(tokens(1), mask))
        model.train()
        assert not torch.allclose(model(tokens(1), mask), model(tokens(1), mask))
        for name in places:  # each of them alone makes the result random
            for other in places:
                model.get_submodule(other).train(other == name)
            assert not torch.allclose(model(tokens(1), mask), model(tokens(1), mask)), name


def test_no_warning_without_dropout_or_with_sdpa(tiny_config: Tiny, recwarn: pytest.WarningsRecorder) -> None:
    build_model(tiny_config())
    build_model(tiny_config(dropout_p=0.1, flex=False))
    assert not recwarn.list


def test_it_starts_as_ignorant_as_it_should_be() -> None:
    """At GPT-2's proportions the first loss is that of a guess, ln V."""
    sizes = dataclasses.replace(ModelConfig(), d_model=256, n_head=4, n_layer=3, context_length=64)
    config = dataclasses.replace(
        Config(), model=sizes, tokenizer=dataclasses.replace(Config().tokenizer, vocab_size=5000)
    )
    model = build_model(config)
    x = torch.randint(0, 5000, (4, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = model(x, build_mask(config.model, "sdpa", torch.zeros_like(x)))
    loss = F.cross_entropy(out[:, :-1].reshape(-1, 5000), x[:, 1:].reshape(-1))
    assert abs(loss.item() - math.log(5000)) < 0.15


def test_initialisation(tiny_config: Tiny) -> None:
    config = tiny_config(d_model=128, n_layer=8, attn_bias=True)
    for name, parameter in build_model(config).named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            residual = name.endswith(("attention.out.weight", "mlp.down.weight"))
            wanted = 0.02 / math.sqrt(16) if residual else 0.02
            assert parameter.std().item() == pytest.approx(wanted, rel=0.05), name


def test_weights_are_a_function_of_the_seed(tiny_config: Tiny) -> None:
    config = tiny_config()
    other = dataclasses.replace(config, training=TrainingConfig(seed=1))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b, c = (build_model(x).state_dict() for x in (config, config, other))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["lm_head.weight"], c["lm_head.weight"])


def test_weights_can_be_left_out_and_loaded(tiny_config: Tiny) -> None:
    """The way to resume without drawing weights that are overwritten next: there is no other state than parameters."""
    with torch.device("meta"):
        empty = build_model(tiny_config())
    model = build_model(tiny_config())
    empty.to_empty(device="cpu").load_state_dict(model.state_dict())
    mask = build_mask(tiny_config().model, "sdpa", torch.zeros(1, T))
    assert torch.equal(empty(tokens(1), mask), model(tokens(1), mask))
    assert not list(model.buffers())


def test_what_does_not_fit_is_refused(tiny_config: Tiny) -> None:
    model = build_model(tiny_config())
    with pytest.raises(ValueError, match="49 tokens in a sequence, the context length is 48"):
        model(tokens(1, 49), None)
    with pytest.raises(ValueError, match="has to be built"):
        model(tokens(1), None)
    with pytest.raises(ConfigError, match=r"model\.n_head: 5 does not divide model\.d_model, 32"):
        build_model(tiny_config(n_head=5))
    with pytest.raises(
        ConfigError, match=r"model\.activation: got 'relo', valid: gelu, relu, relu_squared; did you mean"
    ):
        build_model(tiny_config(activation="relo"))
    with pytest.raises(ConfigError, match=r"model\.name: got 'bert', valid: gpt"):
        build_model(tiny_config(name="bert"))


@pytest.mark.parametrize("keys", [{}, {"mask": "causal"}, {"flex": False, "flash": True, "mask": "causal"}])
def test_it_compiles_in_one_graph_and_once(tiny_config: Tiny, keys: dict[str, Any]) -> None:
    """Forward and backward without a graph break, and without compiling again for the next batch."""
    config = tiny_config(**keys)
    backend: Any = "flash" if config.model.flash else "sdpa"
    model = build_model(config)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for batch in range(3):
        torch.compiler.set_stance("fail_on_recompile" if batch else "default")
        ids = (torch.rand(2, T) < 0.1).cumsum(1)
        mask = build_mask(config.model, backend, ids)
        gradients = []
        for run in (compiled, model):
            model.zero_grad()
            F.cross_entropy(run(tokens(), mask).flatten(0, 1), tokens().flatten()).backward()
            gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        torch.testing.assert_close(*gradients)
    torch.compiler.set_stance("default")


def test_bfloat16_autocast_stays_near_float32(tiny_config: Tiny) -> None:
    exact = logits(tiny_config(), tokens())
    with torch.autocast("cpu", torch.bfloat16):
        rounded = logits(tiny_config(), tokens())
    assert rounded.dtype == torch.bfloat16
    assert 0 < (rounded - exact).norm() < 0.05 * exact.norm()


@pytest.fixture
def alone_in_a_group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone_in_a_group")
@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_ddp_passes_masks_on_and_finds_every_parameter_used(tiny_config: Tiny) -> None:
    config = tiny_config(compile_flex=False)
    model = build_model(config)
    wrapped = nn.parallel.DistributedDataParallel(model)
    ids = torch.tensor([[0] * 20 + [1] * 25])
    for _ in range(2):  # a parameter without a gradient would fail the second pass
        wrapped(tokens(1), build_mask(config.model, "sdpa", ids)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    with torch.no_grad():
        block_mask = build_mask(config.model, "flex", ids)
        assert torch.equal(wrapped(tokens(1), block_mask), model(tokens(1), block_mask))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_compiled_model_on_a_gpu_gives_the_gradients_of_the_cpu(tiny_config: Tiny) -> None:
    """The whole model with flex in one graph, in bfloat16, against dense attention in float32 on the CPU."""
    config = tiny_config(d_model=64, context_length=200)
    ids = (torch.rand(2, 180, generator=torch.Generator().manual_seed(0)) < 0.05).cumsum(1)
    gradients = []
    for device, backend in (("cpu", "sdpa"), ("cuda", "flex")):
        model = build_model(config).to(device)
        run = torch.compile(model, fullgraph=True) if device == "cuda" else model
        x = tokens(2, 180).to(device)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            out = run(x, build_mask(config.model, backend, ids.to(device)))  # type: ignore[arg-type]
        F.cross_entropy(out.float().flatten(0, 1), x.flatten()).backward()
        gradients.append(torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None]))
    assert (gradients[0] - gradients[1]).norm() < 0.05 * gradients[0].norm()
