"""Looking at a tokenized data set: what it says of itself, and what is in its shards, in one pass over all tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tmrc.config.errors import DataError
from tmrc.config.progress import Advance, progress
from tmrc.config.waiting import waiting
from tmrc.data.batches import BatchReader
from tmrc.data.dataset import TokenDataset, open_dataset

_BLOCK_TOKENS = 1 << 22
_SAMPLE_TOKENS = 100


@dataclass(frozen=True)
class ShardReport:
    """One shard. `documents` counts its EOS tokens, `padding` the zeros after its text."""

    file: str
    bytes: int
    tokens: int
    text_tokens: int
    padding: int
    documents: int
    max_token: int


@dataclass(frozen=True)
class Sample:
    """Where an item stands, and the beginning of its text."""

    item: int
    where: str
    text: str


@dataclass(frozen=True)
class Inspection:
    """A whole data set. Items are chunks of `context_length`; `problems` is empty when the data is sound."""

    file: Path
    folder: Path  # of the shards that are read
    name: str
    tokenizer: str
    dtype: str
    vocab_size: int | None
    eos_token: int
    context_length: int
    shards: list[ShardReport]
    items: int
    items_with_text: int
    samples: list[Sample]
    problems: list[str]

    def total(self, column: str) -> int:
        """Sum of a column of the shards."""
        return sum(getattr(shard, column) for shard in self.shards)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: every field, and the totals over shards."""
        totals = {column: self.total(column) for column in ("bytes", "tokens", "text_tokens", "padding", "documents")}
        max_token = max(shard.max_token for shard in self.shards)
        paths = {"file": str(self.file), "folder": str(self.folder)}
        return asdict(self) | paths | totals | {"max_token": max_token}


def inspect_dataset(
    path: str | Path, context_length: int = 512, samples: int = 0, eos_token: int | None = None
) -> Inspection:
    """Read every token of the data set at `path`, and decode the beginnings of `samples` of its items.

    Raises DataError when the data cannot be read. Tokens outside the vocabulary are listed as problems.
    """
    with waiting("the ends of the shards to be found"):
        dataset = open_dataset(path, context_length, eos_token=eos_token)
    size = sum(shard.text_tokens for shard in dataset.shards) * dataset.metadata.item_bytes
    with progress("reading", size) as advance:
        shards = list(_shard_reports(dataset, advance))
    metadata = dataset.metadata
    limit = metadata.vocab_size
    return Inspection(
        file=metadata.file,
        folder=dataset.shards[0].path.parent,
        name=metadata.name,
        tokenizer=metadata.tokenizer,
        dtype=metadata.dtype,
        vocab_size=limit,
        eos_token=dataset.eos_token,
        context_length=context_length,
        shards=shards,
        items=dataset.layout.num_items,
        items_with_text=dataset.layout.train_texts + dataset.layout.validation_texts,
        samples=list(_samples(dataset, samples)) if samples > 0 else [],
        problems=[
            f"{shard.file}: token {shard.max_token} is outside the vocabulary of {limit}"
            for shard in shards
            if limit is not None and shard.max_token >= limit
        ],
    )


def _shard_reports(dataset: TokenDataset, advance: Advance) -> Iterator[ShardReport]:
    item_bytes = dataset.metadata.item_bytes
    done = 0
    for number, shard in enumerate(dataset.shards):
        tokens = dataset.map_shard(number)
        documents = max_token = 0
        for begin in range(0, shard.text_tokens, _BLOCK_TOKENS):
            block = tokens[begin : min(begin + _BLOCK_TOKENS, shard.text_tokens)]
            documents += int(np.count_nonzero(block == dataset.eos_token))
            max_token = max(max_token, int(block.max()))
            done += block.nbytes
            advance(done)
        yield ShardReport(
            file=shard.path.name,
            bytes=shard.tokens * item_bytes,
            tokens=shard.tokens,
            text_tokens=shard.text_tokens,
            padding=shard.tokens - shard.text_tokens,
            documents=documents,
            max_token=max_token,
        )


def _samples(dataset: TokenDataset, count: int) -> Iterator[Sample]:
    """Items with text, spread evenly over the data set."""
    from tmrc.data.tokenizer import load_tokenizer, tokenizer_errors

    file = dataset.metadata.tokenizer_file
    if not file.exists():
        raise DataError(f"{file}: missing, and needed to show text")
    tokenizer = load_tokenizer(str(file))
    reader = BatchReader(dataset, 1, shuffle=False)
    for position in sorted({reader.num_samples * number // count for number in range(count)}):
        items = reader.samples(position)
        tokens = reader.read(items)[0, : min(int(reader.lengths(items)[0]), _SAMPLE_TOKENS)]
        item = int(items[0])
        with tokenizer_errors(f"{file}: cannot decode"):
            text = tokenizer.decode(tokens.tolist(), skip_special_tokens=False)
        yield Sample(item, reader.locate(item), text)
