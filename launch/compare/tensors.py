"""The first element in which two safetensors files differ, without torch."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

_FORMS = {"F64": "<d", "F32": "<f", "F16": "<e", "I64": "<q", "I32": "<i", "U8": "<B", "BOOL": "<?"}
_SIZES = {"BF16": 2}
_LARGEST_HEADER = 1 << 26  # bytes
_UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, MemoryError, RecursionError,
    struct.error,
)  # fmt: skip


def first_difference(reference: Path, found: Path) -> tuple[str, object, object]:
    """What differs, and its value in each of two files whose bytes are not the same."""
    try:
        old, new = _header(reference), _header(found)
        if old[0].keys() != new[0].keys():
            return "tensors", len(old[0]), len(new[0])
        for name, about in sorted(old[0].items()):
            if about != new[0][name]:
                return name, _kind(about), _kind(new[0][name])
            begin, end = about["data_offsets"]
            pair = [_bytes(file, start + begin, end - begin) for file, start in ((reference, old[1]), (found, new[1]))]
            if pair[0] != pair[1]:
                return _element(name, about, pair[0], pair[1])
    except _UNREADABLE as error:
        return f"cannot be taken apart ({type(error).__name__})", None, None
    return "bytes between the tensors", None, None


def _header(file: Path) -> tuple[dict[str, Any], int]:
    """Name -> what the file says of a tensor, and where the data begins."""
    with file.open("rb") as handle:
        (size,) = struct.unpack("<Q", handle.read(8))
        if size > _LARGEST_HEADER:
            raise ValueError("no safetensors file")
        found = json.loads(handle.read(size))
    return {name: about for name, about in found.items() if name != "__metadata__"}, 8 + size


def _bytes(file: Path, start: int, count: int) -> bytes:
    with file.open("rb") as handle:
        handle.seek(start)
        return handle.read(count)


def _kind(about: dict[str, Any]) -> str:
    return f"{about['dtype']} {about['shape']}"


def _element(name: str, about: dict[str, Any], old: bytes, new: bytes) -> tuple[str, object, object]:
    place = next((n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    form = _FORMS.get(about["dtype"])
    size = struct.calcsize(form) if form else _SIZES.get(about["dtype"], 1)
    number = place // size
    cut = slice(number * size, (number + 1) * size)
    words = f"{name}[{', '.join(map(str, _position(number, about['shape'])))}]"
    if form is None:
        return words, old[cut].hex(), new[cut].hex()
    return words, struct.unpack(form, old[cut])[0], struct.unpack(form, new[cut])[0]


def _position(number: int, shape: list[int]) -> list[int]:
    """The indices of the `number`-th element of a tensor."""
    found = []
    for n in range(len(shape)):
        below = math.prod(shape[n + 1 :])
        found.append(number // below)
        number %= below
    return found
