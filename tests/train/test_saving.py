"""Checkpoints are written beside training: it goes on meanwhile, and nothing of it gets into them or is lost."""

from __future__ import annotations

import json
import os
import signal
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.train.conftest import Trial, saved_at_once
from tmrc.train import keeper, snapshot
from tmrc.train.loop import Loop
from tmrc.train.snapshot import Snapshot

Train = Callable[..., Trial]
EVERY_STEP = "training.save_every=0.000001"
PATIENCE = 60.0  # seconds; only a failing test waits so long


class Writer:
    """Stands before `save_checkpoint`: counts, and holds up the first checkpoint until `go`."""

    def __init__(self, patch: pytest.MonkeyPatch, fails: BaseException | None = None) -> None:
        self.go = threading.Event()
        self.fails = fails
        self.steps: list[int] = []
        self.most_at_once = self._at_once = 0
        self._original = keeper.save_checkpoint
        patch.setattr(keeper, "save_checkpoint", self._save)

    def _save(self, fence: Any, files: Any, state: Any) -> Path:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        self.steps.append(state.step)
        try:
            assert self.go.wait(PATIENCE)
            if self.fails:
                raise self.fails
            return self._original(fence, files, state)
        finally:
            self._at_once -= 1


def at_step(patch: pytest.MonkeyPatch, step: int, do: Callable[[], object]) -> None:
    """Do something at the beginning of the training step that follows `step`."""
    original = Loop._train_step

    def train_step(self: Loop, hosts: Any) -> Any:
        if self.progress.step == step:
            do()
        return original(self, hosts)

    patch.setattr(Loop, "_train_step", train_step)


def save_once(patch: pytest.MonkeyPatch, step: int) -> None:
    """One save is due: after `step`."""
    patch.setattr(Loop, "_save_is_due", lambda self: self.parts.world.leads and self.progress.step == step - 1)


