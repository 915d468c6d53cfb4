"""What is compiled: once for all steps, and in a form that torch's caches take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.train.conftest import Trial


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_one_graph_without_autocast_serves_the_warm_up_and_every_step(
    train: Callable[..., Trial], monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    graphs: list[torch.fx.GraphModule] = []

    def note(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph

    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **how: compiler(function, backend=note, **how))
    torch.compiler.reset()
    words = ("training.compile=true", "training.val_interval=0", f"model.autocast_precision={precision}")
    compiled = train(*words)
    torch.compiler.reset()
    assert len(compiled.losses) == 6
    (graph,) = graphs
    assert not [node for node in graph.graph.nodes if "autocast" in str(node.target)]
