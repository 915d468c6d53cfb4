"""Loss over the held-out sequences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tmrc.data.batches import BatchReader
from tmrc.train.batch import HostBatch, count_targets, to_device
from tmrc.train.distributed import World, gather
from tmrc.train.feed import read_batch
from tmrc.train.oracle import OracleProbe
from tmrc.train.step import LossModule

# A look at the stop requests of all ranks, called at the same places on each: True abandons the validation.
Interrupted = Callable[[], bool]


class Validation:
    """Evaluates a model on fixed sequences; the result does not depend on the number of processes."""

    def __init__(self, reader: BatchReader, micro_batch_size: int, world: World, eos_token: int) -> None:
        self._reader = reader
        self._world = world
        self._eos_token = eos_token
        items = reader.samples(0)
        self._targets = count_targets(reader.lengths(items).tolist())
        self._micro_batches = np.array_split(items, range(micro_batch_size, len(items), micro_batch_size))
        self._micro_batch_size = micro_batch_size

    def run(
        self,
        module: LossModule,
        build_mask: Callable[[Tensor], Any],
        probe: OracleProbe | None,
        interrupted: Interrupted,
    ) -> float | None:
        """Mean loss in nats a token, or None when interrupted. Leaves the module in training mode."""
        module.eval()
        with torch.no_grad():
            losses = self._losses(module, build_mask, probe, interrupted)
        module.train()
        if losses is None:
            return None
        self._world.pulse("adding up the validation")
        everyone = {index: loss for part in gather(losses, self._world) for index, loss in part.items()}
        # fsum is exact, so the mean has the same bits for every number of processes.
        return math.fsum(everyone.values()) / self._targets

    def _losses(
        self,
        module: LossModule,
        build_mask: Callable[[Tensor], Any],
        probe: OracleProbe | None,
        interrupted: Interrupted,
    ) -> dict[int, float] | None:
        """Loss sum of each micro-batch of this rank, or None when interrupted."""
        losses = {}
        for first in range(0, len(self._micro_batches), self._world.size):
            if interrupted():
                return None
            index = first + self._world.rank
            if index < len(self._micro_batches):
                losses[index] = self._loss(module, build_mask, probe, index)
        return losses

    def _loss(
        self, module: LossModule, build_mask: Callable[[Tensor], Any], probe: OracleProbe | None, index: int
    ) -> float:
        host = self._host_batch(index)
        batch = to_device(host, self._world.device, self._eos_token)
        mask = build_mask(batch.document_ids_BT)
        if probe is not None:
            probe.look_up(self._reader, host)
            probe.check(self._reader, host, batch, mask, "validation")
        return float(module(batch.tokens_BT, batch.targets_BT, mask))

    def _host_batch(self, index: int) -> HostBatch:
        """Micro-batch `index`, filled up with sequences that have no targets, so that compiled code sees one shape."""
        items = self._micro_batches[index]
        filled = np.pad(items, (0, self._micro_batch_size - len(items)), mode="edge")
        host = read_batch(self._reader, filled, index, self._world.device.type == "cuda")
        host.lengths_B[len(items) :] = 0
        return host
