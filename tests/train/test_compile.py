"""Whole-model compilation: one graph, compiled once, whatever the loop does. A loop that does not wait in between."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch._dynamo.utils import counters
from torch.nn.attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention
from torch.torch_version import TorchVersion
from torch.utils._python_dispatch import TorchDispatchMode

from tests.train.conftest import Trial
from tmrc.config.schema import Config, ModelConfig, TokenizerConfig
from tmrc.model.attention import build_mask
from tmrc.model.build import build_model
from tmrc.model.masks import MASKS
from tmrc.train import setup
from tmrc.train.loop import Loop
from tmrc.train.step import LossModule

Train = Callable[..., Trial]
# Two layers; two micro-batches of four sequences a step; validations of 21 sequences, so the last forward has one.
SIZES = ["model.n_layer=2", "training.micro_batch_size=4", "datasets.val_split_size=0.3", "training.val_batches=4"]
# What makes the host wait for a GPU: reading a value, and results whose size depends on values
WAITS = {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "equal"}


class Counter(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.calls[name] = self.calls.get(name, 0) + 1
        return func(*args, **(kwargs or {}))

    @property
    def waits(self) -> set[str]:
        """Those among them that make the host wait."""
        return WAITS & set(self.calls)


@contextmanager
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.fx.Graph]]:
    """Graphs that are compiled meanwhile, run as they are: what is traced, and when, is the same for every backend.

    A part that cannot be traced is an error.
    """
    found: list[torch.fx.Graph] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        found.append(graph.graph)
        return graph.forward

    compiles = torch.compile
    with monkeypatch.context() as patch:
        patch.setattr(torch, "compile", lambda work, **how: compiles(work, backend=backend, fullgraph=True, **how))
        torch._dynamo.reset()
        counters.clear()
        yield found
        torch._dynamo.reset()


def test_one_graph_serves_the_whole_of_training(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """One with gradients and one without, however a validation ends: nothing else is ever compiled."""
    eager = train(*SIZES, "training.train_steps=8")
    with graphs(monkeypatch) as found:
        compiled = train(*SIZES, "training.train_steps=8", "training.compile=true")
    attentions = [sum(node.target is scaled_dot_product_attention for node in graph.nodes) for graph in found]
    assert attentions == [2, 2]
    assert list(compiled.validations) == [0, 3, 6, 8]
    assert compiled.losses == pytest.approx(eager.losses, rel=1e-3)
    assert list(compiled.validations.values()) == pytest.approx(list(eager.validations.values()), rel=1e-3)


@pytest.mark.skipif(TorchVersion(torch.__version__) < "2.13", reason="there the graph stays whole inside DDP")
@pytest.mark.parametrize("flex", [False, True])
def test_inside_ddp_the_graph_ends_where_buckets_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flex: bool
) -> None:
    """So that gradients are reduced while others are computed. The first bucket has 1 MiB."""
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)  # uncompiled, a CPU can do it
    keys = ModelConfig(d_model=128, n_head=2, n_layer=1, context_length=128, autocast_precision="float32")
    config = dataclasses.replace(Config(), model=keys, tokenizer=TokenizerConfig(vocab_size=4000))
    tokens = torch.zeros(1, 128, dtype=torch.long)
    mask = build_mask(keys, "flex" if flex else "sdpa", tokens)
    gradients = []
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        for compiled in (False, True):
            torch.manual_seed(0)
            module = LossModule(build_model(config), torch.float32, "cpu")
            with graphs(monkeypatch) as found:
                if compiled:
                    setup.compile_whole(module)
                wrapped = torch.nn.parallel.DistributedDataParallel(module, gradient_as_bucket_view=True)
                wrapped(tokens, tokens + 1, mask).backward()
            gradients.append([parameter.grad for parameter in module.parameters()])
    finally:
        dist.destroy_process_group()
    assert len(found) == 2 and counters["stats"]["unique_graphs"] == 1
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_is_compiled_is_without_autocast(train: Train, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    """Of code with autocast in it torch's caches do not take the whole."""
    with graphs(monkeypatch) as found:
        train("training.compile=true", "training.val_interval=0", f"model.autocast_precision={precision}")
    (graph,) = found
    assert not [node for node in graph.nodes if "autocast" in str(node.target)]


def test_masks_of_other_documents_need_no_other_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ModelConfig(d_model=128, n_head=2, context_length=256)
    with graphs(monkeypatch) as found:
        create = torch.compile(flex_attention.create_block_mask, dynamic=False)
        for length in (20, 30, 40):
            documents = (torch.arange(256) // length).repeat(2, 1)
            create(MASKS.get(keys.mask).factory(documents), 2, None, 256, 256, device="cpu")
    assert len(found) == 1


def test_a_mask_is_built_once_for_all_layers(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[tuple[int, ...]] = []
    build_mask = setup.build_mask

    def counted(model: Any, backend: Any, document_ids_BT: torch.Tensor) -> Any:
        built.append(tuple(document_ids_BT.shape))
        return build_mask(model, backend, document_ids_BT)

    monkeypatch.setattr(setup, "build_mask", counted)
    train(*SIZES, "training.train_steps=3", "training.val_interval=0")
    assert built == [(4, 16)] * 6


def test_only_rows_make_the_host_wait(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop as it runs on a GPU: on a CPU it looks for non-finite values every step, since there is no waiting."""
    between, logged = Counter(), Counter()

    def watched(method: Callable[[Loop, Any], Any], after: bool) -> Callable[[Loop, Any], Any]:
        def run(loop: Loop, given: Any) -> Any:
            step = loop.progress.step + (not after)
            with logged if step in (1, 8) else between:
                return method(loop, given)

        return run

    def as_on_a_gpu(loop: Loop, feed: Any) -> Any:
        loop._on_cpu = False
        return trains(loop, feed)

    trains = Loop._train
    monkeypatch.setattr(Loop, "_train", as_on_a_gpu)
    monkeypatch.setattr(Loop, "_train_step", watched(Loop._train_step, after=False))
    monkeypatch.setattr(Loop, "_after_step", watched(Loop._after_step, after=True))
    quiet = ["training.train_steps=8", "training.log_interval=100", "training.val_interval=0", "training.grad_clip=1.0"]
    trial = train(*SIZES, *quiet)
    assert trial.steps == [1, 8]
    assert between.calls["_fused_adamw_"] == 6 and between.waits == set()
    assert logged.waits
