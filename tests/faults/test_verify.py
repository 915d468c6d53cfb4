"""`tmrc verify` names what was planted: in the ledger, the data, the checkpoints and the metrics of a run."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launch.against import compared
from launch.cli.verify import lines_of
from tests.faults.calls import Said, call
from tests.train.conftest import (
    TINY,
    NewTrial,
    Trial,
    spawn,
    tokens_that_can_be_learnt,
    training_here,
    write_dataset,
)
from tmrc.config.load import load_config, write_config
from tmrc.config.rundir import RunDir
from tmrc.data.batches import BatchReader
from tmrc.data.plan import plan_data
from tmrc.train import durable, feed, loop
from tmrc.train.ledger import Sums, link, order_sums, origin, pack_header, pack_record, read_ledger
from tmrc.train.samples import training_reader
from tmrc.verify.run import verify_run

Train = Callable[..., Trial]
STEPS, BATCH = 24, 8
MORE = ["training.train_steps=24", "training.log_interval=4", "training.val_interval=8"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with data of two shards and a run that has finished, in this process."""
    folder = tmp_path_factory.mktemp("verify")
    shards = [tokens_that_can_be_learnt(16 * 60 - 5), tokens_that_can_be_learnt(16 * 40 - 7, 1)]
    data = write_dataset(folder / "data", shards)
    run = RunDir(folder / "run")
    run.path.mkdir()
    write_config(load_config("default", [*TINY, f"datasets.path={data}", *MORE]), run.config)
    with training_here() as train_run, pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Loop, "_save_is_due", lambda self: self.progress.step == STEPS - 2)
        assert train_run(run) == 0
    assert [check.verdict for check in verify_run(run).checks] == ["ok"] * 9
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> RunDir:
    """A copy of the finished run, on the same data."""
    return RunDir(Path(shutil.copytree(finished / "run", tmp_path / "run")))


@pytest.fixture
def shard(finished: Path) -> Iterator[Path]:
    """A shard that is mended afterwards."""
    path = finished / "data" / "tiny_1.bin"
    content, before = path.read_bytes(), path.stat()
    yield path
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


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


def test_the_command(run: RunDir, finished: Path) -> None:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "launch.cli.main", "verify", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    good = call(str(finished / "run"))
    assert (good.returncode, good.stderr) == (0, "")
    assert "24 records, the chain holds" in good.stdout and "FAULT" not in good.stdout
    what = "24 steps, 2 checkpoints and 11 metrics rows; the run has finished at step 24"
    assert good.stdout.splitlines()[-1] == f"  sound: no fault in {what}"
    (run.checkpoints / "step_00000024" / "trainer.json").unlink()
    bad = call(str(finished / "run"), str(run.path), "--json", "--no-data")
    first, second = json.loads(bad.stdout)
    assert (bad.returncode, first["good"], second["good"]) == (1, True, False)
    by_name = {check["name"]: check for check in second["checks"]}
    assert by_name["checkpoints"]["faults"] == ["step_00000024: trainer.json is missing"]
    assert by_name["tokens"]["verdict"] == "-"
    assert second["faults"] == 1
    assert second["conclusion"] == f"NOT SOUND: 1 fault (checkpoints 1) in {what}; not checked: tokens"
    nothing = call(str(finished / "data"))
    assert nothing.returncode == 2 and len(nothing.stderr.splitlines()) == 1


