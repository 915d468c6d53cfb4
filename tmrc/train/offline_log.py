"""Which steps wandb's own files of a run hold: what is in them counts, whatever was killed before it got there.

A .wandb file is a log in LevelDB's format (blocks of 32 KiB; records cut into parts with a checksum, a length and a
kind) whose records are wandb's protocol buffers:
https://github.com/google/leveldb/blob/main/doc/log_format.md
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

_BLOCK, _HEADER = 32_768, 7
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def next_step(folder: Path) -> int:
    """The step after the last that the directories of earlier attempts below `folder` hold."""
    last = -1
    for path in folder.glob("*run-*/*.wandb"):
        try:
            last = max(last, *_steps(path.read_bytes()), -1)
        except OSError:
            continue
    return last + 1


def _steps(data: bytes) -> Iterator[int]:
    new_record = import_module("wandb.proto.wandb_internal_pb2").Record
    for block in _records(data):
        record = new_record()
        try:
            record.ParseFromString(block)
        except import_module("google.protobuf.message").DecodeError:
            return  # a kill has cut it off
        if record.WhichOneof("record_type") == "history":
            items = {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
            yield _whole(items.get("_step", "-1"))


def _whole(text: str) -> int:
    """The number in `text`; -1 for what wandb does not write."""
    try:
        return int(json.loads(text))
    except (ValueError, TypeError, OverflowError, RecursionError):
        return -1


def _records(data: bytes) -> Iterator[bytes]:
    position, parts = _HEADER, b""  # the file begins with a header of its own
    while position + _HEADER <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < _HEADER:
            position += left
            continue
        length = int.from_bytes(data[position + 4 : position + 6], "little")
        kind = data[position + 6]
        if kind not in (_WHOLE, _FIRST, _MIDDLE, _LAST):
            return
        parts += data[position + _HEADER : position + _HEADER + length]
        position += _HEADER + length
        if kind in (_WHOLE, _LAST):
            yield parts
            parts = b""
