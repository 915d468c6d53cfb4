"""What a run has come to, read for comparison: rows of metrics, records of samples, the newest checkpoint. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.facts import read_object
from tmrc.config.errors import DataError, UserError
from tmrc.config.rundir import RunDir, checkpoint_steps, read_jsonl

MANIFEST = "manifest.json"
STATE = "trainer.json"
Row = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """What a finished run has come to."""

    run: RunDir
    rows: Sequence[Row]
    ledger: Sequence[bytes] | None  # None: the run keeps none
    first_record: int  # step of the ledger's first
    checkpoint: Path | None  # the newest one
    step: int | None  # of that
    digests: Mapping[str, str]  # of the newest checkpoint's files, hashed anew
    state: Mapping[str, Any]
    listed: Mapping[str, Any]  # name -> what the checkpoint's manifest says of that file


def read_results(run: RunDir) -> Results:
    """Read and hash what is to be compared. Raises UserError for files that are no run's."""
    records, first = _ledger(run)
    step, checkpoint = next(iter(checkpoint_steps(run).items()), (None, None))
    state = {} if checkpoint is None else read_object(checkpoint / STATE)
    listed = {} if checkpoint is None else read_object(checkpoint / MANIFEST).get("files")
    try:
        digests = {} if checkpoint is None else {file.name: sha256(file) for file in sorted(checkpoint.iterdir())}
        rows = read_jsonl(run.metrics)
    except OSError as error:
        raise UserError(f"{error.filename or run.path}: cannot be read: {error.strerror or error}") from None
    listed = listed if isinstance(listed, dict) else {}
    return Results(run, rows, records, first, checkpoint, step, digests, state, listed)


def sha256(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal. Raises OSError, and UserError for what is no ordinary file."""
    if not file.is_file():
        raise UserError(f"{file}: is no ordinary file")
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _ledger(run: RunDir) -> tuple[list[bytes] | None, int]:
    """The records, and the step of the first."""
    file = run.ledger
    if not file.exists():
        return None, 1
    from tmrc.train.ledger import read_ledger

    try:
        ledger = read_ledger(file)
    except (DataError, OSError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from None
    return [record.tobytes() for record in ledger.records], ledger.first
