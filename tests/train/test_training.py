"""Training through its entry point, one behaviour and one configuration key at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.train.conftest import LENGTH, VOCAB, NewTrial, Trial, finish, spawn, write_dataset
from tmrc.data import open_dataset
from tmrc.train.setup import multiplies_bfloat16

Train = Callable[..., Trial]
NEEDS_BFLOAT16 = pytest.mark.skipif(not multiplies_bfloat16(), reason="bfloat16 is float32 on this CPU")


def test_the_loss_starts_at_the_vocabularys_entropy_and_falls(train: Train) -> None:
    trial = train("training.train_steps=80", "training.val_interval=80")
    assert trial.losses[0] == pytest.approx(math.log(VOCAB), rel=0.05)
    assert trial.losses[-1] < 0.7 * trial.losses[0]
    assert trial.validations[80] < 0.75 * trial.validations[0]
    assert trial.events("finished")[0]["step"] == 80
    assert trial.saved_steps() == [80]


def test_rows_hold_what_a_researcher_looks_for(train: Train) -> None:
    row = train().rows[-2]
    for name in ("step", "loss", "lr", "grad_norm", "tokens", "tokens_per_s", "memory_gib", "data_wait", "epoch"):
        assert math.isfinite(row[name]), name
    assert row["tokens"] == row["step"] * 8 * LENGTH
    assert 0 <= row["data_wait"] <= 1


def test_the_log_says_now_and_then_where_training_stands(train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    trial = train("model.autocast_precision=float32")  # where bfloat16 is float32 the log says so
    said = capfd.readouterr().out.splitlines()
    assert said[0] == "attempt 1 starts, 6 steps in all, on 1 x cpu"
    assert said[1].startswith(f"step 1  loss {trial.losses[0]:.4f}  ") and said[1].endswith(" tokens/s")
    assert len(said) == 2  # a line a minute
    train(again=trial)
    assert "attempt 2 resumes after step 6, 6 steps in all" in capfd.readouterr().out


def test_two_processes_train_as_one(new_trial: NewTrial) -> None:
    overrides = ["training.micro_batch_size=2", "model.dropout_p=0.2", "model.autocast_precision=float32"]
    one, two = new_trial(*overrides), new_trial(*overrides)
    finish(spawn(one, 1))
    finish(spawn(two, 2))
    assert two.losses == pytest.approx(one.losses, rel=1e-5)
    assert two.validations == pytest.approx(one.validations, rel=1e-5)
    assert two.events("started")[0]["world_size"] == 2


def test_accumulation_changes_nothing_but_rounding(train: Train) -> None:
    whole = train("training.micro_batch_size=8", "model.autocast_precision=float32")
    parts = train("training.micro_batch_size=2", "model.autocast_precision=float32")
    assert parts.losses == pytest.approx(whole.losses, rel=1e-5)


def test_the_same_configuration_gives_the_same_bits(train: Train) -> None:
    first, second = train("model.dropout_p=0.3"), train("model.dropout_p=0.3")
    assert first.exact_rows == second.exact_rows
    assert first.tensor_files() == second.tensor_files()


def test_dropout_is_off_in_validation(train: Train) -> None:
    dropped, whole = train("model.dropout_p=0.5"), train()
    assert dropped.validations[0] == whole.validations[0]
    assert dropped.losses != whole.losses


@pytest.mark.parametrize(
    "override",
    [
        "training.seed=1",
        "training.shuffle=false",
        "training.scheduler=cosine",
        "training.warmup_steps=3",
        "training.grad_clip=0.1",
        "training.batch_size=4",
        "optimizer.lr=0.02",
        "optimizer.weight_decay=0.9",
        "optimizer.betas=[0.5,0.6]",
        "optimizer.eps=0.1",
        "optimizer.precision=bfloat16",
        pytest.param("model.autocast_precision=float32", marks=NEEDS_BFLOAT16),
        "model.autocast_precision=float16",
        "model.mask=causal",
        "datasets.eos_token=5",
        "datasets.val_split_size=0.3",
        "tokenizer.vocab_size=80",
    ],
)
def test_a_key_changes_what_is_learnt(train: Train, override: str) -> None:
    assert train(override).losses[1:] != train().losses[1:]


def test_schedule_keys_reach_the_learning_rate(train: Train) -> None:
    def rates(*overrides: str) -> list[float]:
        return [row["lr"] for row in train(*overrides).rows if "loss" in row]

    assert rates() == [0.01] * 6
    assert rates("training.warmup_steps=3")[:3] == pytest.approx([0.0025, 0.005, 0.0075])
    assert rates("training.scheduler=linear")[3] == pytest.approx(0.005)
    assert rates("training.scheduler=linear", "training.min_lr_ratio=0.5")[3] == pytest.approx(0.0075)
    assert rates("training.scheduler=wsd", "training.decay_ratio=0.5")[:4] == [0.01] * 4
    assert rates("training.scheduler=wsd", "training.decay_ratio=1.0")[3] == pytest.approx(0.005)


def test_weight_decay_reaches_only_matrices_when_asked(train: Train) -> None:
    def norm_weight(*overrides: str) -> float:
        trial = train("optimizer.weight_decay=0.9", "training.train_steps=20", *overrides)
        tensors = load_file(max(trial.run.checkpoints.glob("step_*")) / "model.safetensors")
        return sum(float(value.mean()) for name, value in tensors.items() if "norm" in name and "weight" in name)

    assert norm_weight("optimizer.decay_matrices_only=true") > norm_weight() + 0.1


def test_training_ends_at_epochs_or_steps_whichever_comes_first(train: Train, dataset: Path) -> None:
    chunks = 60 + 40  # that hold text; one batch of 8 is held out for validation
    per_epoch = (chunks - 8) // 8
    assert train("training.epochs=2", "training.train_steps=1000").steps[-1] == 2 * per_epoch
    assert train("training.epochs=2", "training.train_steps=5").steps[-1] == 5


def test_file_order_without_shuffle_and_a_fresh_order_each_epoch_with_it(train: Train) -> None:
    two = ["training.epochs=2", "training.train_steps=1000", "optimizer.lr=1e-30", "training.val_interval=0"]
    still = train("training.shuffle=false", *two)
    half = len(still.losses) // 2
    assert still.losses[:half] == still.losses[half:]
    moving = train(*two)
    assert moving.losses[:half] != moving.losses[half:]
    assert {row["epoch"] for row in moving.rows} == {0, 1}


def test_intervals_say_which_steps_are_logged_and_validated(train: Train) -> None:
    trial = train("training.log_interval=4", "training.val_interval=5", "training.train_steps=10")
    assert trial.steps == [1, 4, 8, 10]
    assert list(trial.validations) == [0, 5, 10]
    assert train("training.val_interval=0").validations == {}
    assert train("datasets.val_split_size=0").validations == {}


def test_the_validation_split_is_held_out_and_read_as_asked(train: Train, dataset: Path) -> None:
    few = train("datasets.val_split_size=30", "training.val_batches=1")
    many = train("datasets.val_split_size=30", "training.val_batches=10")
    assert few.validations.keys() == many.validations.keys()
    assert few.validations[0] != many.validations[0]
    everything = len(open_dataset(dataset, context_length=LENGTH))
    assert train("datasets.val_split_size=30").events("started")[0]["steps_per_epoch"] == (everything - 30) // 8


def test_a_split_of_nothing_but_padding_is_refused(train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    train("datasets.val_split_size=3", expect=2)
    assert "nothing but padding" in capfd.readouterr().err


def test_checkpoints_follow_the_clock_and_only_the_newest_stay(train: Train) -> None:
    trial = train("training.save_every=0.000001", "training.keep_checkpoints=3")
    assert trial.saved_steps() == [4, 5, 6]
    assert [event["step"] for event in trial.events("checkpoint")] == [1, 2, 3, 4, 5, 6]
    assert train("training.save_every=1000").saved_steps() == [6]
    assert train("training.save_model=false", "training.save_every=0.000001").saved_steps() == []


def test_deterministic_is_switched_on(train: Train) -> None:
    train("training.deterministic=true")
    assert torch.are_deterministic_algorithms_enabled()


def test_compiling_the_step_changes_nothing_but_rounding(new_trial: NewTrial) -> None:
    plain, compiled = new_trial("training.compile=false"), new_trial("training.compile=true")
    finish(spawn(plain))
    finish(spawn(compiled))
    assert compiled.losses == pytest.approx(plain.losses, rel=2e-2)
    assert compiled.losses != plain.losses


def test_clipping_bounds_the_update_and_logs_the_norm_before_it(train: Train) -> None:
    assert train("training.grad_clip=0.001").rows[1]["grad_norm"] == train().rows[1]["grad_norm"]


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["datasets.path=/nowhere"], ["/nowhere"]),
        (["tokenizer.vocab_size=32"], ["tokenizer.vocab_size", "32", "64"]),
        (["datasets.tokenizer_used=t5-base", "tokenizer.name=t5-base"], ["datasets.tokenizer_used", "t5-base", "tiny"]),
        (["training.batch_size=512"], ["training.batch_size", "512"]),
    ],
)
def test_data_that_does_not_fit_is_one_line_and_exit_code_2(
    train: Train, capfd: pytest.CaptureFixture[str], overrides: list[str], parts: list[str]
) -> None:
    trial = train(*overrides, expect=2)
    said = capfd.readouterr().err.strip()
    assert len(said.splitlines()) == 1
    for part in parts:
        assert part in said
    assert trial.events("failed")[0]["exit_code"] == 2
    assert json.loads((trial.run.attempt(1) / "rank_0.json").read_text())["exit_code"] == 2


def test_a_mismatch_can_be_allowed_and_is_said(train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    train("datasets.tokenizer_used=other", "datasets.allow_mismatch=true")
    assert "warning: datasets.tokenizer_used: got 'other'" in capfd.readouterr().err


def test_an_uneven_batch_is_refused_with_what_is_valid(new_trial: NewTrial) -> None:
    errors = finish(spawn(new_trial("training.batch_size=9"), 2), expect=1)  # 1 is torchrun's own
    assert "training.batch_size: got 9, valid: a multiple of the 2 processes" in errors


def test_a_token_outside_the_vocabulary_names_its_place(
    train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tokens = np.full(LENGTH * 50, 5)
    tokens[LENGTH * 7 + 3] = 70
    trial = train(
        f"datasets.path={write_dataset(tmp_path / 'bad', [tokens])}",
        "training.shuffle=false",
        "training.val_interval=0",
        expect=2,
    )
    said = capfd.readouterr().err
    assert "tiny_0.bin chunk 7" in said
    assert "70" in said
    assert trial.saved_steps() == []


def test_the_oracle_stays_at_the_floor(train: Train) -> None:
    trial = train("training.use_oracle=true")
    assert max(trial.losses) < 1e-6
    assert max(trial.validations.values()) < 1e-6
    assert {row["accuracy"] for row in trial.rows if "loss" in row} == {1.0}
    assert trial.saved_steps() == [6]


@pytest.mark.parametrize("flaw", ["shifted targets", "padding trained on", "wrong tokens"])
def test_the_oracle_finds_a_planted_flaw(
    train: Train, new_trial: NewTrial, capfd: pytest.CaptureFixture[str], flaw: str
) -> None:
    from tmrc.data.batches import BatchReader
    from tmrc.train import batch

    targets, read = batch.next_token_targets, BatchReader.read
    with pytest.MonkeyPatch.context() as patch:
        if flaw == "shifted targets":
            patch.setattr(batch, "next_token_targets", lambda tokens, lengths: targets(tokens, lengths).roll(1, 1))
        elif flaw == "padding trained on":
            patch.setattr(batch, "next_token_targets", lambda tokens, lengths: targets(tokens, lengths * 0 + LENGTH))
        else:

            def spoilt(self, items, out=None):  # type: ignore[no-untyped-def]
                result = read(self, items, out)
                result[-1, 5] += 1
                return result

            patch.setattr(BatchReader, "read", spoilt)
        trial = train("training.use_oracle=true", "training.epochs=1", "training.train_steps=100", expect=2)
    said = capfd.readouterr().err
    assert "training.use_oracle" in said
    assert "tiny_" in said
    assert trial.events("failed")


def test_usage(capfd: pytest.CaptureFixture[str]) -> None:
    from tmrc.train.run import main

    assert main([]) == 2
    assert main(["/nowhere"]) == 2
    assert "usage" in capfd.readouterr().err
