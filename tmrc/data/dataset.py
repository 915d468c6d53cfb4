"""Reading a tokenized data set: the items that tatm's own reader returns, from memory-mapped shards."""

from __future__ import annotations

import functools
import mmap
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tmrc.config.errors import DataError, shown
from tmrc.data.layout import ChunkLayout, Split, split_layout
from tmrc.data.metadata import Metadata, Shard, find_shards, load_metadata

Tokens = NDArray[Any]  # uint16 or uint32, as on disk
OPEN_SHARDS = 256  # kept mapped; each map holds a file descriptor, and a process commonly has 1,024


class Item(NamedTuple):
    """One sequence. Shapes (T,), or shorter at the end of a shard of unchunked data."""

    token_ids: Tokens
    document_ids: NDArray[np.int32]


class TokenDataset:
    """The items of one split. `len(ds)`, `ds[i]` (negative indices too) and `for item in ds` work as on a list."""

    def __init__(
        self, metadata: Metadata, shards: Sequence[Shard], layout: ChunkLayout, split: Split | None, eos_token: int
    ) -> None:
        self.metadata = metadata
        self.shards = shards
        self.layout = layout
        self.split = split
        self.eos_token = eos_token
        self.first_item, self._end_item = layout.item_range(split)
        self._starts = np.asarray(layout.starts, np.int64)
        self._tokens = functools.lru_cache(maxsize=OPEN_SHARDS)(self.map_shard)

    @property
    def context_length(self) -> int:
        """Tokens of an item."""
        return self.layout.context_length

    @property
    def num_tokens(self) -> int:
        """Tokens in all shards, both splits and zero tails included."""
        return sum(shard.tokens for shard in self.shards)

    def __len__(self) -> int:
        return self._end_item - self.first_item

    def __getitem__(self, index: int) -> Item:
        position = operator.index(index)
        if not -len(self) <= position < len(self):
            raise IndexError(f"item {index} of a data set with {len(self)}")
        shard, local = self.locate(np.asarray([position % len(self)]))
        begin = int(local[0]) * self.layout.stride
        tokens = np.array(self._tokens(int(shard[0]))[begin : begin + self.context_length])
        if self.layout.stride > 1:
            tokens = np.pad(tokens, (0, self.context_length - len(tokens)))
        return Item(tokens, document_ids(tokens, self.eos_token))

    def locate(self, items: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Shard number of each item of this split, and the item's number within that shard."""
        positions = items + self.first_item
        shards = np.searchsorted(self._starts, positions, side="right") - 1
        return shards, positions - self._starts[shards]

    def select(self, split: Split | None) -> TokenDataset:
        """The same data with another split in view."""
        return TokenDataset(self.metadata, self.shards, self.layout, split, self.eos_token)

    def map_shard(self, shard: int, scattered: bool = False) -> Tokens:
        """All tokens of a shard, memory-mapped. Raises DataError when it cannot be read or is no longer the same size.

        `scattered` announces reads here and there. The kernel then fetches the pages asked for and no more; else one
        sequence can cost a read-ahead of megabytes, a thousand times slower when the data is not in memory.
        """
        wanted = self.shards[shard]
        try:
            with wanted.path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise DataError(f"{wanted.path}: the shard cannot be read: {error}") from error
        self._require_size(shard, len(mapped))
        if scattered and hasattr(mmap, "MADV_RANDOM"):
            mapped.madvise(mmap.MADV_RANDOM)
        return np.frombuffer(mapped, self.metadata.dtype)

    def require_whole(self, shard: int, tokens: Tokens) -> None:
        """Raise DataError when the file of a mapped shard has another size by now.

        Reading a page that a file no longer has is no error that could be caught: the process gets a SIGBUS.
        """
        mapped: Any = tokens.base.obj if isinstance(tokens.base, memoryview) else tokens.base
        if isinstance(mapped, mmap.mmap):
            self._require_size(shard, mapped.size())

    def _require_size(self, shard: int, size: int) -> None:
        wanted = self.shards[shard]
        if size != wanted.tokens * self.metadata.item_bytes:
            now = f"{size} bytes, no longer {wanted.tokens} {self.metadata.dtype} tokens"
            raise DataError(f"{wanted.path}: the shard has changed since the run began: it has {now}")


def open_dataset(
    source: str | Path | Metadata,
    context_length: int = 512,
    chunked: bool = True,
    split: Split | None = None,
    val_split_size: float | None = None,
    eos_token: int | None = None,
    *,
    validation_default: int = 0,
) -> TokenDataset:
    """Open a data set directory, metadata file or loaded metadata. Raises DataError.

    `val_split_size` and `validation_default` say how much is held out (see `split_layout`), `split` which part is seen.
    `chunked=False` begins an item at every token. `eos_token` defaults to what the data says, else 1.
    """
    if split not in (None, "train", "validation"):
        raise DataError(f"split: got {shown(split)}, valid: train, validation, None")
    metadata = source if isinstance(source, Metadata) else load_metadata(source)
    shards = find_shards(metadata)
    layout = split_layout(shards, context_length, val_split_size, validation_default, chunked=chunked)
    if eos_token is None:
        eos_token = 1 if metadata.eos_token is None else metadata.eos_token
    return TokenDataset(metadata, shards, layout, split, eos_token)


def document_ids(tokens: Tokens, eos_token: int = 1) -> NDArray[np.int32]:
    """Number of the document each token belongs to, from 0 in every row; an EOS belongs to the document it ends.

    tokens (..., T) -> int32 (..., T). Documents are far fewer than tokens, so their numbers are repeated rather than
    counted up token by token: several times faster than a cumulative sum.
    """
    if tokens.ndim > 1:
        return _document_ids_of_rows(tokens, eos_token)
    begins = (tokens[:-1] == eos_token).nonzero()[0] + 1  # of every document but the first
    bounds = np.empty(begins.size + 2, np.int64)
    bounds[0], bounds[1:-1], bounds[-1] = 0, begins, tokens.size
    return np.arange(begins.size + 1, dtype=np.int32).repeat(bounds[1:] - bounds[:-1])


def _document_ids_of_rows(tokens: Tokens, eos_token: int) -> NDArray[np.int32]:
    """The same for rows laid end to end: a row begins a document too, and the numbers begin again from 0."""
    length = tokens.shape[-1]
    row_begins = np.arange(0, tokens.size + 1, length)
    after_eos = np.flatnonzero(tokens == eos_token) + 1
    bounds = np.concatenate([row_begins, after_eos[after_eos % length != 0]])
    bounds.sort(kind="stable")
    first_of_row = np.searchsorted(bounds, row_begins)
    numbers = np.arange(bounds.size - 1) - first_of_row[:-1].repeat(np.diff(first_of_row))
    return numbers.astype(np.int32).repeat(np.diff(bounds)).reshape(tokens.shape)