def test_no_torch_is_loaded() -> None:
    code = "import sys, tmrc.verify.run, launch.against; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


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


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "trainer.json", "manifest.json"])
def test_a_flipped_bit_in_a_checkpoint(run: RunDir, name: str) -> None:
    path = run.checkpoints / "step_00000023" / name
    flip(path, path.stat().st_size // 2)
    found = faults(run)
    assert list(found) == ["checkpoints"]
    assert found["checkpoints"][0].startswith(f"step_00000023: {name} is damaged")


def test_a_trainer_state_that_lies(run: RunDir) -> None:
    restate(run.checkpoints / "step_00000023", step=22, sequences=1, ledger="00" * 8)
    found = faults(run)
    assert found["trainer state"] == (
        "step_00000023: its trainer.json is of step 22",
        "step_00000023: its trainer.json counts 1 sequences instead of 184 (23 x 8)",
    )
    assert found["ledger"][0].startswith("it does not lead to step_00000023")


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


def test_rows_of_metrics(run: RunDir) -> None:
    lines = run.metrics.read_text().splitlines(keepends=True)  # 0v 1 4 8 8v 12 16 16v 20 24 24v

    def with_lines(changed: list[str]) -> tuple[str, ...]:
        run.metrics.write_text("".join(changed))
        return faults(run).get("metrics", ())

    assert with_lines(lines[:3] + lines[4:]) == ("step 8 is missing",)
    assert with_lines(lines[:4] + lines[5:]) == ("the validation of step 8 is missing",)
    assert with_lines(lines[:-1]) == ("the validation of step 24 is missing",)
    assert with_lines(lines[:4] + lines[3:]) == ("step 8 stands there twice (lines 4 and 5)",)
    assert "stands after" in with_lines([*lines[:5], lines[6], lines[5], *lines[7:]])[0]
    other = lines[5].replace('"step": 12', '"step": 13')
    found = with_lines([*lines[:5], other, *lines[6:]])
    assert found[0] == "step 12 is missing" and "is none that log_interval asks for" in found[1]
    assert "step 12: lr is 0.02 instead of 0.01" in with_lines(
        [*lines[:5], lines[5].replace('"lr": 0.01', '"lr": 0.02'), *lines[6:]]
    )
    assert "step 12: tokens is 7 instead of 1536" in with_lines(
        [*lines[:5], lines[5].replace('"tokens": 1536', '"tokens": 7'), *lines[6:]]
    )
    assert with_lines([*lines[:2], "{what\n", *lines[2:]]) == ("line 3 is no row",)
    beyond = lines[-2].replace('"step": 24', '"step": 28')
    assert any("is beyond the last step, 24" in line for line in with_lines([*lines, beyond]))
    assert with_lines([*lines, '{"step": 28, "lo']) == ("its last row is cut off, though the run has finished",)


def test_a_run_that_was_killed_changed_and_extended(new_trial: NewTrial, train: Train) -> None:
    """Rows and records after the newest checkpoint may be there or not; log_interval and the end may change."""
    trial = train(*MORE, "training.scheduler=cosine", "training.train_steps=10")
    kept = trial.run.attempt(1)
    shutil.copy(trial.run.config, kept / "config.yaml")
    changed = ["training.train_steps=15", "training.log_interval=3"]
    write_config(load_config(trial.run.config, changed), trial.run.config)
    train(again=trial)
    assert trial.steps == [1, 4, 8, 10, 12, 15]
    assert faults(trial.run) == {}
    shutil.rmtree(trial.run.checkpoints / "step_00000015")
    assert faults(trial.run) == {"events": ("step_00000015 was written, but is not there",)}
    events = trial.run.events.read_text().splitlines(keepends=True)
    trial.run.events.write_text("".join(line for line in events[:-1] if '"step": 15' not in line))
    trial.run.metrics.write_text("".join(trial.run.metrics.read_text().splitlines(keepends=True)[:-3]))
    trial.run.ledger.write_bytes(trial.ledger[:-50])
    assert faults(trial.run) == {}
    with trial.run.metrics.open("a") as file:
        file.write('{"step": 15, "lo')  # a line that is being written
    assert faults(trial.run) == {} and "its last row is not whole yet" in notes(trial.run)["metrics"]
    assert "; the run has not finished" in verify_run(trial.run).conclusion
    (kept / "config.yaml").write_text("training: [")
    assert list(faults(trial.run)) == ["configuration"]
    assert (
        len(faults(trial.run)["configuration"]) == 1
        and "attempts/1/config.yaml" in faults(trial.run)["configuration"][0]
    )


@pytest.mark.campaign
def test_a_run_that_goes_on_and_is_killed_has_no_faults(new_trial: NewTrial) -> None:
    trial = new_trial("training.save_every=0.05", "training.train_steps=500", "training.log_interval=3")
    for seconds in (20, 20, 120):
        process, end = spawn(trial), time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < end:
            assert faults(trial.run) == {}
        process.kill()
        process.wait()
        assert faults(trial.run) == {}


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


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6))
def test_whatever_is_in_the_files_there_is_no_traceback(finished: Path, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    folder = tmp_path / str(seed)
    shutil.rmtree(folder, ignore_errors=True)
    run = RunDir(Path(shutil.copytree(finished / "run", folder)))
    files = sorted(path for path in run.path.rglob("*") if path.is_file())
    for path in chance.sample(files, chance.randint(1, 4)):
        damage(path, chance)
    verified = verify_run(run)
    assert not any(
        "cannot be checked: " in fault and "Error" in fault for one in verified.checks for fault in one.faults
    )
    assert json.dumps(verified.as_object())
    shutil.rmtree(folder)


def damage(path: Path, chance: random.Random) -> None:
    """Do to a file what disks, people and attackers do."""
    content = path.read_bytes()
    kind = chance.randrange(6)
    if kind == 0 and content:
        flip(path, chance.randrange(len(content)))
    elif kind == 1:
        path.write_bytes(content[: chance.randint(0, len(content))])
    elif kind == 2:
        path.unlink()
        path.mkdir()
    elif kind == 3:
        path.write_bytes(chance.choice([b"", b"[]", b"{}\n" * 3, b"null\n", b"[" * 5000, b"\xff\xfe\x00" * 9]))
    elif kind == 4:
        words = [b"true", b"-1", b"1e999", b'"x"', b"[1]", b"9" * 40, b"null"]
        path.write_bytes(content.replace(str(chance.randrange(30)).encode(), chance.choice(words)))
    else:
        path.unlink()


def flip(path: Path, place: int) -> None:
    """Flip one bit."""
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def test_the_chain_begins_with_what_fixes_the_order(run: RunDir) -> None:
    config = load_config(run.config)
    assert read_ledger(run.ledger).before == origin(config, plan_data(config).fingerprint)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"step": 23.0}, "step of its trainer.json is of type float"),
        ({"validation_due": 1}, "validation_due of its trainer.json is of type int"),
        ({"threads": None}, "has no threads"),
        ({"validation_due": None}, "has no validation_due"),
        ({"config": None}, "has no config"),
        ({"config": {}}, "does not note 'datasets.allow_mismatch', 'datasets.eos_token', "),
        ({"other": 1}, "'other', which is none of its fields"),
        ({"ledger": ""}, "does not name the ledger"),
        ({"data_fingerprint": "0" * 16}, "its data_fingerprint is"),
        ({"validation_due": True}, "no validation belongs to its step"),
        ({"world_size": 3}, "its world_size, 3, does not divide"),
        ({"world_size": 2, "micro_batch_size": 8}, "its micro_batch_size, 8, does not divide"),
    ],
)
def test_a_state_without_its_form(run: RunDir, fields: dict[str, Any], words: str) -> None:
    restate(run.checkpoints / "step_00000023", **fields)
    found = faults(run, read_data=False)
    assert list(found) == ["trainer state"] and words in found["trainer state"][0]


