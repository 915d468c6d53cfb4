"""Training on 8 to 256 GPUs on paper: what DDP's exchange of gradients and interruptions cost. `python -m bench.scale`.

Nothing is measured here, and torch is not needed. Inputs stand in `Cluster` and `Restarts`; what is computed from them
is printed as the tables of docs/performance.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from tmrc.config.estimate import (
    AUTO_TOKENS_GPU,
    FLOAT32,
    checkpoint_bytes,
    flops_per_token,
    parameters,
    training_memory_bytes,
)
from tmrc.config.goodput import MOST_WRITING, best_interval
from tmrc.config.load import load_config
from tmrc.config.schema import Config

GPUS = (1, 8, 16, 32, 64, 128, 256)
ENOUGH = 0.9  # efficiency below which a job takes too many GPUs
BACKWARD = 2 / 3  # share of a step's arithmetic: two products for each of the forward pass


@dataclass(frozen=True)
class Cluster:
    """Nodes with H100 SXM GPUs; bytes and FLOPs a second. `efficiency` is the share of a link that NCCL gets out."""

    gpus_per_node: int = 8
    peak_flops: float = 989e12  # bfloat16 without sparsity, of NVIDIA's data sheet
    mfu: float = 0.40  # assumed, for every size and number of GPUs
    nvlink: float = 450e9  # of one GPU in one direction
    network: float = 8 * 400e9 / 8  # of one node in one direction: eight adapters of 400 Gb/s
    efficiency: float = 0.8
    nvlink_latency: float = 2e-6  # seconds a message
    network_latency: float = 5e-6
    launch: float = 20e-6  # seconds to begin a collective
    bucket_bytes: int = 25 * 2**20  # DDP's bucket_cap_mb
    memory: float = 80e9  # bytes of one GPU


@dataclass(frozen=True)
class Restarts:
    """What a save and a new start take, in seconds and bytes a second; all of it assumed."""

    between: float = 3600.0  # between preemptions
    start: float = 25.0  # of processes, imports and the exchange of addresses
    compile_cold: float = 90.0
    compile_warm: float = 10.0
    write: float = 1e9  # to a shared file system
    read: float = 2e9  # and from it, twice: the hash and the load
    copy: float = 25e9  # from one GPU to the host


@dataclass(frozen=True)
class Model:
    """A configuration with a name."""

    name: str
    config: Config

    @property
    def parameters(self) -> int:
        return parameters(self.config) or 0

    @property
    def gradient_bytes(self) -> int:
        """Bytes that DDP exchanges in a step: gradients are float32, as the weights are."""
        return FLOAT32 * self.parameters

    @property
    def last_bytes(self) -> int:
        """Bytes of the table of token embeddings, a bucket of its own. Its gradient is ready when all others are."""
        return FLOAT32 * self.config.tokenizer.vocab_size * self.config.model.d_model

    @property
    def tokens(self) -> int:
        """Tokens of one step."""
        return self.config.training.batch_size * self.config.model.context_length


def models() -> list[Model]:
    """Two of configs/train, and the sizes of GPT-3 XL and Llama 7B, with their batches of 1 and 4 million tokens.

    Sizes: arXiv:2005.14165, table 2.1; arXiv:2302.13971, table 2.
    """
    gpt2 = load_config("gpt2-124m")
    return [
        Model("default.yaml", load_config("default")),
        Model("gpt2-124m", gpt2),
        Model("1.3B", _sized(gpt2, heads=16, width=2048, layers=24, vocab=50304, batch=512)),
        Model("7B", _sized(gpt2, heads=32, width=4096, layers=32, vocab=32000, batch=2048)),
    ]


def all_reduce_seconds(size: float, gpus: int, cluster: Cluster) -> float:
    """Seconds for `size` bytes on every one of `gpus` GPUs.

    Within a node a reduce-scatter and an all-gather over NVLink, each of which moves (g - 1) / g of the bytes; between
    n nodes the same with the share that each GPU has, over its own adapter. Patarasuk and Yuan, "Bandwidth optimal
    all-reduce algorithms for clusters of workstations", JPDC 69(2), 2009. Messages: those of a ring within a node, of a
    tree between nodes. The two do not overlap here, though NCCL's pipelines let them in part.
    """
    if gpus <= 1:
        return 0.0
    local = min(gpus, cluster.gpus_per_node)
    nodes = math.ceil(gpus / cluster.gpus_per_node)
    inside = 2 * (local - 1) / local * size / (cluster.nvlink * cluster.efficiency)
    between = 2 * (nodes - 1) / nodes * size / (cluster.network * cluster.efficiency)
    messages = 2 * (local - 1) * cluster.nvlink_latency + 2 * math.ceil(math.log2(nodes)) * cluster.network_latency
    return cluster.launch + messages + inside + between


def exchange_seconds(model: Model, gpus: int, cluster: Cluster) -> float:
    """Seconds in which DDP's buckets are under way, one after the other."""
    rest = model.gradient_bytes - model.last_bytes
    buckets = max(1, math.ceil(rest / cluster.bucket_bytes))
    return buckets * all_reduce_seconds(rest / buckets, gpus, cluster) + last_seconds(model, gpus, cluster)


