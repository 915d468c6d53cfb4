"""`micro_batch_size: auto` finds what fits into memory before the first step, on every process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from launch.detail import page
from launch.status import statuses
from tests.train.conftest import NewTrial, Trial, finish, spawn
from tests.train.ranks import expect, launch
from tmrc.train.fit import next_smaller

# 32 sequences of 16 tokens at a time take about 150 MB, nearly all of it inside the MLP
WIDE = [
    *("model.mlp_scale_factor=600", "training.batch_size=64", "training.train_steps=2", "training.val_interval=0"),
    "model.autocast_precision=float32",  # for bfloat16 oneDNN keeps code for every size that was tried
]
STOP = "loop:Loop._train_step:1:SIGUSR2"
GPU_ROOM = 140  # MiB, for weights, moments and cuBLAS's workspace as well
ROOM, NO_ROOM = 190, 40  # MiB: for some of the 32 sequences, with the optimizer's state; not even for that


def sizes(trial: Trial, event: str = "started") -> list[int]:
    return [row["micro_batch_size"] for row in trial.events(event)]


def kind(trial: Trial, rank: int) -> str:
    return str(json.loads((trial.run.attempt(1) / f"rank_{rank}.json").read_text())["kind"])


def test_one_rank_short_of_memory_halves_the_size_on_all(new_trial: NewTrial, tmp_path: Path) -> None:
    trial, log = new_trial(*WIDE), tmp_path / "log"
    expect(launch(trial, 2, log=log, room={1: ROOM}), 0)
    halvings = trial.events("micro_batch_size")
    assert halvings
    steps = [row["from"] for row in halvings] + [halvings[-1]["to"]]
    assert steps == [32 >> n for n in range(len(steps))]
    assert sizes(trial) == [steps[-1]]
    for row in halvings:
        assert (row["attempt"], row["step"], row["rank"], row["device"]) == (1, 0, 1, "cpu")
        assert row["memory_bytes"] > ROOM * 2**20
        assert row["cause"]
    assert log.read_text().count("does not fit into the memory of rank 1 (cpu, ") == len(halvings)
    shown = " ".join(page(statuses([trial.run])[0][0], trial.run, None, colour=False))
    assert f"{steps[-1]} sequences: rank 1 (cpu) had no room for {steps[-2]} in attempt 1" in shown
    given = new_trial(*WIDE, f"training.micro_batch_size={steps[-1]}")
    expect(launch(given, 2), 0)
    assert trial.exact_rows == given.exact_rows  # the trials have left no trace in the numbers
    assert trial.tensor_files() == given.tensor_files()


def test_a_resumed_run_keeps_its_size_where_it_fits_and_halves_it_where_not(
    new_trial: NewTrial, tmp_path: Path
) -> None:
    trial, log = new_trial(*WIDE, "training.train_steps=6"), tmp_path / "log"
    expect(launch(trial, 1, STOP), 75)
    assert sizes(trial) == [64]
    expect(launch(trial, 1, STOP, log, {0: 4000}), 75)
    assert sizes(trial, "resumed") == [64]
    assert trial.events("micro_batch_size") == []
    assert "warning" not in log.read_text()
    expect(launch(trial, 1, log=log, room={0: ROOM}), 0)
    (*_, last) = trial.events("micro_batch_size")
    assert last["attempt"] == 3 and last["step"] == trial.events("resumed")[1]["step"] > 0
    assert sizes(trial, "resumed") == [64, last["to"]]
    assert f"micro_batch_size was 64 and is {last['to']}: sums may round differently" in log.read_text()
    assert trial.steps == [1, 2, 3, 4, 5, 6]


def test_where_a_single_sequence_does_not_fit_one_line_says_what_would_help(
    new_trial: NewTrial, tmp_path: Path
) -> None:
    trial, log = new_trial(*WIDE, "training.batch_size=12"), tmp_path / "log"
    expect(launch(trial, 2, log=log, room={1: NO_ROOM}), 1)
    assert [(row["from"], row["to"]) for row in trial.events("micro_batch_size")] == [(6, 3), (3, 1)]
    said = log.read_text()
    assert "training.micro_batch_size: even 1 does not fit into the memory of rank 1" in said
    assert "what would help" in said and "Traceback" not in said
    assert [kind(trial, rank) for rank in (0, 1)] == ["out_of_memory"] * 2
    assert trial.events("failed")[0]["kind"] == "out_of_memory"
    assert trial.rows == []


def test_a_number_that_was_given_is_not_changed(new_trial: NewTrial, tmp_path: Path) -> None:
    trial, log = new_trial(*WIDE, "training.micro_batch_size=64"), tmp_path / "log"
    expect(launch(trial, 1, log=log, room={0: NO_ROOM}), 1)
    said = log.read_text()
    assert "training.micro_batch_size: got 64, which does not fit into the memory of rank 0" in said
    assert "valid: auto, which finds one that fits, or a smaller divisor of 64" in said
    assert "Traceback" not in said
    assert trial.events("micro_batch_size") == []
    assert kind(trial, 0) == "out_of_memory"


@given(st.integers(1, 500))
def test_the_next_smaller_size_is_a_divisor_and_at_most_half(share: int) -> None:
    size: int | None = share
    while size is not None and size > 1:
        smaller = next_smaller(size, share)
        assert smaller is not None and smaller <= size / 2 and share % smaller == 0
        assert all(share % other for other in range(smaller + 1, size // 2 + 1))
        size = smaller
    assert next_smaller(1, share) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
def test_on_a_small_gpu_the_size_is_halved_and_training_goes_on(new_trial: NewTrial, compiled: bool) -> None:
    overrides = ["training.device=cuda", f"training.compile={compiled}".lower(), *WIDE]
    roomy = new_trial(*overrides)
    finish(spawn(roomy))
    tight = new_trial(*overrides)
    limit = (
        "import sys, torch; total = torch.cuda.get_device_properties(0).total_memory; "
        f"torch.cuda.set_per_process_memory_fraction({GPU_ROOM * 2**20} / total); "
        "from tmrc.train.run import main; sys.exit(main(sys.argv[1:]))"
    )
    finish(spawn(tight, trainer=("-c", limit)))
    (*_, last) = tight.events("micro_batch_size")
    assert last["device"] == torch.cuda.get_device_name() and last["cause"]
    assert sizes(roomy) == [64] and sizes(tight) == [last["to"]]
    assert tight.losses == pytest.approx(roomy.losses, rel=1e-3)
