"""What the tests of `tmrc verify` look at, and how they plant faults."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.train.conftest import Trial
from tmrc.config.load import load_config
from tmrc.config.rundir import RunDir
from tmrc.data.batches import BatchReader
from tmrc.data.plan import plan_data
from tmrc.train import durable
from tmrc.train.ledger import Sums, link, pack_header, pack_record, read_ledger
from tmrc.train.samples import training_reader
from tmrc.verify.run import verify_run

Train = Callable[..., Trial]
STEPS, BATCH = 24, 8
MORE = ["training.train_steps=24", "training.log_interval=4", "training.val_interval=8"]


def faults(run: RunDir, **options: Any) -> dict[str, tuple[str, ...]]:
    """Check -> its faults."""
    return {check.name: check.faults for check in verify_run(run, **options).checks if check.faults}


def notes(run: RunDir) -> dict[str, str]:
    """Check -> its notes."""
    return {check.name: "; ".join(check.notes) for check in verify_run(run).checks if check.notes}


def reader_of(run: RunDir) -> BatchReader:
    """Reads what the run has trained on."""
    config = load_config(run.config)
    return training_reader(config, plan_data(config))


def rewrite(run: RunDir, change: Callable[[list[Sums]], None]) -> None:
    """Change the records of the ledger, with a chain that holds, as a trainer would write it that went wrong."""
    ledger = read_ledger(run.ledger)
    records = [ledger.sums(step) for step in range(1, ledger.last + 1)]
    change(records)
    chain, content = ledger.before, pack_header(1, ledger.before)
    for step, sums in enumerate(records, 1):
        chain = link(chain, step, sums)
        content += pack_record(sums, chain)
    run.ledger.write_bytes(content)


def restate(folder: Path, **fields: Any) -> None:
    """Change fields of a checkpoint's trainer.json, or leave out those that are None, and seal it anew."""
    state = json.loads((folder / "trainer.json").read_text()) | fields
    durable.write_json(folder / "trainer.json", {name: value for name, value in state.items() if value is not None})
    reseal(folder)


def reseal(folder: Path) -> None:
    """A manifest that fits what is there now."""
    (folder / durable.MANIFEST).unlink()
    durable.seal(folder)


def flip(path: Path, place: int) -> None:
    """Flip one bit."""
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)