def last_seconds(model: Model, gpus: int, cluster: Cluster) -> float:
    """Seconds of the last bucket, behind which no arithmetic is left: the table of embeddings."""
    return all_reduce_seconds(model.last_bytes, gpus, cluster)


def compute_seconds(model: Model, gpus: int, cluster: Cluster) -> float:
    """Seconds of arithmetic in a step, the global batch divided among the GPUs."""
    return model.tokens / gpus * (flops_per_token(model.config) or 0.0) / (cluster.peak_flops * cluster.mfu)


def exposed_seconds(model: Model, gpus: int, cluster: Cluster) -> float:
    """Seconds of a step in which the GPUs wait for gradients.

    They are exchanged behind the backward pass of the last micro-batch. What does not fit behind it shows, and the last
    bucket always does.
    """
    micro_batches = math.ceil(model.tokens / gpus / AUTO_TOKENS_GPU)
    behind = BACKWARD * compute_seconds(model, gpus, cluster) / micro_batches
    return max(last_seconds(model, gpus, cluster), exchange_seconds(model, gpus, cluster) - behind)


def step_seconds(model: Model, gpus: int, cluster: Cluster) -> float:
    """Seconds of one optimizer step."""
    return compute_seconds(model, gpus, cluster) + exposed_seconds(model, gpus, cluster)


def efficiency(model: Model, gpus: int, cluster: Cluster) -> float:
    """Throughput as a share of `gpus` times that of one GPU."""
    return compute_seconds(model, gpus, cluster) / step_seconds(model, gpus, cluster)


def memory_bytes(model: Model) -> int:
    """Bytes on each GPU with one sequence at a time: DDP keeps all of the state on every one."""
    return training_memory_bytes(model.config, 1) or 0


def stall_seconds(model: Model, restarts: Restarts, background: bool) -> float:
    """Seconds that training stands still for a checkpoint: the writing, or the copy to the host before it."""
    return (checkpoint_bytes(model.config) or 0) / (restarts.copy if background else restarts.write)


def restart_seconds(model: Model, restarts: Restarts, warm: bool) -> float:
    """Seconds from a job's start to its next step; the time in the queue is not the job's."""
    loading = 2 * (checkpoint_bytes(model.config) or 0) / restarts.read
    return restarts.start + loading + (restarts.compile_warm if warm else restarts.compile_cold)


def writing_seconds(model: Model, restarts: Restarts, background: bool) -> float:
    """Seconds from the end of the stall until the checkpoint is durable: what is done in them can still be lost."""
    return (checkpoint_bytes(model.config) or 0) / restarts.write if background else 0.0


def goodput(interval: float, stall: float, writing: float, restart: float, between: float) -> float:
    """Share of the time on nodes that goes into steps that count, when preemptions come without a warning.

    Each `interval` of work costs a `stall`. Each preemption, `between` seconds apart on average and independent of the
    rest, costs a `restart`, half of an interval, and what was done while a checkpoint was being written. To first
    order, as in Young (see docs/goodput.md).
    """
    lost = (interval + stall) / 2 + writing
    return max(0.0, interval / (interval + stall) - (restart + lost) / between)


