"""Small data sets on disk, and a plain-Python reader to compare with."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

FIXTURES = Path(__file__).parent / "fixtures"
SHARED = [FIXTURES / "tatm-pystdlib", FIXTURES / "tatm-pystdlib-u32"]


def metadata_content(directory: Path, **info: Any) -> dict[str, Any]:
    """Valid metadata; keywords replace keys of tokenized_info, and None removes one."""
    tokenized: dict[str, Any] = {"tokenizer": "t5", "file_prefix": str(directory / "tok"), "dtype": "uint16"}
    tokenized |= info
    return {
        "name": "tok",
        "dataset_path": str(directory),
        "tokenized_info": {key: value for key, value in tokenized.items() if value is not None},
    }


def make_dataset(directory: Path, shards: Sequence[Sequence[int]], **info: Any) -> Path:
    """A data set with these tokens in tok_0.bin, tok_1.bin and so on."""
    directory.mkdir(parents=True, exist_ok=True)
    content = metadata_content(directory, **info)
    (directory / "metadata.json").write_text(json.dumps(content))
    for number, tokens in enumerate(shards):
        np.asarray(tokens, content["tokenized_info"]["dtype"]).tofile(directory / f"tok_{number}.bin")
    return directory


def plain_items(shards: Sequence[Sequence[int]], context_length: int) -> list[list[int]]:
    """The padded chunks of all shards, shards in the order of their names as strings."""
    items = []
    for number in sorted(range(len(shards)), key=lambda n: f"tok_{n}.bin"):
        tokens = list(shards[number])
        for begin in range(0, len(tokens), context_length):
            chunk = tokens[begin : begin + context_length]
            items.append(chunk + [0] * (context_length - len(chunk)))
    return items


def plain_split(count: int, val_split_size: float | None) -> int:
    """First item of the validation split."""
    if val_split_size is None:
        return count
    return count - (math.ceil(count * val_split_size) if val_split_size < 1 else int(val_split_size))


def plain_document_ids(tokens: Sequence[int], eos_token: int) -> list[int]:
    """One pass over the tokens, counting."""
    ids, current = [], 0
    for token in tokens:
        ids.append(current)
        current += token == eos_token
    return ids
