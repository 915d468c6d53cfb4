"""What `tmrc drill` takes for a difference: one planted in a copy of a run, in each of the things that it compares."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from launch.compare.difference import compare
from launch.compare.results import MANIFEST, read_results, sha256
from launch.drill.course import course_of
from launch.drill.damage import DAMAGES
from launch.drill.sound import require_sound
from tests.train.conftest import Trial
from tmrc.config.errors import UserError
from tmrc.config.rundir import RunDir, checkpoint_steps
from tmrc.train import durable
from tmrc.train.saved import FILES

RECORD = 32  # bytes of a ledger's header, and of each of its records


def newest(run: RunDir) -> Path:
    return next(iter(checkpoint_steps(run).values()))


def change(file: Path, place: int, bit: int = 1) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= bit
    file.write_bytes(data)


def seal(run: RunDir) -> None:
    """Make the manifest fit to what is in the newest checkpoint, so that nothing but a comparison can tell."""
    manifest = json.loads((newest(run) / MANIFEST).read_text())
    for name, entry in manifest["files"].items():
        entry["sha256"] = sha256(newest(run) / name)
    (newest(run) / MANIFEST).write_text(json.dumps(manifest))


def weights(run: RunDir) -> None:
    change(newest(run) / "model.safetensors", -1)
    seal(run)


def moments(run: RunDir) -> None:
    change(newest(run) / "optimizer.safetensors", -1)
    seal(run)


def bit_behind_the_manifest(run: RunDir) -> None:
    change(newest(run) / "model.safetensors", -1)


def rows(run: RunDir, edit: Callable[[list[dict[str, object]]], object]) -> None:
    found = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    edit(found)
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in found))


def loss(run: RunDir) -> None:
    rows(run, lambda found: found[2].update(loss=float(str(found[2]["loss"])) * (1 + 2**-52)))


def lost_row(run: RunDir) -> None:
    rows(run, lambda found: found.pop(2))


def last_row(run: RunDir) -> None:
    rows(run, lambda found: found.pop())


def repeated_row(run: RunDir) -> None:
    rows(run, lambda found: found.insert(3, found[2]))


def sample(run: RunDir) -> None:
    change(run.path / "ledger.bin", RECORD + 3 * RECORD)


def fewer_samples(run: RunDir) -> None:
    file = run.path / "ledger.bin"
    file.write_bytes(file.read_bytes()[:-RECORD])


def state(run: RunDir) -> None:
    file = newest(run) / "trainer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "sequences": 1}))
    seal(run)


def older(run: RunDir) -> None:
    shutil.rmtree(newest(run))


PLANTED = {  # what is planted -> file, step and field of the difference
    weights: ("model.safetensors", 6, "["),
    moments: ("optimizer.safetensors", 6, "["),
    bit_behind_the_manifest: ("model.safetensors", None, "SHA-256"),
    loss: ("metrics.jsonl", 3, "loss"),
    lost_row: ("metrics.jsonl", None, "is not the next"),
    last_row: ("metrics.jsonl", None, "rows"),
    repeated_row: ("metrics.jsonl", None, "stands there twice"),
    sample: ("ledger.bin", 4, "samples"),
    fewer_samples: ("ledger.bin", None, "steps"),
    state: ("trainer.json", 6, "sequences"),
    older: ("checkpoints", None, "holds no checkpoint"),
}


def test_each_planted_difference_is_found_and_named(train: Callable[..., Trial], tmp_path: Path) -> None:
    whole = train("training.val_interval=0").run
    reference = read_results(whole)
    assert compare(reference, read_results(whole)) is None
    for plant, (file, step, field) in PLANTED.items():
        run = RunDir(tmp_path / plant.__name__)
        shutil.copytree(whole.path, run.path)
        assert compare(reference, read_results(run)) is None
        plant(run)
        found = compare(reference, read_results(run))
        assert found is not None, plant.__name__
        assert Path(found.file).name == file and field in found.field, found
        assert step is None or found.step == step, found
        assert str(found).startswith(f"{run.path}/")


def nested(run: RunDir) -> None:
    (newest(run) / "trainer.json").write_text("[" * 200_000)
    seal(run)


def folder_within(run: RunDir) -> None:
    (newest(run) / "folder").mkdir()


def odd_event(name: str, key: str, value: object) -> Callable[[RunDir], None]:
    def plant(run: RunDir) -> None:
        found = [json.loads(line) for line in run.events.read_text().splitlines()]
        changed = [{**row, key: value} if row["event"] == name else row for row in found]
        run.events.write_text("".join(json.dumps(row) + "\n" for row in changed))

    return plant


BROKEN: tuple[tuple[Callable[[RunDir], object], str], ...] = (
    (bit_behind_the_manifest, "model.safetensors: SHA-256"),
    (nested, "trainer.json"),
    (folder_within, "folder"),
    (lambda run: (newest(run) / MANIFEST).unlink(), "manifest.json"),
    (lambda run: (newest(run) / "manifest.json").write_text("[" * 200_000), "manifest.json"),
    (last_row, "metrics.jsonl: ends at step 5"),
    (lost_row, "rows are missing"),
    (repeated_row, "metrics.jsonl: line 4 has step 3 after step 3"),
    (lambda run: run.metrics.write_text(run.metrics.read_text()[:-1]), "cut off"),
    (sample, "ledger.bin: the record of step 4"),
    (fewer_samples, "ledger.bin: ends at step 5"),
    (lambda run: (run.path / "ledger.bin").unlink(), "ledger.bin: is missing"),
    (lambda run: (run.path / "ledger.bin").write_bytes(b"x" * 100), "ledger.bin"),
    (odd_event("started", "time", "noon"), "time is no number"),
    (odd_event("finished", "time", 1e300), "time is no number"),
    (odd_event("finished", "step", []), "step is no number"),
    (odd_event("finished", "step", 4), "step"),
    (odd_event("finished", "event", ["finished"]), "has not finished"),
)


def test_what_is_wrong_with_a_reference_is_said_of_it(train: Callable[..., Trial], tmp_path: Path) -> None:
    whole = train("training.val_interval=0").run
    (whole.path / "attempts" / "1").mkdir(parents=True, exist_ok=True)
    course = course_of(whole)
    require_sound(read_results(whole), course, 1)
    for number, (plant, words) in enumerate(BROKEN):
        run = RunDir(tmp_path / str(number))
        shutil.copytree(whole.path, run.path)
        plant(run)
        with pytest.raises(UserError) as raised:
            require_sound(read_results(run), course_of(run), 1)
        assert words in str(raised.value) and "\n" not in str(raised.value), (number, raised.value)


def test_each_way_of_damage_is_one_that_the_trainer_finds(train: Callable[..., Trial], tmp_path: Path) -> None:
    whole = train("training.val_interval=0", "training.train_steps=1").run
    for how, damage in DAMAGES.items():
        for seed in range(5):
            copy = tmp_path / f"{how} {seed}"
            shutil.copytree(newest(whole), copy)
            assert durable.problem(copy, FILES) is None
            damage(copy, Random(seed))
            assert durable.problem(copy, FILES) is not None, (how, seed)