def test_tensors_and_files_of_a_checkpoint(run: RunDir) -> None:
    folder = run.checkpoints / "step_00000024"
    (folder / "more.txt").write_text("x")
    reseal(folder)
    assert faults(run, read_data=False) == {}
    assert notes(run)["checkpoints"] == "step_00000024: 'more.txt' is none of its files"
    model, content = folder / "model.safetensors", (folder / "model.safetensors").read_bytes()
    for rubbish in (
        b"",
        b"\xff" * 40,
        content[:-4],
        content + b"1",
        content.replace(b"F32", b"F16", 1),
        b"\2" + bytes(7) + b"{}",
    ):
        model.write_bytes(rubbish)
        reseal(folder)
        assert faults(run, read_data=False)["checkpoints"][0].startswith("step_00000024: model.safetensors ")


def test_what_a_finished_run_must_have(run: RunDir) -> None:
    """The same without checkpoints, which would tell."""
    write_config(load_config(run.config, ["training.save_model=false"]), run.config)
    shutil.rmtree(run.checkpoints)
    events = [line for line in run.events.read_text().splitlines(keepends=True) if '"checkpoint"' not in line]
    run.events.write_text("".join(events))
    whole, rows, data = run.ledger.read_bytes(), run.metrics.read_bytes(), run.data.read_bytes()
    assert faults(run) == {}
    run.ledger.write_bytes(whole[: -32 * 2])
    assert faults(run) == {"ledger": ("it ends at step 22, but the run has finished at step 24: it was cut off",)}
    run.ledger.write_bytes(whole + b"junk")
    assert faults(run) == {"ledger": ("after its last record there are 4 bytes that are none",)}
    with run.ledger.open("r+b") as file:
        file.truncate(3 << 30)
    assert "more than the" in faults(run)["ledger"][0]
    run.ledger.unlink()
    assert list(faults(run)) == ["ledger"]
    run.data.unlink()
    assert list(faults(run)) == ["ledger"]
    run.ledger.write_bytes(whole)
    assert faults(run) == {"shards": ("data.json is missing, though there is a ledger",)}
    run.data.write_bytes(data)
    with run.metrics.open("r+b") as file:
        file.truncate(20 << 30)
    assert "it was not read" in faults(run)["metrics"][0]
    run.metrics.unlink()
    assert faults(run) == {"metrics": ("metrics.jsonl is missing, though the run has finished at step 24",)}
    run.metrics.write_bytes(rows)
    run.events.write_text(events[0] + "{rubbish}\n" + events[1])
    assert faults(run) == {"events": ("line 2 is no row",)}
    run.events.write_text(events[0] + events[1][:30] + "\n" + events[1] + events[1][:20])
    assert faults(run) == {} and notes(run)["events"] == (
        "line 2 of events.jsonl was cut off; the last line of events.jsonl is cut off"
    )
    run.events.write_text(events[0] + events[1].replace('"step": 24', '"step": 20'))
    assert any("finished at step 20, but its last step is 24" in line for line in faults(run)["events"])
    run.events.unlink()
    assert "events.jsonl is missing or empty" in faults(run)["events"][0]


