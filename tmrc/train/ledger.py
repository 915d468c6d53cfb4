"""The sample ledger: which sequences, with which tokens, each optimizer step has used. No torch.

RUN/ledger.bin is a header and one record of 32 bytes a step. With p the position of a sequence in its global batch, a
record holds, all modulo 2^64,

    order   = sum of (p + 1) * mix(item number of sequence p)
    content = sum of c_p, and place = sum of (p + 1) * c_p, where c_p hashes item number and tokens of sequence p

and a chain value that hashes the one before, the step and these sums. Sums over the sequences of different processes
add up to the same record, however the batch is divided. Two runs have used the same samples in the same order and with
the same tokens when their records are equal.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tmrc.config.errors import DataError
from tmrc.config.schema import Config
from tmrc.data.order import mix

Integers = NDArray[Any]
Words = NDArray[np.uint64]

CHAIN_BYTES = 8
RECORD = np.dtype([("order", "<u8"), ("content", "<u8"), ("place", "<u8"), ("chain", "V8")])
_MAGIC = b"tmrclgr\x01"  # the last byte is the version
_HEADER = struct.Struct("<8sQ8s8s")  # magic, step of the first record, chain value before it, check of these
_LINK = struct.Struct("<8sQQQQ")
_WORD = (1 << 64) - 1
MOST_STEPS = 1 << 27  # records that are read: 4 GiB


class Sums(NamedTuple):
    """What a record holds of the sequences of one step, or of a part of them. Each in range(2^64)."""

    order: int = 0
    content: int = 0
    place: int = 0

    def __add__(self, other: object) -> Sums:
        if not isinstance(other, Sums):
            return NotImplemented
        return Sums(*((a + b) & _WORD for a, b in zip(self, other, strict=True)))


def sums_of(items: Integers, tokens: Integers, first: int) -> Sums:
    """Sums of the sequences `items` (n,) with int32 `tokens` (n, T), at positions `first` onwards of their batch."""
    return add_up(items, hashes(items, tokens), first)


def add_up(items: Integers, contents: Words, first: int = 0) -> Sums:
    """Sums of sequences whose hashes are known."""
    order, content, place = batch_sums(items[None], contents[None], first)
    return Sums(int(order[0]), int(content[0]), int(place[0]))


def batch_sums(items: Integers, contents: Words, first: int = 0) -> tuple[Words, Words, Words]:
    """Order, content and place of several batches at once; `items` and `contents` are (batches, sequences)."""
    weights = np.arange(first + 1, first + 1 + items.shape[-1], dtype=np.uint64)
    return order_sums(items, first), contents.sum(-1, dtype=np.uint64), (contents * weights).sum(-1, dtype=np.uint64)


def order_sums(items: Integers, first: int = 0) -> Words:
    """Order of several batches at once; `items` is (batches, sequences)."""
    weights = np.arange(first + 1, first + 1 + items.shape[-1], dtype=np.uint64)
    total: Words = (mix(items.astype(np.uint64)) * weights).sum(-1, dtype=np.uint64)
    return total


def hashes(items: Integers, tokens: Integers) -> Words:
    """A 64-bit hash (BLAKE2b) of each sequence's item number and tokens, (n,)."""
    rows = np.empty((len(tokens), 2 + tokens.shape[1]), "<i4")  # each an item number of two words, then its tokens
    rows[:, :2] = np.ascontiguousarray(items, "<i8").view("<i4").reshape(-1, 2)
    rows[:, 2:] = tokens
    digests = [hashlib.blake2b(row, digest_size=8).digest() for row in rows]
    found: Words = np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)
    return found


def altered_position(recorded: Sums, found: Sums, batch_size: int) -> int | None:
    """Position of the one sequence whose tokens differ between two sums of a batch; None when several do, or none."""
    content, place = (found.content - recorded.content) & _WORD, (found.place - recorded.place) & _WORD
    if not content:
        return None
    positions = np.flatnonzero(np.arange(1, batch_size + 1, dtype=np.uint64) * np.uint64(content) == np.uint64(place))
    return int(positions[0]) if len(positions) == 1 else None


def origin(config: Config, data_fingerprint: str) -> bytes:
    """The chain value before step 1: a digest of what decides which samples each step uses."""
    training = config.training
    fixed = (training.seed, training.shuffle, training.batch_size, config.model.context_length, data_fingerprint)
    return hashlib.blake2b(repr(fixed).encode(), digest_size=CHAIN_BYTES).digest()