def test_training_goes_on_and_does_not_change_what_is_written(
    train: Train, new_trial: Callable[..., Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint of step 2 is written when step 5 has begun, and is the one that is written at step 2."""
    files = []
    for beside in (False, True):
        trial = new_trial("training.keep_checkpoints=3")
        with monkeypatch.context() as patch:
            save_once(patch, 2)
            writer = Writer(patch)
            if beside:
                at_step(patch, 5, lambda writer=writer: writer.go.set())
            else:
                writer.go.set()
                saved_at_once(patch)
            train(again=trial)
        assert trial.saved_steps() == [2, 6] and writer.steps == [2, 6] and writer.most_at_once == 1
        saved = trial.run.checkpoints / "step_00000002"
        files.append({path.name: path.read_bytes() for path in saved.glob("*.safetensors")})
    assert files[0] == files[1]
    first = trial.events("checkpoint")[0]
    assert first["step"] == 2 and 0 < first["stall"] < first["seconds"]


def test_never_two_at_once_and_none_is_left_out(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(monkeypatch)
    writer.go.set()
    trial = train(EVERY_STEP, "training.keep_checkpoints=3")
    assert writer.most_at_once == 1 and writer.steps == [1, 2, 3, 4, 5, 6]
    assert [event["step"] for event in trial.events("checkpoint")] == writer.steps
    assert trial.saved_steps() == [4, 5, 6]


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), ValueError("a bug of ours")])
def test_a_write_that_fails_is_loud_by_the_next_step(
    train: Train, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: Exception
) -> None:
    writer = Writer(monkeypatch, fails=error)
    writer.go.set()
    save_once(monkeypatch, 2)
    failed_in: list[int] = []

    def look(self: keeper.Keeper, *args: Any, **kwargs: Any) -> bool:
        if self._saving is not None:
            self._saving.written.exception()  # it has failed by now
            failed_in.append(self._saving.step)
        return original(self, *args, **kwargs)

    original = keeper.Keeper.settle
    monkeypatch.setattr(keeper.Keeper, "settle", look)
    trial = train(expect=1)
    assert failed_in == [2] and trial.saved_steps() == []
    assert trial.rows[-1]["step"] == 2  # the step under way is not logged any more
    said = capfd.readouterr().err
    assert ("checkpoint of step 2 cannot be written" in said) == isinstance(error, OSError)
    assert ("Traceback" in said and "a bug of ours" in said) == isinstance(error, ValueError)


def test_a_stop_while_a_checkpoint_is_written_ends_with_the_newest_state(
    train: Train, new_trial: Callable[..., Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = train(), new_trial()
    with monkeypatch.context() as patch:
        writer = Writer(patch)
        save_once(patch, 2)

        def ask() -> None:
            os.kill(os.getpid(), signal.SIGUSR2)
            threading.Timer(0.2, writer.go.set).start()

        at_step(patch, 3, ask)
        train(again=cut, expect=75)
    assert cut.saved_steps() == writer.steps == [2, 5]  # the request came when step 4 had begun
    train(again=cut)
    assert cut.exact_rows == whole.exact_rows
    assert cut.tensor_files() == whole.tensor_files()


def test_what_is_being_written_when_training_fails_is_finished(
    train: Train, new_trial: Callable[..., Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = train(), new_trial()
    with monkeypatch.context() as patch:
        writer = Writer(patch)
        save_once(patch, 3)

        def fail() -> None:
            threading.Timer(0.2, writer.go.set).start()
            raise RuntimeError("the device is gone")

        at_step(patch, 4, fail)
        train(again=cut, expect=1)
    assert cut.saved_steps() == [3]
    assert [event["step"] for event in cut.events("checkpoint")] == [3]
    assert "the device is gone" in json.loads((cut.run.attempt(1) / "rank_0.json").read_text())["message"]
    train(again=cut)
    assert cut.exact_rows == whole.exact_rows
    assert cut.tensor_files() == whole.tensor_files()


def test_a_host_without_memory_for_the_copy_is_told_in_one_line(
    train: Train, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(snapshot, "mmap", types.SimpleNamespace(mmap=refuse, MAP_PRIVATE=0, MAP_ANONYMOUS=0))
    trial = train(expect=1)
    said = capfd.readouterr().err
    assert "Traceback" not in said and "copy of the state" in said and "launch.mem" in said
    assert json.loads((trial.run.attempt(1) / "rank_0.json").read_text())["kind"] == "out_of_memory"


def test_there_is_one_copy_of_the_state_however_often_it_is_saved() -> None:
    def state(value: float) -> dict[str, dict[str, Tensor]]:
        return {"model": {"weight": torch.full((3, 2), value).T}, "optimizer": {"step": torch.tensor(value)}}

    taken = Snapshot(torch.device("cpu"))
    taken.prepare(state(0.0))
    rooms, tensors = [], state(1.0)
    for value in (1.0, 2.0):
        tensors["model"]["weight"].fill_(value)
        copies = taken.take(tensors)
        taken.wait()
        assert copies["model"]["weight"].is_contiguous()
        rooms.append([copies["model"]["weight"].data_ptr(), copies["optimizer"]["step"].data_ptr()])
        tensors["model"]["weight"].fill_(9.0)
        assert torch.equal(copies["model"]["weight"], torch.full((2, 3), value))
    assert rooms[0] == rooms[1]
    other = taken.take({"model": {"weight": torch.ones(4)}})  # what has another size has another room
    assert other.keys() == {"model"} and other["model"]["weight"].shape == (4,)


def test_a_tensor_that_repeats_one_number_is_copied_in_full() -> None:
    copies = Snapshot(torch.device("cpu")).take({"model": {"spread": torch.ones(1).expand(5)}})
    assert torch.equal(copies["model"]["spread"], torch.ones(5))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_weights_that_change_after_the_copy_has_begun_do_not_get_into_it() -> None:
    files = {"model": {str(index): torch.full((1 << 24,), 1.0, device="cuda") for index in range(8)}}
    taken = Snapshot(torch.device("cuda"))
    for value in (1.0, 2.0):
        copies = taken.take(files)
        taken.protect()
        for tensor in files["model"].values():
            tensor.add_(1.0)
        taken.wait()
        assert all(copy.is_pinned() and bool((copy == value).all()) for copy in copies["model"].values())
