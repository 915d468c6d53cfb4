"""The next batches, read by a thread while the current step computes.

What is read is a function of the step alone, so nothing that was prefetched needs to be remembered or given back.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from tmrc.data.batches import BatchReader
from tmrc.train.batch import HostBatch


@dataclass(frozen=True)
class Share:
    """Which micro-batches of every global batch one rank computes."""

    micro_batch_size: int
    first: int  # index of its first micro-batch
    count: int

    def indices(self) -> range:
        """Micro-batch indices of this rank."""
        return range(self.first, self.first + self.count)


def share_of(rank: int, world_size: int, batch_size: int, micro_batch_size: int) -> Share:
    """The contiguous share of `rank`; `micro_batch_size` x `world_size` divides `batch_size`."""
    count = batch_size // micro_batch_size // world_size
    return Share(micro_batch_size, rank * count, count)


def read_batch(reader: BatchReader, items: Any, index: int, pin: bool) -> HostBatch:
    """Read the sequences `items` (numpy int64) into fresh host memory, pinned for a GPU's copies."""
    tokens = torch.empty((len(items), reader.dataset.context_length), dtype=torch.int32, pin_memory=pin)
    reader.read(items, out=tokens.numpy())
    lengths = torch.from_numpy(reader.lengths(items))
    return HostBatch(index, items.tolist(), tokens, lengths.pin_memory() if pin else lengths)


class Feed:
    """Iterates over steps from `start`; each yields this rank's host batches. Errors of the thread surface here."""

    def __init__(self, reader: BatchReader, share: Share, start: int, stop: int, pin: bool) -> None:
        self._batches: queue.Queue[list[HostBatch] | BaseException] = queue.Queue(maxsize=2)
        self._closing = threading.Event()
        self._thread = threading.Thread(
            target=self._fill, args=(reader, share, start, stop, pin), name="tmrc-feed", daemon=True
        )
        self._thread.start()

    def _fill(self, reader: BatchReader, share: Share, start: int, stop: int, pin: bool) -> None:
        try:
            for step in range(start, stop):
                self._put(list(read_share(reader, share, step, pin)))
                if self._closing.is_set():
                    return
        except BaseException as error:  # handed to the training thread, which raises it
            self._put(error)

    def _put(self, value: list[HostBatch] | BaseException) -> None:
        while not self._closing.is_set():
            with contextlib.suppress(queue.Full):
                self._batches.put(value, timeout=0.2)
                return

    def next(self) -> list[HostBatch]:
        """This rank's batches of the next step. Raises what reading them raised."""
        value = self._batches.get()
        if isinstance(value, BaseException):
            raise value
        return value

    def close(self) -> None:
        """Stop reading."""
        self._closing.set()
        self._thread.join()


def read_share(reader: BatchReader, share: Share, step: int, pin: bool) -> Iterator[HostBatch]:
    """The micro-batches of `share` of global batch `step`, in order."""
    samples = reader.samples(step)
    for index in share.indices():
        items = samples[index * share.micro_batch_size : (index + 1) * share.micro_batch_size]
        yield read_batch(reader, items, index, pin)
