"""Batches in training order, read with one gather a shard. Runs in the training process; no worker processes."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmrc.config.errors import DataError
from tmrc.data.dataset import OPEN_SHARDS, TokenDataset
from tmrc.data.order import Permutation

Integers = NDArray[Any]
_AT_ONCE = 4096  # positions whose samples are looked up together: a few cost as much as a thousand


class BatchReader:
    """Global batch b is positions [b * batch_size, (b + 1) * batch_size) of a fresh order in each epoch.

    Only items that hold text are samples. What is left over at the end of an epoch, less than a batch, waits for the
    order of a later epoch. Raises DataError when there is not even one batch.
    """

    def __init__(
        self,
        dataset: TokenDataset,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        vocab_limit: int | None = None,
    ) -> None:
        if dataset.layout.stride != dataset.context_length:
            raise ValueError("BatchReader reads chunked data sets")
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.vocab_limit = vocab_limit
        self._tokens = functools.lru_cache(OPEN_SHARDS)(functools.partial(dataset.map_shard, scattered=shuffle))
        ranges = np.asarray(dataset.layout.text_ranges(dataset.split), np.int64)
        self._first_items = ranges[:, 0] - dataset.first_item
        self._sample_starts = np.concatenate([[0], np.cumsum(ranges[:, 1])])
        self._text_tokens = np.asarray([shard.text_tokens for shard in dataset.shards], np.int64)
        self._ahead = max(1, _AT_ONCE // batch_size)
        self._blocks = functools.lru_cache(4)(self._samples_of_block)
        self.num_samples = int(self._sample_starts[-1])
        self.steps_per_epoch = self.num_samples // batch_size
        if self.steps_per_epoch == 0:
            raise DataError(
                f"{dataset.metadata.file}: the {dataset.split or 'whole'} data has {self.num_samples} sequences of "
                f"{dataset.context_length} tokens, fewer than one batch of {batch_size}"
            )

    def samples(self, step: int) -> Integers:
        """Items of the dataset that global step `step` (from 0) reads, (batch_size,). Not to be written to."""
        block, within = divmod(step, self._ahead)
        items: Integers = self._blocks(block)[within]
        return items

    def samples_of(self, first: int, end: int) -> Integers:
        """The same of the steps from `first` to before `end`, (steps, batch_size)."""
        found = []
        while first < end:
            epoch, batch = divmod(first, self.steps_per_epoch)
            count = min(end - first, self.steps_per_epoch - batch)
            found.append(self._items(epoch, batch * self.batch_size, (batch + count) * self.batch_size))
            first += count
        return np.concatenate(found).reshape(-1, self.batch_size)

    def _samples_of_block(self, block: int) -> Integers:
        items = self.samples_of(block * self._ahead, (block + 1) * self._ahead)
        items.flags.writeable = False
        return items

    def _items(self, epoch: int, first: int, end: int) -> Integers:
        """Items at positions `first` to before `end` of an epoch's order."""
        positions = np.arange(first, end)
        if self.shuffle:
            positions = _order(self.num_samples, self.seed, epoch)(positions)
        shards = np.searchsorted(self._sample_starts, positions, side="right") - 1
        items: Integers = self._first_items[shards] + positions - self._sample_starts[shards]
        return items

    def lengths(self, items: Integers) -> Integers:
        """How many leading tokens of each item are text, (n,); the rest is padding or a zero tail."""
        shards, chunks = self.dataset.locate(items)
        left: Integers = self._text_tokens[shards] - chunks * self.dataset.context_length
        return left.clip(0, self.dataset.context_length)

    def read(self, items: NDArray[np.int64], out: Integers | None = None) -> Integers:
        """Tokens of each item, (n, T), into `out` where given (any integer dtype that holds the tokens; else int64).

        Raises DataError naming file, chunk and token when a token is not below `vocab_limit`.
        """
        length = self.dataset.context_length
        if out is None:
            out = np.empty((len(items), length), np.int64)
        shards, chunks = self.dataset.locate(items)
        for shard, rows in _by_shard(shards):
            tokens = self._tokens(shard)
            self.dataset.require_whole(shard, tokens)
            whole = len(tokens) // length
            wanted = chunks[rows]
            if wanted.max() == whole:  # the last chunk, shorter than the others
                cut = rows[wanted == whole]
                out[cut, : len(tokens) - whole * length] = tokens[whole * length :]
                out[cut, len(tokens) - whole * length :] = 0
                rows, wanted = rows[wanted != whole], wanted[wanted != whole]
            out[rows] = tokens[: whole * length].reshape(whole, length)[wanted]
        self._check_vocabulary(items, out)
        return out

    def locate(self, item: int) -> str:
        """Where an item comes from, for messages: `pystdlib_3.bin chunk 17`."""
        shards, chunks = self.dataset.locate(np.asarray([item]))
        return f"{self.dataset.shards[int(shards[0])].path.name} chunk {int(chunks[0])}"

    def _check_vocabulary(self, items: NDArray[np.int64], tokens: Integers) -> None:
        # Seen as unsigned, a token too large for a signed dtype is caught too.
        seen = tokens.view(f"u{tokens.itemsize}")
        if self.vocab_limit is None or not seen.size or seen.max() < self.vocab_limit:
            return
        row, position = np.argwhere(seen >= self.vocab_limit)[0]
        raise DataError(
            f"{self.dataset.metadata.file.parent}: {self.locate(int(items[row]))}: token {int(seen[row, position])} at "
            f"position {position} is outside the vocabulary of {self.vocab_limit} (tokenizer.vocab_size)"
        )


@functools.lru_cache(maxsize=4)
def _order(n: int, seed: int, epoch: int) -> Permutation:
    return Permutation(n, seed, epoch)


def _by_shard(shards: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each shard that occurs, with the rows it occurs in."""
    order = np.argsort(shards, kind="stable")
    bounds = np.flatnonzero(np.diff(shards[order])) + 1
    for rows in np.split(order, bounds):
        if rows.size:
            yield int(shards[rows[0]]), rows
