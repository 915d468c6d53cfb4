"""What `tmrc drill` takes for a difference: one planted in a copy of a run, in each of the things that it compares."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

from launch.drill.compare import compare, read_results, sha256
from launch.drill.damage import DAMAGES, MANIFEST, steps_of
from tests.train.conftest import Trial
from tmrc.config.rundir import RunDir
from tmrc.train import durable
from tmrc.train.checkpoint import FILES

RECORD = 32  # bytes of a ledger's header, and of each of its records


def newest(run: RunDir) -> Path:
    return steps_of(run)[0]


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


def test_each_way_of_damage_is_one_that_the_trainer_finds(train: Callable[..., Trial], tmp_path: Path) -> None:
    whole = train("training.val_interval=0", "training.train_steps=1").run
    for how, damage in DAMAGES.items():
        for seed in range(5):
            copy = tmp_path / f"{how} {seed}"
            shutil.copytree(newest(whole), copy)
            assert durable.problem(copy, FILES) is None
            damage(copy, Random(seed))
            assert durable.problem(copy, FILES) is not None, (how, seed)
