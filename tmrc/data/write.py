"""Writing tokenized data in tatm's format: shards of token ids, and metadata that tatm's own loader accepts."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmrc.config.errors import DataError
from tmrc.data.metadata import SIDE_FILE, Dtype

SHARD_TOKENS = 1 << 27


def dtype_for(vocab_size: int) -> Dtype:
    """The smaller of the two dtypes that holds every token of a vocabulary."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


class TokenWriter:
    """Writes `<prefix>_0.bin`, `<prefix>_1.bin` and so on, each as long as its tokens.

    What is given to one `write` stays in one shard, unless it is longer than a shard. A shard gets its name once it is
    complete and on disk. As a context manager it closes at the end, or removes the unfinished shard after an error.
    """

    def __init__(self, directory: Path, prefix: str, dtype: Dtype, shard_tokens: int = SHARD_TOKENS) -> None:
        if shard_tokens < 1:
            raise DataError(f"tokens in a shard: got {shard_tokens}, valid: 1 and above")
        self.directory = directory
        self.prefix = prefix
        self.dtype = np.dtype(dtype)
        self.shard_tokens = shard_tokens
        self.shards: list[Path] = []
        self.tokens = 0
        self._file: Any = None
        self._room = shard_tokens

    def write(self, tokens: Sequence[int] | NDArray[Any]) -> None:
        """Append token ids. Raises DataError when one does not fit the dtype."""
        ids = np.asarray(tokens)
        if ids.size == 0:
            return
        if ids.min() < 0 or ids.max() > np.iinfo(self.dtype).max:
            bad = ids.min() if ids.min() < 0 else ids.max()
            raise DataError(f"{self.directory}: token {bad} does not fit {self.dtype.name}")
        if len(ids) > self._room and self._room < self.shard_tokens:
            self._finish()
        for begin in range(0, len(ids), self.shard_tokens):
            self._append(ids[begin : begin + self.shard_tokens].astype(self.dtype))
        self.tokens += len(ids)

    def close(self) -> None:
        """Finish the last shard."""
        if self._file is not None:
            self._finish()

    def discard(self) -> None:
        """Remove the unfinished shard."""
        if self._file is not None:
            self._file.close()
            self._partial.unlink(missing_ok=True)
            self._file = None

    def __enter__(self) -> TokenWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    @property
    def _final(self) -> Path:
        return self.directory / f"{self.prefix}_{len(self.shards)}.bin"

    @property
    def _partial(self) -> Path:
        return self.directory / f".{self._final.name}.partial"

    def _append(self, ids: NDArray[Any]) -> None:
        if self._file is None:
            if self._final.exists():
                raise DataError(f"{self._final}: already there, and nothing is overwritten")
            self._file = self._partial.open("xb")
        self._file.write(ids.tobytes())
        self._room -= len(ids)
        if self._room == 0:
            self._finish()

    def _finish(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        self._partial.rename(self._final)
        self.shards.append(self._final)
        self._room = self.shard_tokens


def write_metadata(
    directory: Path,
    *,
    prefix: str,
    tokenizer: str,
    vocab_size: int,
    dtype: Dtype,
    tokenizer_json: str,
    side: dict[str, Any],
    parent_datasets: Sequence[str] = (),
    description: str = "Tokenized dataset created using tmrc",
) -> Path:
    """Write tokenizer.json, tmrc.json (`side`) and, last, metadata.yaml; a data set without the last is incomplete.

    `prefix` is the name of the data set and of its shards; `tokenizer` a name or path that people know it by. The keys
    are tatm's, which refuses any other: what it has no key for, such as the EOS, stands in tmrc.json.
    """
    import yaml

    content = {
        "name": prefix,
        "dataset_path": str(directory.resolve()),
        "description": description,
        "date_downloaded": "",
        "download_source": "Tokenized by tmrc",
        "data_content": "text",
        "content_field": "NA",
        "corpuses": [],
        "tokenized_info": {
            "tokenizer": tokenizer,
            "file_prefix": str(directory.resolve() / prefix),
            "dtype": dtype,
            "file_extension": "bin",
            "parent_datasets": list(parent_datasets),
            "vocab_size": vocab_size,
            "tatm_version": f"tmrc {_version('tmrc')}",
            "tokenizers_version": _version("tokenizers"),
        },
    }
    _write_whole(directory / "tokenizer.json", tokenizer_json)
    _write_whole(directory / SIDE_FILE, json.dumps(side, indent=2) + "\n")
    _write_whole(directory / "metadata.yaml", yaml.safe_dump(content, allow_unicode=True))
    return directory / "metadata.yaml"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _write_whole(path: Path, text: str) -> None:
    """Write a file so that it is either whole or not there."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("x", encoding="utf8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