def best_goodput(model: Model, restarts: Restarts, *, warm: bool, background: bool) -> tuple[float, float]:
    """(seconds between saves, goodput) with the interval that tmrc recommends."""
    stall, writing = stall_seconds(model, restarts, background), writing_seconds(model, restarts, background)
    interval = max(best_interval(stall, restarts.between), writing / MOST_WRITING)
    restart = restart_seconds(model, restarts, warm)
    return interval, goodput(interval, stall, writing, restart, restarts.between)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables."""
    about = "Print the tables of Scale in docs/performance.md. The inputs are the fields of Cluster and Restarts."
    argparse.ArgumentParser(prog="python -m bench.scale", description=about).parse_args(arguments)
    cluster, restarts = Cluster(), Restarts()
    print("\n\n".join([steps_table(cluster), limits_table(cluster), restarts_table(restarts)]))
    return 0


def steps_table(cluster: Cluster) -> str:
    """Step time and efficiency for each number of GPUs that divides the batch."""
    head = ["model", "tokens a step", *(f"{gpus} GPU{'s' * (gpus > 1)}" for gpus in GPUS)]
    rows = [
        [
            model.name,
            f"{model.tokens:,}",
            *(
                f"{step_seconds(model, gpus, cluster) * 1000:,.0f} ms, {efficiency(model, gpus, cluster):.0%}"
                for gpus in GPUS
            ),
        ]
        for model in models()
    ]
    return _markdown(head, rows)


def limits_table(cluster: Cluster) -> str:
    """Both ends of DDP's range: memory, and the share of a step that communication takes."""
    head = [
        "model", "parameters", "memory, GB", "fits", "gradients, MB", "exchange on 256 GPUs", "of it last",
        "most GPUs at 90 %",
    ]  # fmt: skip
    return _markdown(head, [_limits(model, cluster) for model in models()])


def restarts_table(restarts: Restarts) -> str:
    """Goodput at one preemption an hour, without a warning."""
    head = ["model", "checkpoint, GB", "saves in the background", "start", "C", "R", "save_every", "goodput"]
    kinds = [(background, warm) for background in (False, True) for warm in (False, True)]
    return _markdown(head, [_restart(model, restarts, *kind) for model in models() for kind in kinds])


def _limits(model: Model, cluster: Cluster) -> list[str]:
    memory = memory_bytes(model)
    good = [gpus for gpus in GPUS if efficiency(model, gpus, cluster) >= ENOUGH]
    return [
        model.name,
        f"{model.parameters / 1e6:,.0f} M",
        f"{memory / 1e9:,.1f}",
        "yes" if memory < cluster.memory else "no",
        f"{model.gradient_bytes / 1e6:,.0f}",
        f"{exchange_seconds(model, GPUS[-1], cluster) * 1000:,.1f} ms",
        f"{last_seconds(model, GPUS[-1], cluster) * 1000:,.1f} ms",
        str(max(good)),
    ]


def _restart(model: Model, restarts: Restarts, background: bool, warm: bool) -> list[str]:
    interval, share = best_goodput(model, restarts, warm=warm, background=background)
    return [
        model.name,
        f"{(checkpoint_bytes(model.config) or 0) / 1e9:,.1f}",
        "yes" if background else "no",
        "warm" if warm else "cold",
        f"{stall_seconds(model, restarts, background):,.2f} s",
        f"{restart_seconds(model, restarts, warm):,.0f} s",
        f"{interval:,.0f} s",
        f"{share:.1%}",
    ]


def _sized(config: Config, *, heads: int, width: int, layers: int, vocab: int, batch: int) -> Config:
    sizes = dataclasses.replace(config.model, n_head=heads, d_model=width, n_layer=layers, context_length=2048)
    return dataclasses.replace(
        config,
        model=sizes,
        tokenizer=dataclasses.replace(config.tokenizer, vocab_size=vocab),
        training=dataclasses.replace(config.training, batch_size=batch),
    )


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