def link(before: bytes, step: int, sums: Sequence[int]) -> bytes:
    """The chain value of `step` (counted from 1), which follows the one `before` it."""
    return hashlib.blake2b(_LINK.pack(before, step, *sums), digest_size=CHAIN_BYTES).digest()


def pack_header(first: int, before: bytes) -> bytes:
    """The first 32 bytes of a ledger whose first record is that of step `first`."""
    parts = (_MAGIC, first, before)
    return _HEADER.pack(*parts, _check(*parts))


def pack_record(sums: Sums, chain: bytes) -> bytes:
    """The 32 bytes of one step."""
    return struct.pack("<QQQ8s", *sums, chain)


def _check(magic: bytes, first: int, before: bytes) -> bytes:
    return hashlib.blake2b(struct.pack("<8sQ8s", magic, first, before), digest_size=8).digest()


@dataclass(frozen=True)
class Ledger:
    """A ledger as it was read. Steps are counted from 1, as in metrics.jsonl."""

    first: int  # step of the first record
    before: bytes  # chain value before it
    records: NDArray[Any]  # of dtype RECORD
    rest: bytes = b""  # of a record that was cut off

    @property
    def last(self) -> int:
        """Step of the last record; `first` - 1 when there is none."""
        return self.first + len(self.records) - 1

    def has(self, step: int) -> bool:
        """Whether there is a record of `step`."""
        return self.first <= step <= self.last

    def sums(self, step: int) -> Sums:
        """What is recorded of `step`. Raises IndexError where there is no record."""
        record = self.records[self._index(step)]
        return Sums(int(record["order"]), int(record["content"]), int(record["place"]))

    def head(self, step: int) -> bytes:
        """The chain value after `step`, which may be the one before the first record. Raises IndexError."""
        return self.before if step == self.first - 1 else self.records["chain"][self._index(step)].tobytes()

    def broken(self) -> list[int]:
        """The steps whose record is damaged: its chain value does not follow from the one before and its sums."""
        return [step for step, right in self._links() if not right]

    def leads_to(self, step: int, head: str) -> bool:
        """Whether all records up to `step` hold together and their chain value is `head` (hexadecimal)."""
        if not self.first - 1 <= step <= self.last or self.head(step).hex() != head:
            return False
        return all(right for number, right in self._links() if number <= step)

    def _links(self) -> Iterator[tuple[int, bool]]:
        before = mended = self.before  # where a chain value is damaged, the record after it is not
        for step, record in enumerate(self.records.tolist(), self.first):
            *sums, chain = record
            right = link(before, step, sums)
            yield step, chain == right or chain == link(mended, step, sums)
            before, mended = chain, right

    def _index(self, step: int) -> int:
        if not self.has(step):
            raise IndexError(f"the ledger has no record of step {step}")
        return step - self.first


def read_ledger(path: Path, most_steps: int = MOST_STEPS) -> Ledger:
    """Read a ledger, as far as it has been written.

    Raises DataError when there is none, its header is damaged, or it is larger than one of `most_steps` can be.
    """
    if not path.is_file():
        raise DataError(f"{path}: is missing")
    try:
        largest = _HEADER.size + RECORD.itemsize * min(most_steps + 1, MOST_STEPS)  # one that is being written
        if (size := path.stat().st_size) > largest:
            raise DataError(f"{path}: has {size:,} bytes, more than the {largest:,} that it can have")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except MemoryError:
        raise DataError(f"{path}: is too large for the memory") from None
    if len(data) < _HEADER.size:
        raise DataError(f"{path}: is cut off in its header")
    magic, first, before, check = _HEADER.unpack(data[: _HEADER.size])
    if magic[:-1] != _MAGIC[:-1]:
        raise DataError(f"{path}: is no ledger")
    if magic != _MAGIC:
        raise DataError(f"{path}: is of version {magic[-1]}, valid: {_MAGIC[-1]}")
    if check != _check(magic, first, before) or not 1 <= first < 1 << 62:
        raise DataError(f"{path}: its header is damaged")
    body = data[_HEADER.size :]
    whole = len(body) - len(body) % RECORD.itemsize
    return Ledger(first, before, np.frombuffer(body[:whole], RECORD), body[whole:])
