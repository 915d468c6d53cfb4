"""Where the time of a training step goes: kernels in groups, and the time in which none runs."""

from __future__ import annotations

import itertools
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.harness import Figure
from bench.our_step import parts_of, stepping
from bench.serve import Step

PROFILED = 5  # steps
ON_GPU = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})  # categories of the trace
ON_CPU = frozenset({"cpu_op"})
IDLE = "idle"
REST = "other"
# The first that fits a kernel's name counts.
GROUPS = (
    ("attention", r"flex_attention|flash|fmha|sdpa|scaled_dot_product"),
    ("loss", r"log_softmax|nll_loss|cross_entropy|logsumexp"),
    ("optimizer", r"adam|multi_tensor|foreach"),
    ("matrix products", r"gemm|nvjet|cutlass|cublas|triton_tem_fused.*mm|sm\d+_xmma|ampere_|aten::(add)?mm|splitk"),
    ("copies", r"^mem(cpy|set)|copy_kernel|direct_copy|aten::copy_"),
    ("embedding", r"embedding|index(_put|ing)|scatter|gather"),
    ("norms and elementwise", r"triton_|layer_norm|elementwise|reduce_kernel|norm|aten::"),
    ("communication", r"^nccl"),
)


@dataclass(frozen=True)
class Span:
    """What ran on the device from `begin` to `end`, in microseconds."""

    name: str
    begin: float
    end: float


def group_of(name: str) -> str:
    """The group of a kernel."""
    return next((group for group, words in GROUPS if re.search(words, name, re.IGNORECASE)), REST)


def shares(spans: Iterable[Span]) -> dict[str, float]:
    """Group -> its share of the time from the first beginning to the last end, largest first.

    What overlaps counts in both groups; `idle` is the time in which nothing ran.
    """
    ordered = sorted(spans, key=lambda span: span.begin)
    if not ordered:
        return {}
    whole = max(span.end for span in ordered) - ordered[0].begin
    taken: dict[str, float] = {}
    until, idle = ordered[0].begin, 0.0
    for span in ordered:
        group = group_of(span.name)
        taken[group] = taken.get(group, 0.0) + span.end - span.begin
        idle += max(0.0, span.begin - until)
        until = max(until, span.end)
    taken[IDLE] = idle
    return {group: time / whole for group, time in sorted(taken.items(), key=lambda item: -item[1])}


def time_of_a_step(config: str, overrides: list[str]) -> Iterator[Figure]:
    """Profile some steps, and the share of each group."""
    with parts_of(config, overrides) as parts:
        spans = profiled(stepping(parts, None), parts.world.device.type)
    for group, share in shares(spans).items():
        yield Figure(f"{config}: {group}", (100 * share,), "% of a step", note=_heaviest(spans, group))


def profiled(step: Step, device: str) -> list[Span]:
    """What ran on the device in `PROFILED` steps; on a CPU torch's operations, which contain each other."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    on_gpu = device == "cuda"
    step()
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
    with profile(activities=activities) as profiler:
        for _ in range(PROFILED):
            step()
        if on_gpu:
            torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    return spans_of(events, ON_GPU if on_gpu else ON_CPU)


def spans_of(events: Iterable[Mapping[str, Any]], kinds: frozenset[str]) -> list[Span]:
    """The complete events of these categories in a trace of torch's profiler."""
    chosen = (event for event in events if event.get("ph") == "X" and event.get("cat") in kinds)
    return [Span(event["name"], event["ts"], event["ts"] + event["dur"]) for event in chosen]


def _heaviest(spans: list[Span], group: str) -> str:
    """The kernel that took most of a group's time."""
    ours = sorted((span for span in spans if group_of(span.name) == group), key=lambda span: span.name)
    times = {
        name: sum(span.end - span.begin for span in same)
        for name, same in itertools.groupby(ours, key=lambda span: span.name)
    }
    return f"most of it {max(times, key=times.__getitem__)[:60]}" if times else ""
