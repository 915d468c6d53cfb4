"""Whether a file is a safetensors file, by its header alone. No torch.

The format: the header's length in 8 bytes, the header as JSON (name -> dtype, shape, offsets), and the numbers, which
follow one another without a gap.
"""

from __future__ import annotations

import json
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tmrc.train import durable

MODEL, OPTIMIZER = "model.safetensors", "optimizer.safetensors"
_LARGEST_HEADER = 1 << 25  # bytes: some 200,000 tensors
_MOST_DIMENSIONS = 64
_LENGTH = struct.Struct("<Q")
_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4,
    "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """What the header says of one tensor; `begin` and `end` are bytes after the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def tensor_flaw(checkpoint: Path) -> str:
    """What is wrong with the form of a checkpoint's tensors; empty when nothing is."""
    found: dict[str, dict[str, Kind]] = {}
    for name in (MODEL, OPTIMIZER):
        try:
            found[name] = read_header(checkpoint / name)
        except OSError as error:
            return f"{name} cannot be read: {error.strerror or error}"
        except ValueError as error:
            return f"{name} is no safetensors file: {error}"
    if not found[MODEL]:
        return f"{MODEL} holds no tensor"
    return _unlike(found[MODEL], found[OPTIMIZER])


def read_header(path: Path) -> dict[str, Kind]:
    """Name -> what the header says. Raises OSError, and ValueError where the header and the file do not agree."""
    with durable.open_file(path) as fd:
        size = os.fstat(fd).st_size
        start = os.read(fd, _LENGTH.size)
        if len(start) < _LENGTH.size:
            raise ValueError("it is cut off in its header")
        (length,) = _LENGTH.unpack(start)
        if length > min(_LARGEST_HEADER, size - _LENGTH.size):
            raise ValueError(f"its header cannot have {length:,} bytes")
        header = os.read(fd, length)
    try:
        entries = json.loads(header)
    except (ValueError, RecursionError):
        raise ValueError("its header is not JSON") from None
    if not isinstance(entries, dict):
        raise ValueError("its header names no tensors")
    kinds = {name: _kind(name, entry) for name, entry in entries.items() if name != "__metadata__"}
    _require_no_gap(kinds, size - _LENGTH.size - length)
    return kinds


def _kind(name: str, entry: Any) -> Kind:
    called = repr(name)[:60]
    fields = entry if isinstance(entry, dict) else {}
    dtype = fields.get("dtype")
    shape, offsets = _sizes(fields.get("shape")), _sizes(fields.get("data_offsets"))
    if shape is None or offsets is None or len(offsets) != 2:
        raise ValueError(f"{called} has no shape or no place")
    if not isinstance(dtype, str) or dtype not in _BYTES:
        raise ValueError(f"{called} is of an unknown dtype")
    begin, end = offsets
    if end - begin != math.prod(shape) * _BYTES[dtype]:
        raise ValueError(f"{called} has other bytes than its shape takes")
    return Kind(dtype, tuple(shape), begin, end)


def _sizes(value: Any) -> list[int] | None:
    """The value, if it is a list of whole numbers that can be a shape or offsets."""
    if not isinstance(value, list) or len(value) > _MOST_DIMENSIONS:
        return None
    return value if all(type(one) is int and 0 <= one < 1 << 62 for one in value) else None


def _require_no_gap(kinds: dict[str, Kind], size: int) -> None:
    at = 0
    for kind in sorted(kinds.values(), key=lambda one: (one.begin, one.end)):
        if kind.begin != at:
            raise ValueError("its tensors do not follow one another")
        at = kind.end
    if at != size:
        raise ValueError(f"its tensors take {at:,} bytes, and it has {size:,}")


def _unlike(model: dict[str, Kind], optimizer: dict[str, Kind]) -> str:
    """Where the optimizer's state is of other parameters than the model's."""
    for entry, kind in optimizer.items():
        name = entry.rpartition("/")[0]
        if name not in model:
            return f"{OPTIMIZER} holds {entry!r:.60}, which is of no tensor of {MODEL}"
        if kind.shape and kind.shape != model[name].shape:
            return f"{OPTIMIZER}: {entry!r:.60} has another shape than its parameter"
    return ""
