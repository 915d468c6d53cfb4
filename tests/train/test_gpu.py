"""What only a GPU shows; skipped without one."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from tests.train.conftest import NewTrial, finish, spawn
from tests.train.test_resume import pid_of, wait_for_step

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

ON_GPU = ["training.device=cuda", "training.train_steps=400", "training.val_interval=50", "training.log_interval=5"]


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "float32"])
def test_flex_trains_with_the_document_mask(new_trial: NewTrial, precision: str) -> None:
    trial = new_trial(*ON_GPU, f"model.autocast_precision={precision}")
    finish(spawn(trial))
    assert trial.losses[-1] < 0.7 * trial.losses[0]


def test_a_resumed_run_is_equal_bit_for_bit(new_trial: NewTrial) -> None:
    exact = [*ON_GPU, "training.deterministic=true", "model.dropout_p=0.1"]
    whole, cut = new_trial(*exact), new_trial(*exact)
    finish(spawn(whole))
    process = spawn(cut)
    wait_for_step(cut, 20)
    os.kill(pid_of(cut, 1, 0), signal.SIGUSR2)
    finish(process, expect=75)
    finish(spawn(cut))
    assert cut.exact_rows == whole.exact_rows
    assert cut.tensor_files() == whole.tensor_files()


def test_gpu_and_cpu_learn_the_same(new_trial: NewTrial) -> None:
    on_gpu, on_cpu = (
        new_trial(f"training.device={device}", "model.autocast_precision=float32") for device in ("cuda", "cpu")
    )
    finish(spawn(on_gpu))
    finish(spawn(on_cpu))
    assert on_gpu.losses == pytest.approx(on_cpu.losses, rel=1e-3)