def test_without_its_configuration_a_run_has_that_one_fault(run: RunDir) -> None:
    run.config.unlink()
    assert faults(run) == {"configuration": (f"{run.config}: is missing",)}
    told = {check.name: (check.verdict, check.summary) for check in verify_run(run).checks}
    without = ("-", "cannot be checked without the configuration")
    assert told["order"] == told["tokens"] == told["shards"] == without
    assert "no gap" not in told["metrics"][1]


def test_attempts_that_left_no_event_are_counted(run: RunDir) -> None:
    for number in (2, 3):
        run.attempt(number).mkdir()
    summary = {check.name: check.summary for check in verify_run(run, read_data=False).checks}["events"]
    assert summary == "3 attempts, of which 1 began to train; the newest checkpoint is there"


@pytest.mark.parametrize("name", ["ledger.bin", "data.json", "checkpoints/step_00000023"])
def test_what_has_another_kind_is_not_taken_for_missing(run: RunDir, name: str) -> None:
    path = run.path / name
    if path.is_dir():
        shutil.rmtree(path)
        path.touch()
    else:
        path.unlink()
        os.mkfifo(path)
    ((fault,),) = faults(run, read_data=False).values()
    assert "is not a file" in fault or "this is not a directory" in fault


def test_a_list_of_permissions_that_cannot_be_read_is_mentioned(run: RunDir) -> None:
    run.allowed.write_text("{")
    assert faults(run, read_data=False) == {} and "allowed.json cannot be read" in notes(run)["configuration"]


def test_many_faults_are_counted_and_some_are_listed(run: RunDir) -> None:
    with run.metrics.open("a") as file:
        file.write("rubbish\n" * 50)
    verified = verify_run(run, read_data=False)
    listed = next(check["faults"] for check in verified.as_object()["checks"] if check["faults"])
    assert verified.faults == 50 and (len(listed), listed[-1]) == (21, "and 30 more")


def test_the_end_of_a_finished_run_that_was_set_aside(run: RunDir) -> None:
    (run.checkpoints / "step_00000024").rename(run.checkpoints / "damaged_step_00000024")
    assert "was set aside as damaged" in faults(run)["events"][0]


def test_numbers_of_a_row(run: RunDir) -> None:
    lines = run.metrics.read_text().splitlines(keepends=True)
    for name, value, words in (
        ("epoch", 7, "step 12: epoch is 7 instead of"),
        ("epoch", None, "step 12: epoch is None instead of"),
        ("grad_norm", None, "step 12: grad_norm is missing"),
        ("loss", float("nan"), "step 12: loss is no finite number"),
        ("lr", 10**400, "step 12: lr is"),
    ):
        row = {key: one for key, one in (json.loads(lines[5]) | {name: value}).items() if one is not None}
        run.metrics.write_text("".join([*lines[:5], json.dumps(row) + "\n", *lines[6:]]))
        (line,) = faults(run, read_data=False)["metrics"]
        assert line.startswith(words)


def test_an_edited_configuration_is_told_from_one_that_was_let_change(run: RunDir) -> None:
    write_config(load_config(run.config, ["optimizer.lr=0.02", "training.warmup_steps=1"]), run.config)
    (line,) = faults(run)["configuration"]
    assert "optimizer.lr from 0.01 to 0.02" in line and "training.warmup_steps" in line
    durable.write_json(run.allowed, {"optimizer.lr": 0.02, "training.warmup_steps": 1})
    assert "configuration" not in faults(run)


