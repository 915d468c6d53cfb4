"""ledger.bin as the attempt that trains keeps it: one record a step, each step once whatever was interrupted."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

from tmrc.config.errors import DataError
from tmrc.train.fence import Fence
from tmrc.train.growing import GrowingFile
from tmrc.train.ledger import Ledger, Sums, link, pack_header, pack_record, read_ledger


def rewind_ledger(fence: Fence, step: int, head: str, start: bytes) -> LedgerFile:
    """The run's ledger up to `step`, open for more.

    `head` is the chain value (hexadecimal) that the checkpoint of `step` names; `start` that of step 0. A ledger that
    is missing or does not lead to `head` is no reason not to train: it is set aside, and another one begins after
    `step`. `LedgerFile.problem` then says so.
    """
    if step == 0:
        return LedgerFile(fence, 1, start)
    begin = bytes.fromhex(head) if _is_chain_value(head, len(start)) else start
    try:
        old = read_ledger(fence.run.ledger)
    except DataError as error:
        if not head:  # the run was begun before there were ledgers
            return LedgerFile(fence, step + 1, begin)
        return LedgerFile(fence, step + 1, begin, problem=_set_aside(fence, str(error)))
    if old.leads_to(step, head):
        return LedgerFile(fence, old.first, old.before, old.records[: step - old.first + 1].tobytes(), old.head(step))
    return LedgerFile(fence, step + 1, begin, problem=_set_aside(fence, _what_is_wrong(fence.run.ledger, old, step)))


class LedgerFile:
    """Appends records; they can be read after `flush`, unless the disk is full, and are durable after `sync`."""

    def __init__(
        self, fence: Fence, first: int, before: bytes, records: bytes = b"", head: bytes = b"", problem: str = ""
    ) -> None:
        self.problem = problem  # one line when the ledger that was there could not be continued
        self._head = head or before
        self._file = GrowingFile(fence, fence.run.ledger, pack_header(first, before) + records)

    @property
    def head(self) -> str:
        """The chain value after the last record, hexadecimal."""
        return self._head.hex()

    def add(self, step: int, sums: Sums) -> None:
        """Append the record of `step`, which follows the last one."""
        self._head = link(self._head, step, sums)
        self._file.add(pack_record(sums, self._head))

    def flush(self) -> None:
        """Let all records be read by others."""
        self._file.flush()

    def sync(self) -> None:
        """Wait until every record is on stable storage."""
        self._file.sync()

    def close(self) -> None:
        """Sync and close."""
        self._file.close()


def _is_chain_value(text: str, length: int) -> bool:
    try:
        return len(bytes.fromhex(text)) == length
    except ValueError:
        return False


def _what_is_wrong(path: Path, ledger: Ledger, step: int) -> str:
    if ledger.last < step:
        return f"{path}: ends at step {ledger.last}, before the checkpoint's step {step}"
    if ledger.first > step + 1:
        return f"{path}: begins at step {ledger.first}, after the checkpoint's step {step}"
    broken = [number for number in ledger.broken() if number <= step]
    if broken:
        return f"{path}: the record of step {broken[0]} is damaged"
    return f"{path}: does not lead to the checkpoint of step {step}"


def _set_aside(fence: Fence, problem: str) -> str:
    """Give the damaged ledger another name, through the attempt's own directory. Returns what to say of it."""
    path = fence.run.ledger
    if not path.exists():
        return problem
    held = path.rename(fence.folder / "damaged_ledger.bin")
    kept = held.rename(_first_free(fence.run.path / f"ledger.damaged_{n}.bin" for n in itertools.count(1)))
    return f"{problem}; it is kept as {kept.name}"


def _first_free(paths: Iterable[Path]) -> Path:
    return next(path for path in itertools.islice(paths, 1000) if not path.exists())
