"""metrics.jsonl: one row a logged step, floats in full precision, each step once whatever was interrupted."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterable
from typing import Any

import torch

from tmrc.config.rundir import read_jsonl
from tmrc.train.fence import Fence
from tmrc.train.growing import GrowingFile

# Dense bf16 peak in FLOP/s by a part of the device's name, from NVIDIA's data sheets (without sparsity).
PEAK_FLOPS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A40": 150e12,
    "V100": 125e12,
}


def peak_flops(device: torch.device) -> float | None:
    """Peak FLOP/s of a known GPU, else None."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_FLOPS.items() if part in name), None)


def memory_gib(device: torch.device) -> float:
    """Peak memory so far in GiB: the GPU's where there is one, else the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS and in KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def rewind(fence: Fence, step: int, validation_due: bool) -> MetricsFile:
    """The run's metrics without the rows that will be computed again and lines that are no rows, open for more.

    These rows are those after `step` and, when its validation is still to be run, that validation's.
    """

    def stays(row: dict[str, Any]) -> bool:
        logged = row.get("step")
        if not isinstance(logged, int) or logged > step:
            return False
        return not (validation_due and logged == step and "val_loss" in row)

    return MetricsFile(fence, [row for row in read_jsonl(fence.run.metrics) if stays(row)])


class MetricsFile:
    """Appends rows: they can be read when `write` returns, unless the disk is full, and are durable after `sync`."""

    def __init__(self, fence: Fence, rows: Iterable[dict[str, Any]]) -> None:
        content = "".join(json.dumps(row) + "\n" for row in rows)
        self._file = GrowingFile(fence, fence.run.metrics, content.encode())

    def write(self, row: dict[str, Any]) -> None:
        """Append one row. None values are left out."""
        line = json.dumps({name: value for name, value in row.items() if value is not None}) + "\n"
        self._file.add(line.encode())
        self._file.flush()

    def sync(self) -> None:
        """Wait until every row is on stable storage."""
        self._file.sync()

    def close(self) -> None:
        """Sync and close."""
        self._file.close()


class Throughput:
    """Tokens a second and the share of time that went into waiting for data, since the last `start`."""

    def __init__(self, tokens_per_step: int) -> None:
        self._tokens_per_step = tokens_per_step
        self.start()

    def start(self) -> None:
        """Begin a new window (after a log row, a validation or a save)."""
        self._began = time.perf_counter()
        self._waited = 0.0
        self._steps = 0

    def waited(self, seconds: float) -> None:
        """Note that a step waited this long for its batch."""
        self._waited += seconds
        self._steps += 1

    def rates(self) -> tuple[float, float]:
        """(tokens a second over all ranks, share of the time waited for data); the device must be idle."""
        elapsed = max(time.perf_counter() - self._began, 1e-9)
        return self._steps * self._tokens_per_step / elapsed, self._waited / elapsed
