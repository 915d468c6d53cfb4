"""How shards are cut into items, which items hold text, and where the validation split begins. No numpy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tmrc.config.errors import DataError
from tmrc.data.metadata import Shard

Split = Literal["train", "validation"]


@dataclass(frozen=True)
class ChunkLayout:
    """The items of all shards in order.

    Item j of a shard begins at its token j * stride; the stride is the context length, or 1 when every token begins an
    item. `starts` holds the first item of each shard and, last, the number of items. `texts` holds how many items of
    each shard have text in them: always its first ones. Items from `split_index` on are the validation split.
    """

    context_length: int
    stride: int
    starts: tuple[int, ...]
    texts: tuple[int, ...]
    split_index: int

    @property
    def num_items(self) -> int:
        """Items over all shards, as tatm counts them: chunks of padding alone included."""
        return self.starts[-1]

    @property
    def train_texts(self) -> int:
        """Items before the validation split that hold text."""
        return sum(count for _, count in self.text_ranges("train"))

    @property
    def validation_texts(self) -> int:
        """Items of the validation split that hold text."""
        return sum(count for _, count in self.text_ranges("validation"))

    def item_range(self, split: Split | None) -> tuple[int, int]:
        """First item of a split and the one after its last. None is the whole data set."""
        first = self.split_index if split == "validation" else 0
        return first, self.split_index if split == "train" else self.num_items

    def text_ranges(self, split: Split | None) -> list[tuple[int, int]]:
        """For each shard: its first item in the split, and how many from there on hold text (possibly none)."""
        first, end = self.item_range(split)
        ranges = []
        for start, texts in zip(self.starts, self.texts, strict=False):
            begin = min(max(start, first), end)
            ranges.append((begin, max(0, min(start + texts, end) - begin)))
        return ranges


def split_layout(
    shards: Sequence[Shard],
    context_length: int,
    val_split_size: float | None = None,
    validation_default: int = 0,
    *,
    chunked: bool = True,
) -> ChunkLayout:
    """Cut shards into items and hold out the last ones for validation.

    `val_split_size` is tatm's: below 1 a share of the items, rounded up; 1 and above their number. When it is None the
    last `validation_default` items with text are held out, but at most a tenth of those. Raises DataError.
    """
    if context_length < 1:
        raise DataError(f"context_length: got {context_length}, valid: 1 and above")
    stride = context_length if chunked else 1
    starts = tuple(itertools.accumulate((-(-shard.tokens // stride) for shard in shards), initial=0))
    texts = tuple(-(-shard.text_tokens // stride) for shard in shards)
    if val_split_size is None:
        split_index = _hold_out_texts(starts, texts, validation_default)
    else:
        split_index = starts[-1] - _held_out_items(starts[-1], val_split_size)
    return ChunkLayout(context_length, stride, starts, texts, split_index)


def _held_out_items(num_items: int, val_split_size: float) -> int:
    held_out = math.ceil(num_items * val_split_size) if val_split_size < 1 else val_split_size
    if not 0 <= held_out <= num_items or held_out != int(held_out):
        raise DataError(
            f"val_split_size: got {val_split_size}, valid: a share below 1, or a whole number "
            f"up to the {num_items} items there are"
        )
    return int(held_out)


def _hold_out_texts(starts: Sequence[int], texts: Sequence[int], wanted: int) -> int:
    missing = min(wanted, sum(texts) // 10)
    if missing <= 0:
        return starts[-1]
    for shard in reversed(range(len(texts))):
        if texts[shard] >= missing:
            return starts[shard] + texts[shard] - missing
        missing -= texts[shard]
    raise AssertionError("a tenth of the items is never more than all of them")
