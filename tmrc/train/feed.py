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
from tmrc.train.ledger import add_up, hashes

_LOOK_EVERY = 1.0  # seconds between looks whether the thread still lives
_PATIENCE = 5.0  # seconds for a read under way when no more are wanted


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
        value = self._take()
        if isinstance(value, BaseException):
            raise value
        return value

    def _take(self) -> list[HostBatch] | BaseException:
        while True:
            with contextlib.suppress(queue.Empty):
                return self._batches.get(timeout=_LOOK_EVERY)
            if not self._thread.is_alive() and self._batches.empty():
                return RuntimeError("the thread that reads data has ended without a word")

    def close(self) -> None:
        """Stop reading. A read that stands still, as of a disk that has gone away, is not waited for."""
        self._closing.set()
        self._thread.join(_PATIENCE)


def read_share(reader: BatchReader, share: Share, step: int, pin: bool) -> Iterator[HostBatch]:
    """The micro-batches of `share` of global batch `step`, in order, with what the ledger records of them.

    They are read at once, since each read has costs of its own, and are views of one piece of memory.
    """
    size = share.micro_batch_size
    items = reader.samples(step)[share.first * size : (share.first + share.count) * size]
    whole = read_batch(reader, items, share.first, pin)
    contents = hashes(items, whole.tokens_BT.numpy())
    for position, index in enumerate(share.indices()):
        part = slice(position * size, (position + 1) * size)
        sums = add_up(items[part], contents[part], index * size)
        yield HostBatch(index, whole.items[part], whole.tokens_BT[part], whole.lengths_B[part], sums)
