"""Weights & Biases, read back from what it wrote; and training that does not care."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from wandb.proto import wandb_internal_pb2

from tests.train.conftest import NewTrial, Trial
from tmrc.config.schema import WandbConfig
from tmrc.train import tracking
from tmrc.train.wandb_sync import choose_mode

Train = Callable[..., Trial]
_BLOCK, _HEADER = 32_768, 7


def records(trial: Trial) -> list[wandb_internal_pb2.Record]:
    """Every record of the run's offline files, in the order they were written (LevelDB's log format)."""
    found = []
    for file in sorted(trial.run.wandb.glob("offline-run-*/*.wandb")):
        for data in _log_records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            found.append(record)
    return found


def _log_records(data: bytes) -> Iterator[bytes]:
    position, parts = _HEADER, []  # the file begins with a header of its own
    while position + _HEADER <= len(data):
        if _BLOCK - position % _BLOCK < _HEADER:
            position += _BLOCK - position % _BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + _HEADER])
        parts.append(data[position + _HEADER : position + _HEADER + length])
        position += _HEADER + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield b"".join(parts)
            parts = []


def history(trial: Trial) -> list[dict[str, float]]:
    """The rows that wandb was given, with their steps, merged where one step was given twice (training, validation)."""
    rows: dict[int, dict[str, float]] = {}
    for record in records(trial):
        if record.WhichOneof("record_type") == "history":
            values = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            rows.setdefault(int(values["_step"]), {}).update(values)
    return [rows[step] for step in sorted(rows)]


@pytest.fixture(autouse=True)
def no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # where a login would be kept


def test_a_run_is_reported_offline_with_its_id_project_group_and_tags(train: Train) -> None:
    trial = train("wandb_log.mode=auto", "wandb_log.name=tracked", "wandb_log.group=family", "wandb_log.tags=[a, b]")
    run = next(record.run for record in records(trial) if record.WhichOneof("record_type") == "run")
    assert (run.run_id, run.project, run.run_group, list(run.tags)) == (
        trial.run.run_id,
        "tracked",
        "family",
        ["a", "b"],
    )
    reported = {row["_step"]: row["loss"] for row in history(trial) if "loss" in row}
    assert reported == dict(zip(trial.steps, trial.losses, strict=True))
    assert {row["_step"]: row["val_loss"] for row in history(trial) if "val_loss" in row} == trial.validations


def test_a_resumed_run_stays_one_curve_without_repeats(train: Train) -> None:
    trial = train("wandb_log.mode=offline", "training.train_steps=6", "training.save_every=0.000001")
    newest = max(trial.run.checkpoints.glob("step_*"))
    (newest / "manifest.json").unlink()  # so that the last step is done again
    train(again=trial)
    given = [record for record in records(trial) if record.WhichOneof("record_type") == "history"]
    assert len(given) == len({row["step"] for row in trial.rows})
    assert [row["_step"] for row in history(trial)] == [0, *trial.steps]
    ids = {record.run.run_id for record in records(trial) if record.WhichOneof("record_type") == "run"}
    assert ids == {trial.run.run_id}


def test_disabled_starts_nothing(train: Train) -> None:
    trial = train("wandb_log.mode=disabled")
    assert not trial.run.wandb.exists()
    assert not (trial.run.path / "wandb.log").exists()


@pytest.mark.parametrize(
    "fault", ["raise RuntimeError('broken')", "import time; time.sleep(3600)", "import os; os._exit(1)"]
)
def test_a_broken_or_hanging_wandb_changes_nothing(
    train: Train, new_trial: NewTrial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    (tmp_path / "shim" / "wandb").mkdir(parents=True)
    (tmp_path / "shim" / "wandb" / "__init__.py").write_text(fault + "\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "shim"))
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 0.5)
    tracked, plain = train("wandb_log.mode=online"), train()
    assert tracked.exact_rows == plain.exact_rows
    assert tracked.tensor_files() == plain.tensor_files()
    assert tracked.events("finished")


def test_auto_is_online_only_with_a_login(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_mode(WandbConfig(mode="online")) == "online"
    assert choose_mode(WandbConfig(mode="auto")) == "offline"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert choose_mode(WandbConfig(mode="auto")) == "disabled"
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert choose_mode(WandbConfig(mode="auto")) == "online"
