"""`tmrc verify` on the ledger and the data: skips, repeats, exchanges, edited shards."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.faults.verify.helpers import STEPS, Train, faults, flip, notes, reader_of, restate, rewrite
from tmrc.config.load import load_config, write_config
from tmrc.config.rundir import RunDir
from tmrc.data.plan import plan_data
from tmrc.train import durable, feed
from tmrc.train.ledger import Sums, order_sums, origin, pack_header, read_ledger
from tmrc.verify.run import verify_run


@pytest.mark.parametrize(
    ("shift", "words"),
    [
        (lambda step: step - (step == 11), "step 12 used the samples of step 11 again"),
        (lambda step: step + (step >= 11), "the samples of step 12 were skipped"),
        (lambda step: step - (step >= 11), "the samples of step 11 were used again"),
        (lambda step: {10: 11, 11: 10}.get(step, step), "steps 11 and 12 used each other's samples"),
    ],
)
def test_a_feed_that_goes_wrong_is_found(
    train: Train, monkeypatch: pytest.MonkeyPatch, shift: Callable[[int], int], words: str
) -> None:
    read_share = feed.read_share
    monkeypatch.setattr(
        feed, "read_share", lambda reader, share, step, pin: read_share(reader, share, shift(step), pin)
    )
    trial = train("training.train_steps=16", "training.log_interval=8", "training.val_interval=0")
    found = faults(trial.run)
    assert list(found) == ["order"]
    assert words in found["order"][0] and len(found["order"]) == 1


def test_records_that_were_changed_are_named(run: RunDir) -> None:
    def change(records: list[Sums]) -> None:
        records[4] = records[4]._replace(order=5)
        reader = reader_of(run)
        items = reader.samples(8).copy()
        items[[2, 5]] = items[[5, 2]]
        records[8] = records[8]._replace(order=int(order_sums(items[None])[0]))
        records[15] = records[15]._replace(content=3)

    rewrite(run, change)
    found = faults(run)
    assert found["order"][0] == "step 5 used samples that are no step's"
    assert found["order"][1].endswith("positions 2 and 5 of its batch have changed places")
    assert "step 16" in found["tokens"][0] and len(found["tokens"]) == 1
    assert "does not lead to step_00000024" in found["ledger"][-1]


@pytest.mark.parametrize("keeps_time", [True, False])
def test_an_edited_shard_is_located(run: RunDir, shard: Path, keeps_time: bool) -> None:
    reader = reader_of(run)
    step, position = next(
        (step, position)
        for step in range(STEPS)
        for position, item in enumerate(reader.samples(step))
        if reader.locate(int(item)).startswith(shard.name)
    )
    where = reader.locate(int(reader.samples(step)[position]))
    before, content = shard.stat(), bytearray(shard.read_bytes())
    content[2 * 16 * int(where.split()[-1])] ^= 1
    with shard.open("r+b") as file:
        file.write(content)
    if keeps_time:
        os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    found = faults(run)
    assert list(found) == ["tokens"]
    assert found["tokens"][0].startswith(f"{where}, which step {step + 1} used at position {position} of its batch")
    assert notes(run)["shards"] == "tiny_1.bin has been touched since the run began"
    assert faults(run, read_data=False) == {}
    with shard.open("r+b") as file:
        file.write(np.roll(np.frombuffer(shard.read_bytes(), "<u2"), 1).tobytes())
    lines = faults(run)["tokens"]  # however many steps used it, this is one edit
    assert [line.startswith("tiny_1.bin: ") for line in lines] == [True]
    assert re.search(r"\d+ of 24 steps were trained on other tokens than their sequences hold now \(steps ", lines[0])


def test_touched_and_resized_shards(run: RunDir, shard: Path) -> None:
    shard.touch()
    assert faults(run) == {}
    summaries = {check.name: check.summary for check in verify_run(run).checks}
    assert summaries["shards"] == "2 shards, of the sizes that they had when the run began"
    touched = "tiny_1.bin has been touched since the run began"
    assert notes(run)["shards"] == f"{touched}; what was trained on is as it was"
    (unread,) = (check.notes for check in verify_run(run, read_data=False).checks if check.name == "shards")
    assert unread == (f"{touched}; the tokens were not compared",)
    begun = run.events.read_text().splitlines(keepends=True)[:1]
    run.events.write_text("".join(begun))  # a run that goes on may read sequences that nothing is known of
    assert notes(run)["shards"].endswith(" have not been trained on yet and cannot be compared")
    with shard.open("ab") as file:
        file.write(b"\x05\x00" * 40)
    found = faults(run)
    assert list(found) == ["shards"] and "tiny_1.bin has 1,346 bytes instead of 1,266" in found["shards"][0]


def test_a_damaged_ledger(run: RunDir) -> None:
    whole = run.ledger.read_bytes()
    flip(run.ledger, 32 * 7 + 3)
    assert faults(run) == {"ledger": ("the record of step 7 is damaged",)}
    run.ledger.write_bytes(whole[: 32 * 21 + 5])
    assert faults(run) == {
        "ledger": tuple(f"it ends at step 20, before step_000000{step}: it was cut off" for step in (23, 24))
    }
    run.ledger.write_bytes(whole[:20])
    assert "cut off in its header" in faults(run)["ledger"][0]
    run.ledger.unlink()
    assert "is missing" in faults(run)["ledger"][0]


def test_another_seed_in_the_configuration(run: RunDir) -> None:
    write_config(load_config(run.config, ["training.seed=9"]), run.config)
    found = faults(run)
    assert "begun with another seed" in found["ledger"][0]
    assert len(found["order"]) >= 1


def test_a_run_from_before_the_ledger(run: RunDir, shard: Path) -> None:
    run.ledger.unlink()
    run.data.unlink()
    for folder in run.checkpoints.glob("step_*"):
        restate(folder, ledger=None)
    run.events.write_text(run.events.read_text().replace('"ledger"', '"none"'))
    assert faults(run) == {}
    by_name = {check.name: check for check in verify_run(run).checks}
    assert by_name["ledger"].verdict == "-" and "before there were ledgers" in by_name["ledger"].summary
    with shard.open("ab") as file:
        file.write(b"\x05\x00" * 40)
    assert faults(run) == {"shards": ("they are not those of the checkpoints (data_fingerprint)",)}


def test_a_set_aside_ledger_is_mentioned(run: RunDir) -> None:
    ledger = read_ledger(run.ledger)
    content = pack_header(11, ledger.head(10)) + run.ledger.read_bytes()[32 * 11 :]
    run.ledger.rename(run.path / "ledger.damaged_1.bin")
    run.ledger.write_bytes(content)
    assert faults(run) == {}
    assert "ledger.damaged_1.bin; steps 1 to 10 have no record" in notes(run)["ledger"]


def test_the_chain_begins_with_what_fixes_the_order(run: RunDir) -> None:
    config = load_config(run.config)
    assert read_ledger(run.ledger).before == origin(config, plan_data(config).fingerprint)


def test_a_copied_data_set_that_reads_the_original(run: RunDir, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "data", tmp_path / "copy")
    write_config(load_config(run.config, [f"datasets.path={tmp_path / 'copy'}"]), run.config)
    durable.write_json(run.allowed, {"datasets.path": str(tmp_path / "copy")})
    assert faults(run) == {}
    assert str(finished / "data") in notes(run)["shards"]
