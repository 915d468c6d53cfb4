"""Whether two runs are equal bit for bit: rows of metrics, order of samples, last weights and optimizer state."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.drill.damage import MANIFEST, steps_of
from launch.drill.tensors import first_difference as first_of_tensors
from launch.facts import read_object
from tmrc.config.errors import DataError, UserError
from tmrc.config.rundir import RunDir, read_jsonl

EXACT = ("loss", "val_loss", "grad_norm", "lr", "tokens", "epoch", "accuracy")  # not how long it took, nor when
STATE = "trainer.json"
# Of the trainer's state: how it was computed, and whether it was saved before a validation that was run later
_CIRCUMSTANCES = ("world_size", "micro_batch_size", "threads", "torch_version", "validation_due")
Row = dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """The first thing in which a run differs: where, what it is in the reference (`expected`), and in the run."""

    file: str
    step: int | None
    field: str
    expected: object = None
    found: object = None

    def __str__(self) -> str:
        at = f" step {self.step:,}" if self.step is not None else ""
        values = (
            "" if self.expected is self.found is None else f": {self.expected!r} in the reference, here {self.found!r}"
        )
        return f"{self.file}{at} {self.field}{values}"


@dataclass(frozen=True)
class Results:
    """What a finished run has come to."""

    run: RunDir
    rows: Sequence[Row]
    ledger: Sequence[bytes] | None  # None: the run keeps none
    first_record: int  # step of the ledger's first
    checkpoint: Path | None
    digests: Mapping[str, str]  # of the newest checkpoint's files, hashed anew
    state: Mapping[str, Any]
    listed: Mapping[str, Any]  # name -> what the checkpoint's manifest says of that file


def read_results(run: RunDir) -> Results:
    """Read and hash what is to be compared. Raises UserError for files that are no run's."""
    records, first = _ledger(run)
    steps = steps_of(run)
    checkpoint = steps[0] if steps else None
    state = {} if checkpoint is None else read_object(checkpoint / STATE)
    listed = {} if checkpoint is None else read_object(checkpoint / MANIFEST).get("files")
    try:
        digests = {} if checkpoint is None else {file.name: sha256(file) for file in sorted(checkpoint.iterdir())}
        rows = read_jsonl(run.metrics)
    except OSError as error:
        raise UserError(f"{error.filename or run.path}: cannot be read: {error.strerror or error}") from None
    return Results(run, rows, records, first, checkpoint, digests, state, listed if isinstance(listed, dict) else {})


def compare(reference: Results, found: Results) -> Difference | None:
    """The first difference; None when there is none."""
    parts = (damage_of(found), _metrics(reference, found), _samples(reference, found), _checkpoint(reference, found))
    return next((one for part in parts for one in part), None)


def damage_of(found: Results) -> Iterator[Difference]:
    """The newest checkpoint against its own manifest."""
    if found.checkpoint is None:
        return
    if not found.listed:
        yield Difference(str(found.checkpoint / MANIFEST), None, "is damaged")
    for name, entry in found.listed.items():
        words = entry.get("sha256") if isinstance(entry, dict) else None
        if words != found.digests.get(name):
            yield Difference(
                str(found.checkpoint / name), None, "SHA-256 in the manifest", words, found.digests.get(name)
            )


def _metrics(reference: Results, found: Results) -> Iterator[Difference]:
    """Rows by step and kind, each once and in order."""
    file = str(found.run.metrics)
    before, after = [_key(row) for row in reference.rows], [_key(row) for row in found.rows]
    for place, (old, new) in enumerate(zip(before, after, strict=False)):
        if old != new:
            again = new in after[:place]
            yield Difference(
                file, _step(new), f"{new[1]} row {'stands there twice' if again else 'is not the next'}", old, new
            )
            return
        row, expected = found.rows[place], reference.rows[place]
        for name in EXACT:
            if repr(row.get(name)) != repr(expected.get(name)):  # NaN equals itself here, and 1 is not 1.0
                yield Difference(file, _step(new), name, expected.get(name), row.get(name))
    if len(before) != len(after):
        more = before[len(after) :] or after[len(before) :]
        yield Difference(file, _step(more[0]), "rows", len(before), len(after))


def _samples(reference: Results, found: Results) -> Iterator[Difference]:
    """The ledgers' records: order and contents of the samples of each step."""
    file = str(found.run.path / "ledger.bin")
    if reference.ledger is None:
        return
    if found.ledger is None:
        yield Difference(file, None, "is missing")
        return
    if reference.first_record != found.first_record:
        yield Difference(file, None, "first step", reference.first_record, found.first_record)
    for number, (old, new) in enumerate(zip(reference.ledger, found.ledger, strict=False), reference.first_record):
        if old != new:
            yield Difference(file, number, "samples", old.hex(), new.hex())
    if len(reference.ledger) != len(found.ledger):
        yield Difference(file, None, "steps", len(reference.ledger), len(found.ledger))


def _checkpoint(reference: Results, found: Results) -> Iterator[Difference]:
    """The newest checkpoints, file by file; of tensors, the first element that differs."""
    if reference.checkpoint is None:
        return
    if found.checkpoint is None:
        yield Difference(str(found.run.checkpoints), None, "holds no checkpoint")
        return
    step = int(found.checkpoint.name[5:])
    if reference.checkpoint.name != found.checkpoint.name:
        yield Difference(str(found.run.checkpoints), step, "newest", reference.checkpoint.name, found.checkpoint.name)
        return
    names = {*reference.digests, *found.digests} - {MANIFEST, STATE}
    for name in sorted(names):
        if reference.digests.get(name) != found.digests.get(name):
            where = first_of_tensors(reference.checkpoint / name, found.checkpoint / name)
            yield Difference(str(found.checkpoint / name), step, *where)
    for name in {**reference.state, **found.state}:
        if name not in _CIRCUMSTANCES and reference.state.get(name) != found.state.get(name):
            yield Difference(
                str(found.checkpoint / STATE), step, name, reference.state.get(name), found.state.get(name)
            )


def _key(row: Row) -> tuple[object, str]:
    return row.get("step"), "validation" if "val_loss" in row else "training"


def _step(key: tuple[object, str]) -> int | None:
    return key[0] if isinstance(key[0], int) else None


def _ledger(run: RunDir) -> tuple[list[bytes] | None, int]:
    """The records, and the step of the first."""
    file = run.path / "ledger.bin"
    if not file.exists():
        return None, 1
    from tmrc.train.ledger import read_ledger

    try:
        ledger = read_ledger(file)
    except (DataError, OSError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from None
    return [record.tobytes() for record in ledger.records], ledger.first


def sha256(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal. Raises OSError, and UserError for what is no ordinary file."""
    if not file.is_file():
        raise UserError(f"{file}: is no ordinary file")
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
