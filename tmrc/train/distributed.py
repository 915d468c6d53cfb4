"""The processes of one run: which of them this is, where it computes, and what they agree on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tmrc.config.errors import ConfigError, shown
from tmrc.config.schema import TrainingConfig
from tmrc.train.failures import GpuError
from tmrc.train.pulse import Pulse

LEAST_PATIENCE = 1800.0  # seconds to wait for another process; the watchdog ends what hangs long before


@dataclass(frozen=True)
class World:
    """This process among those of the run."""

    rank: int
    size: int
    device: torch.device
    device_bytes: int = 0  # memory of the smallest GPU among the processes'; 0 on CPUs
    pulse: Pulse = field(default_factory=Pulse)
    patience: timedelta = timedelta(seconds=LEAST_PATIENCE)  # to wait for the others in one exchange

    @property
    def leads(self) -> bool:
        """Whether this process decides, writes and prints for all."""
        return self.rank == 0


@contextmanager
def join_world(training: TrainingConfig, pulse: Pulse) -> Iterator[World]:
    """Join the processes that torchrun started (its environment variables), or be alone; leave at the end.

    GPUs talk through NCCL and CPUs through gloo; control messages always take gloo, so that they never wait for a GPU.
    With `exact_reduction` this process computes with one thread: sums depend on their number.
    """
    if training.exact_reduction:
        torch.set_num_threads(1)
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = choose_device(training.device, int(os.environ.get("LOCAL_RANK", "0")))
    # A step on a CPU takes and returns gigabytes: in pages of 2 MiB the first touch of them costs a fifth.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read by torch at its first allocation
    if device.type == "cuda":
        torch.cuda.set_device(device)
    memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0
    if size == 1:
        yield World(rank, size, device, memory, pulse)
        return
    pulse("joining the other ranks")
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    patience = timedelta(seconds=max(LEAST_PATIENCE, 2 * training.hang_timeout))
    dist.init_process_group(backend, rank=rank, world_size=size, timeout=patience)
    # Nodes can differ in GPUs and cores. Sums depend on the number of threads, and must not on which node is which.
    memories, threads = zip(*gather((memory, torch.get_num_threads()), World(rank, size, device)), strict=True)
    torch.set_num_threads(min(threads))
    yield World(rank, size, device, min(memories), pulse, patience)
    dist.destroy_process_group()  # not after an error: a peer may be gone, and this would wait for it


def choose_device(wanted: str, local_rank: int) -> torch.device:
    """This process's device.

    Raises ConfigError when a GPU is asked for and there is none for it, or when torch cannot use those that were given,
    GpuError when one that was given is gone.
    """
    if wanted == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    given = re.findall(r"(?<![\w-])(?:\d+|GPU-[\w-]+|MIG-[\w/-]+)", named)
    if torch.version.cuda and count < len(given):  # training on a CPU instead would look like success
        raise GpuError(
            f"the job was given {len(given)} GPUs (CUDA_VISIBLE_DEVICES), but {count} can be used on this node"
        )
    if given and not count:  # a GPU's build would have raised above
        raise ConfigError(
            f"training.device: got {wanted!r} and the GPUs {shown(named)} (CUDA_VISIBLE_DEVICES), but torch "
            f"{torch.__version__} cannot use them; valid: a CUDA build of torch, or training.device=cpu"
        )
    if wanted == "auto" and not count:
        return torch.device("cpu")
    if local_rank >= count:
        raise ConfigError(
            f"training.device: got {wanted!r}, but process {local_rank} of this node has no GPU ({count} visible); "
            "valid: as many processes a node as GPUs, or device: cpu"
        )
    return torch.device("cuda", local_rank)


def all_reduce(tensor: Tensor, op: Any, world: World) -> Tensor:
    """Reduce `tensor` in place over all processes."""
    if world.size > 1:
        dist.all_reduce(tensor, op)
    return tensor


def from_leader(value: Any, world: World) -> Any:
    """Rank 0's `value` (plain JSON-like data) on every rank."""
    if world.size == 1:
        return value
    holder = [value]
    dist.broadcast_object_list(holder, src=0)
    return holder[0]


def broadcast_tensors(tensors: list[Tensor], world: World) -> None:
    """Overwrite each tensor with rank 0's."""
    if world.size > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def gather(value: Any, world: World) -> list[Any]:
    """Every rank's `value`, by rank."""
    if world.size == 1:
        return [value]
    values: list[Any] = [None] * world.size
    dist.all_gather_object(values, value)
    return values
