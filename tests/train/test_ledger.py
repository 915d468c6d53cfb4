"""The sample ledger: the same whoever reads and whatever is interrupted, and continued only where it leads on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.train.conftest import NewTrial, Trial, tokens_that_can_be_learnt, write_dataset
from tmrc.config.errors import DataError
from tmrc.config.load import load_config
from tmrc.data.plan import plan_data
from tmrc.train.feed import read_share, share_of
from tmrc.train.ledger import Sums, altered_position, link, pack_header, pack_record, read_ledger, sums_of
from tmrc.train.samples import training_reader

Train = Callable[..., Trial]
SAVING = ["training.save_every=1e-9", "training.keep_checkpoints=9"]


@pytest.mark.parametrize(("processes", "micro"), [(1, 8), (1, 1), (2, 2), (4, 1)])
def test_the_sums_do_not_depend_on_who_reads_what(new_trial: NewTrial, processes: int, micro: int) -> None:
    config = load_config(new_trial().run.config)
    reader = training_reader(config, plan_data(config))
    items = reader.samples(3)
    expected = sums_of(items, reader.read(items), 0)
    total = Sums()
    for rank in range(processes):
        for host in read_share(reader, share_of(rank, processes, 8, micro), 3, False):
            total = total + host.sums
    assert total == expected


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.data())
def test_one_altered_sequence_is_located(count: int, data: st.DataObject) -> None:
    items = np.arange(count) * 3
    tokens = np.arange(count * 4, dtype=np.int32).reshape(count, 4)
    before = sums_of(items, tokens, 0)
    position = data.draw(st.integers(0, count - 1))
    tokens[position, data.draw(st.integers(0, 3))] += 1 + data.draw(st.integers(0, 1000))
    assert altered_position(before, sums_of(items, tokens, 0), count) == position
    assert altered_position(before, before, count) is None


def test_order_and_contents_are_told_apart() -> None:
    tokens = np.arange(8, dtype=np.int32).reshape(2, 4)
    one, swapped = sums_of(np.array([5, 9]), tokens, 0), sums_of(np.array([9, 5]), tokens[::-1], 0)
    assert one.content == swapped.content and one.order != swapped.order and one.place != swapped.place
    other = sums_of(np.array([5, 9]), tokens + 1, 0)
    assert one.order == other.order and one.content != other.content


def test_every_flipped_bit_of_a_record_is_that_records(tmp_path: Path) -> None:
    chain, content = b"origin..", pack_header(1, b"origin..")
    for step in range(1, 6):
        sums = Sums(step, step * 7, step * 9)
        chain = link(chain, step, sums)
        content += pack_record(sums, chain)
    path = tmp_path / "ledger.bin"
    for bit in range(0, 8 * len(content), 5):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        if bit < 8 * 32:
            with pytest.raises(DataError):
                read_ledger(path)
        else:
            assert read_ledger(path).broken() == [bit // 256]
            assert not read_ledger(path).leads_to(5, chain.hex())
    path.write_bytes(content[:-40])
    assert read_ledger(path).last == 3 and len(read_ledger(path).rest) == 24
    assert read_ledger(path).broken() == []


def test_a_checkpoint_names_the_head_and_a_record_is_32_bytes(train: Train) -> None:
    trial = train(*SAVING, "training.micro_batch_size=2")
    ledger = read_ledger(trial.run.ledger)
    assert (ledger.first, ledger.last, len(trial.ledger)) == (1, 6, 32 * 7)
    for step in trial.saved_steps():
        state = (trial.run.checkpoints / f"step_{step:08d}" / "trainer.json").read_text()
        assert f'"{ledger.head(step).hex()}"' in state
    assert train("training.micro_batch_size=8").ledger == trial.ledger
    assert train("training.seed=1").ledger != trial.ledger


@pytest.mark.parametrize("damage", ["cut", "flip", "missing", "other", "header"])
def test_a_ledger_that_does_not_lead_on_is_set_aside(
    train: Train, new_trial: NewTrial, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    trial = train(*SAVING)
    whole = trial.ledger
    (trial.run.checkpoints / "step_00000006" / "model.safetensors").write_bytes(b"")
    (trial.run.checkpoints / "step_00000005" / "model.safetensors").write_bytes(b"")
    content = bytearray(whole)
    content[70] ^= 4 * (damage == "flip")
    content[10] ^= 4 * (damage == "header")
    content = content[: 32 * 3] if damage == "cut" else content
    trial.run.ledger.write_bytes(content if damage != "other" else b"something else")
    if damage == "missing":
        trial.run.ledger.unlink()
    train(again=trial)
    assert "another one begins after step 4" in capfd.readouterr().err
    (event,) = trial.events("ledger")
    assert event["step"] == 4 and "ledger.bin" in event["problem"]
    kept = list(trial.run.path.glob("ledger.damaged_1.bin"))
    assert len(kept) == (damage != "missing")
    assert trial.ledger[32:] == whole[32 * 5 :]
    again = read_ledger(trial.run.ledger)
    assert (again.first, again.last) == (5, 6)
    assert again.leads_to(6, read_state(trial, 6)["ledger"])


def test_a_run_from_before_there_were_ledgers_goes_on(train: Train) -> None:
    trial = train(*SAVING)
    forget(trial, 6)
    trial.run.ledger.unlink()
    trial.run.data.unlink()
    change(trial, "training.train_steps=8")
    train(again=trial)
    ledger = read_ledger(trial.run.ledger)
    assert (ledger.first, ledger.last) == (7, 8)
    assert not trial.events("ledger") and trial.run.data.is_file()
    change(trial, "training.train_steps=9")
    train(again=trial)
    assert read_ledger(trial.run.ledger).leads_to(9, read_state(trial, 9)["ledger"])


def test_edited_data_stop_a_resume_and_touched_data_do_not(
    train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = write_dataset(tmp_path / "data", [tokens_that_can_be_learnt(16 * 60), tokens_that_can_be_learnt(16 * 30, 1)])
    trial = train(f"datasets.path={data}")
    shard = data / "tiny_0.bin"
    shard.touch()
    change(trial, "training.train_steps=7")
    train(again=trial)
    assert "tiny_0.bin has been touched since the run began; what the last 6 steps read is the same" in (
        capfd.readouterr().err
    )
    config = load_config(trial.run.config)
    reader = training_reader(config, plan_data(config))
    item = int(reader.samples(4)[2])
    where = reader.locate(item)
    content = bytearray((data / where.split()[0]).read_bytes())
    content[32 * int(where.split()[-1]) + 2] ^= 1
    (data / where.split()[0]).write_bytes(content)
    before = trial.ledger
    change(trial, "training.train_steps=8")
    train(again=trial, expect=2)
    assert f"{where}, which step 5 used at position 2 of its batch, holds other tokens" in capfd.readouterr().err
    assert trial.ledger == before


def read_state(trial: Trial, step: int) -> dict[str, str]:
    """What the checkpoint of `step` says of the trainer."""
    import json

    found: dict[str, str] = json.loads((trial.run.checkpoints / f"step_{step:08d}" / "trainer.json").read_text())
    return found


def forget(trial: Trial, step: int) -> None:
    """Take the ledger's head out of a checkpoint, as an older tmrc has written it."""
    from tmrc.train import durable

    folder = trial.run.checkpoints / f"step_{step:08d}"
    state = {key: value for key, value in read_state(trial, step).items() if key != "ledger"}
    durable.write_json(folder / "trainer.json", state)
    (folder / durable.MANIFEST).unlink()
    durable.seal(folder)


def change(trial: Trial, *overrides: str) -> None:
    """Go on with another configuration."""
    from tmrc.config.load import write_config

    write_config(load_config(trial.run.config, overrides), trial.run.config)
