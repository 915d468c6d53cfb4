"""What fails says why, in one line and one word, and leaves what was saved."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.train.conftest import NewTrial, Trial, finish, spawn
from tests.train.test_resume import LONG, pid_of, wait_for_step
from tmrc.config.errors import CheckpointError, ConfigError, DataError, UserError
from tmrc.train.distributed import choose_device
from tmrc.train.failures import DiskError, GpuError, Kind, NonFiniteError, RunFailure, SupersededError, kind_of
from tmrc.train.outcome import failed, finished, stopped

Train = Callable[..., Trial]

ERRORS: list[tuple[BaseException, Kind]] = [
    (ConfigError("x"), "config"),
    (UserError("x"), "config"),
    (DataError("x"), "data"),
    (CheckpointError("x"), "data"),
    (NonFiniteError("x"), "non_finite"),
    (DiskError("x"), "disk"),
    (SupersededError("x"), "superseded"),
    (RunFailure("x"), "code_error"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."), "out_of_memory"),
    (MemoryError(), "out_of_memory"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), "out_of_memory"),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), "out_of_memory"),
    (torch.AcceleratorError("CUDA error: out of memory"), "out_of_memory"),
    (torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"), "gpu_error"),
    (torch.AcceleratorError("CUDA error: unspecified launch failure"), "gpu_error"),
    (RuntimeError("CUDA error: uncorrectable NVLink error detected during the execution"), "gpu_error"),
    (RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"), "gpu_error"),
    (torch.distributed.DistBackendError("NCCL error: unhandled system error, ncclSystemError: 2.27"), "gpu_error"),
    (torch.AcceleratorError("CUDA error: device-side assert triggered"), "code_error"),
    (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), "code_error"),
    (torch.distributed.DistBackendError("NCCL error: ncclRemoteError: a remote process exited"), "peer_lost"),
    (RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:42"), "peer_lost"),
    (torch.distributed.DistStoreError("Timed out after 1801 seconds waiting for clients. 1/2"), "peer_lost"),
    (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "peer_lost"),
    (torch.distributed.DistNetworkError("failed to listen on any address (EADDRINUSE)"), "port"),
    (OSError(errno.ENOSPC, "No space left on device"), "disk"),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk"),
    (OSError(errno.ESTALE, "Stale file handle"), "disk"),
    (FileNotFoundError(errno.ENOENT, "No such file or directory"), "code_error"),
    (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "code_error"),
    (ValueError("this says out of memory but is none"), "code_error"),
    (KeyError("x"), "code_error"),
]


@pytest.mark.parametrize(("error", "kind"), ERRORS, ids=lambda value: str(value)[:30])
def test_an_error_has_its_kind_and_its_exit_code(error: BaseException, kind: Kind) -> None:
    outcome = failed(error, 7)
    assert outcome.kind == kind
    assert outcome.exit_code == (2 if kind in ("config", "data") else 1)
    assert "\n" not in outcome.message and len(outcome.message) <= 600


def test_the_cause_of_a_wrapped_error_counts() -> None:
    wrapped = RuntimeError("the compiler failed")
    wrapped.__cause__ = torch.OutOfMemoryError("CUDA out of memory")
    assert kind_of(wrapped) == "out_of_memory"


def test_a_real_allocation_that_fails_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert kind_of(caught.value) == "out_of_memory"


def test_ends_that_are_no_failure() -> None:
    assert (finished(3).kind, stopped(3, "SIGUSR2").kind) == ("finished", "stopped")


@pytest.mark.parametrize(
    ("error", "kind", "traceback"),
    [(MemoryError("host"), "out_of_memory", True), (RuntimeError("x closed by peer"), "peer_lost", False)],
)
def test_file_event_and_log_say_the_kind(
    new_trial: NewTrial,
    train: Train,
    capfd: pytest.CaptureFixture[str],
    error: Exception,
    kind: Kind,
    traceback: bool,
) -> None:
    from tmrc.train import start

    def fail(*_: object) -> None:
        raise error

    trial = new_trial()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(start, "plan_data", fail)
        train(again=trial, expect=1)
    assert json.loads((trial.run.attempt(1) / "rank_0.json").read_text())["kind"] == kind
    assert [event["kind"] for event in trial.events("failed")] == ([kind] if kind != "peer_lost" else [])
    assert ("Traceback" in capfd.readouterr().err) == traceback


def test_a_gpu_that_was_given_and_is_gone_is_not_replaced_by_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,GPU-5ebe9f43-ac33")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(GpuError, match=r"given 2 GPUs .* but 0 can be used"):
        choose_device("auto", 0)
    assert choose_device("cpu", 0).type == "cpu"
    monkeypatch.setattr(torch.version, "cuda", None)
    for wanted in ("auto", "cuda"):
        with pytest.raises(
            ConfigError, match=rf"training.device: got '{wanted}' and the GPUs '0,GPU.*: a CUDA build of torch, or"
        ):
            choose_device(wanted, 0)
    assert choose_device("cpu", 0).type == "cpu"
    for nothing in ("", "-1", "NoDevFiles"):
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setitem(os.environ, "CUDA_VISIBLE_DEVICES", nothing)
        assert choose_device("auto", 0).type == "cpu"


def test_a_non_finite_loss_names_step_and_sequences_and_leaves_the_checkpoint(
    train: Train, new_trial: NewTrial, capfd: pytest.CaptureFixture[str]
) -> None:
    from tmrc.train.step import LossModule

    trial = new_trial("training.micro_batch_size=4", "training.save_every=0.000001")
    forward, calls = LossModule.forward, []

    def spoilt(self, tokens_BT, targets_BT, mask):  # type: ignore[no-untyped-def]
        loss = forward(self, tokens_BT, targets_BT, mask)
        calls.append(self.training)
        return loss * math.nan if sum(calls) == 6 and self.training else loss  # step 3, second micro-batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LossModule, "forward", spoilt)
        train(again=trial, expect=1)
    said = capfd.readouterr().err
    assert "the loss of step 3 is not finite" in said
    assert "Traceback" not in said
    named = trial.events("non_finite")[0]["sequences"]
    assert len(named) == 4
    assert str(named[0]) in said
    assert "tiny_" in said
    assert trial.saved_steps() == [1, 2]
    train(again=trial)
    assert trial.exact_rows == train("training.micro_batch_size=4").exact_rows


def test_a_full_disk_is_one_line_and_keeps_what_was_saved(
    train: Train, new_trial: NewTrial, capfd: pytest.CaptureFixture[str]
) -> None:
    from tmrc.train import durable

    trial = new_trial("training.save_every=0.000001")
    seal, calls = durable.seal, []

    def full(directory: Path) -> None:
        calls.append(directory)
        if len(calls) == 3:
            raise OSError(28, "No space left on device", str(directory))
        seal(directory)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "seal", full)
        train(again=trial, expect=1)
    said = capfd.readouterr().err
    assert "No space left on device" in said
    assert "Traceback" not in said
    assert trial.saved_steps() == [1, 2]
    train(again=trial)
    assert trial.exact_rows == train().exact_rows


def test_a_disk_that_takes_no_more_bookkeeping_leaves_the_exit_code(
    train: Train, new_trial: NewTrial, capfd: pytest.CaptureFixture[str]
) -> None:
    from tmrc.train import keeper, run

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    trial = new_trial()
    with pytest.MonkeyPatch.context() as patch:
        for module in (keeper, run):
            patch.setattr(module, "append_event", full)
        train(again=trial, expect=1)
    said = capfd.readouterr().err
    assert "No space left on device" in said
    assert "Traceback" not in said


def test_when_one_rank_dies_no_other_stays(new_trial: NewTrial) -> None:
    trial = new_trial(*LONG)
    process = spawn(trial, 2)
    wait_for_step(trial, 7)
    other = pid_of(trial, 1, 0)
    os.kill(pid_of(trial, 1, 1), signal.SIGKILL)
    finish(process, expect=1)
    with pytest.raises(ProcessLookupError):
        os.kill(other, 0)
    assert json.loads((trial.run.attempt(1) / "rank_0.json").read_text())["kind"] == "peer_lost"
    assert trial.events("failed") == []  # why rank 1 died is for the launcher to say