def test_a_copied_data_set_that_reads_the_original(run: RunDir, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "data", tmp_path / "copy")
    write_config(load_config(run.config, [f"datasets.path={tmp_path / 'copy'}"]), run.config)
    durable.write_json(run.allowed, {"datasets.path": str(tmp_path / "copy")})
    assert faults(run) == {}
    assert str(finished / "data") in notes(run)["shards"]


def test_an_edited_learning_rate_is_one_fault_of_the_metrics(run: RunDir) -> None:
    write_config(load_config(run.config, ["optimizer.lr=0.02"]), run.config)
    assert faults(run)["metrics"] == (
        "steps 1 to 24: lr is not what the configuration gives (step 1: 0.01 instead of 0.02)",
    )


def test_numbers_that_are_wrong_in_the_same_way_are_grouped(run: RunDir) -> None:
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]  # 0v 1 4 8 8v 12 16 16v 20 24 24v
    for place in (2, 3, 6):
        rows[place]["tokens"] = 7
    for place in (4, 7):
        rows[place]["val_loss"] = float("nan")
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert faults(run)["metrics"] == (
        "steps 4 and 8: tokens is not what the configuration gives (step 4: 7 instead of 512)",
        "the validations of steps 8 and 16: val_loss is no finite number",
        "step 16: tokens is 7 instead of 2048",
    )


def test_rows_that_are_not_asked_for_are_one_fault(run: RunDir) -> None:
    write_config(load_config(run.config, ["training.log_interval=8"]), run.config)
    assert faults(run)["metrics"] == ("steps 4, 12 and 20 are none that log_interval asks for",)


def test_what_was_changed_with_consent_is_told(train: Train) -> None:
    trial = train("training.train_steps=8", "training.val_interval=0")
    for attempt, (steps, rate) in enumerate(((10, 0.02), (12, 0.03)), 1):
        shutil.copy(trial.run.config, trial.run.attempt(attempt) / "config.yaml")
        changed = [f"training.train_steps={steps}", f"optimizer.lr={rate}"]
        write_config(load_config(trial.run.config, changed), trial.run.config)
        durable.write_json(trial.run.allowed, {"optimizer.lr": rate})
        waiting = f"optimizer.lr was let change from {rate - 0.01:.2f} to {rate} for the next attempt"
        assert faults(trial.run) == {} and notes(trial.run)["configuration"].endswith(waiting)
        train(again=trial)
    assert faults(trial.run) == {}
    told = [
        f"optimizer.lr was let change from {a} to {b} at step {n}" for a, b, n in ((0.01, 0.02, 8), (0.02, 0.03, 10))
    ]
    assert notes(trial.run) == {"configuration": "; ".join(told)}


@pytest.mark.parametrize("width", [60, 100])
def test_long_lines_are_broken_between_words_on_a_terminal(run: RunDir, width: int) -> None:
    (run.checkpoints / "step_00000024" / "trainer.json").unlink()
    write_config(load_config(run.config, ["optimizer.lr=0.02", "training.warmup_steps=1"]), run.config)
    verified = verify_run(run, read_data=False)
    whole, narrow = lines_of(verified, None, colour=False), lines_of(verified, width, colour=False)
    assert max(map(len, whole)) > 100 >= width >= max(map(len, narrow[1:]))
    assert " ".join(" ".join(narrow).split()) == " ".join(" ".join(whole).split())
    columns = whole[1].index(verified.checks[0].faults[0])
    body = narrow[1 : next(n for n, line in enumerate(narrow) if line.startswith("  NOT SOUND"))]
    starts = [line[columns:].index(line[columns:].split()[0]) for line in body]
    assert {*starts} == {0, 2} and all(line[columns - 1] == " " for line in body)
    assert [click.unstyle(line) for line in lines_of(verified, width, colour=True)] == narrow


def test_two_runs_are_compared(run: RunDir, finished: Path) -> None:
    other = str(finished / "run")

    def against(*more: str) -> Said:
        return call("tmrc", "verify", str(run.path), "--no-data", "--against", other, *more)

    same = f"equal to {other}, bit for bit: 24 steps, weights, optimizer state, samples"
    said = against()
    assert (said.code, said.out.splitlines()[-1]) == (0, f"  {same}")
    assert "configuration  ok" in said.out
    (found,) = json.loads(against("--json").out)
    assert found["against"] == {"run_id": "run", "run_dir": other, "equal": True, "steps": 24, "conclusion": same}
    lines = run.metrics.read_text().splitlines(keepends=True)
    row = json.loads(lines[5])
    run.metrics.write_text("".join([*lines[:5], json.dumps(row | {"loss": 2.5}) + "\n", *lines[6:]]))
    line = f"differs from {other}: step 12: loss in metrics.jsonl is 2.5, there {row['loss']!r}"
    said = against()
    assert (said.code, said.out.splitlines()[-1]) == (1, f"  {line}")
    (found,) = json.loads(against("--json").out)
    assert found["good"] and not found["against"]["equal"] and found["against"]["conclusion"] == line


