"""Whether two runs are equal bit for bit: rows of metrics, order of samples, last weights and optimizer state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from launch.compare.results import MANIFEST, STATE, Results, Row
from launch.compare.tensors import first_difference as first_of_tensors

EXACT = ("loss", "val_loss", "grad_norm", "lr", "tokens", "epoch", "accuracy")  # not how long it took, nor when
# Of the trainer's state: how it was computed, and whether it was saved before a validation that was run later
_CIRCUMSTANCES = ("world_size", "micro_batch_size", "threads", "torch_version", "validation_due")


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
    file = str(found.run.ledger)
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
    step = found.step
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