def test_where_two_runs_differ(run: RunDir, finished: Path) -> None:
    there = RunDir(finished / "run")

    def differs(one: RunDir, other: RunDir) -> str:
        return compared(one, other).conclusion.removeprefix(f"differs from {other.path}: ")

    model = run.checkpoints / "step_00000024" / "model.safetensors"
    flip(model, model.stat().st_size - 3)
    flawed = "checkpoints/step_00000024/model.safetensors{} is not what its manifest says"
    assert differs(run, there) == flawed.format("")
    assert differs(there, run) == flawed.format(" there")
    reseal(model.parent)
    assert re.fullmatch(r"step 24: \S+\[[0-9, ]+\] in checkpoints/\S+ is \S+, there \S+", differs(run, there))
    shutil.rmtree(model.parent)
    assert differs(run, there) == "its newest checkpoint is step_00000023, there step_00000024"
    shutil.rmtree(run.checkpoints)
    assert differs(run, there) == "it has no checkpoint"
    assert differs(there, run) == "there is no checkpoint there"
    rewrite(run, lambda records: records.__delitem__(-1))
    assert differs(run, there) == "it has records of 23 steps in ledger.bin, there 24"
    run.ledger.unlink()
    assert differs(run, there) == "it has no ledger.bin"
    assert differs(there, run) == "there is no ledger.bin there"
    run.metrics.write_text("".join(run.metrics.read_text().splitlines(keepends=True)[:-3]))
    assert differs(run, there) == "it has 8 rows in metrics.jsonl, there 11"


def test_runs_that_are_configured_otherwise_may_be_equal(run: RunDir, finished: Path) -> None:
    folder = run.checkpoints / "step_00000024"
    config = json.loads((folder / "trainer.json").read_text())["config"]
    restate(folder, config=config | {"training.micro_batch_size": 2})
    told = compared(run, RunDir(finished / "run"))
    assert told.equal
    assert told.conclusion.endswith("; configured otherwise: training.micro_batch_size is 2, there 'auto'")


def test_equal_runs_may_lack_checkpoints_and_ledgers(run: RunDir, tmp_path: Path) -> None:
    shutil.rmtree(run.checkpoints / "step_00000024")
    other = RunDir(Path(shutil.copytree(run.path, tmp_path / "other")))
    same = "equal to other, bit for bit: 24 steps"
    assert compared(run, other).conclusion == f"{same}, weights, optimizer state (both of step 23), samples"
    for one in (run, other):
        shutil.rmtree(one.checkpoints)
        one.ledger.unlink()
    none = "; neither has a checkpoint; neither has a record of its samples"
    assert compared(run, other).conclusion == f"{same}{none}"


@pytest.mark.parametrize("which", ["itself", "two", "none"])
def test_what_cannot_be_compared_is_refused(run: RunDir, finished: Path, which: str) -> None:
    other = str(finished / "run")
    targets = {"itself": [other], "two": [other, str(run.path)], "none": [str(run.path)]}[which]
    said = call("tmrc", "verify", *targets, "--against", str(finished / "data") if which == "none" else other)
    assert said.code == 2 and not said.problems() and "--against: " in said.err


def test_validations_that_were_changed_with_consent(train: Train) -> None:
    """Each attempt's own configuration says which there are."""
    trial = train("training.train_steps=10", "training.val_interval=4", "datasets.val_split_size=0.2")
    for attempt, (steps, interval) in enumerate(((15, 0), (20, 5), (26, 6)), 1):
        shutil.copy(trial.run.config, trial.run.attempt(attempt) / "config.yaml")
        changed = [f"training.train_steps={steps}", f"training.val_interval={interval}"]
        write_config(load_config(trial.run.config, changed), trial.run.config)
        durable.write_json(trial.run.allowed, {"training.val_interval": interval})
        train(again=trial)
        assert faults(trial.run) == {}
    assert sorted(trial.validations) == [0, 4, 8, 10, 20, 24, 26]
