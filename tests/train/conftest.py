"""Tiny data and runs that train in well under a second."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from tmrc.config.load import load_config, write_config
from tmrc.config.rundir import RunDir, read_jsonl

VOCAB, LENGTH = 64, 16

TINY = [
    "tokenizer.name=null",
    "datasets.tokenizer_used=null",
    f"tokenizer.vocab_size={VOCAB}",
    f"model.context_length={LENGTH}",
    "model.d_model=32",
    "model.n_head=2",
    "model.n_layer=1",
    "training.batch_size=8",
    "training.train_steps=6",
    "training.epochs=1000",
    "training.log_interval=1",
    "training.val_interval=3",
    "training.val_batches=1",
    "training.device=cpu",
    "optimizer.lr=0.01",
    "wandb_log.mode=disabled",
]


def write_dataset(folder: Path, shards: Sequence[np.ndarray], vocab_size: int = VOCAB) -> Path:
    """A data set as tatm lays it out."""
    folder.mkdir(parents=True)
    for number, tokens in enumerate(shards):
        tokens.astype("uint16").tofile(folder / f"tiny_{number}.bin")
    info = {
        "tokenizer": "tiny",
        "file_prefix": str(folder / "tiny"),
        "dtype": "uint16",
        "file_extension": "bin",
        "vocab_size": vocab_size,
    }
    metadata = {"name": "tiny", "dataset_path": str(folder), "data_content": "text", "tokenized_info": info}
    (folder / "metadata.yaml").write_text(yaml.safe_dump(metadata))
    return folder


def tokens_that_can_be_learnt(count: int, seed: int = 0) -> np.ndarray:
    """Documents that count upwards from a random start, each ended by EOS 1."""
    random = np.random.default_rng(seed)
    documents: list[int] = []
    while len(documents) < count:
        start, length = random.integers(2, 40), random.integers(5, 20)
        documents += [*range(start, start + length), 1]
    return np.array(documents[:count])


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards: one cut short in its last sequence, one with a preallocated tail of zeros."""
    first = tokens_that_can_be_learnt(LENGTH * 60 - 5)
    second = np.concatenate([tokens_that_can_be_learnt(LENGTH * 40 - 7, 1), np.zeros(LENGTH * 12 + 7)])
    return write_dataset(tmp_path_factory.mktemp("data") / "tiny", [first, second])


@dataclass(frozen=True)
class Trial:
    """A run directory and what happened in it."""

    run: RunDir

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Rows of metrics."""
        return read_jsonl(self.run.metrics)

    @property
    def steps(self) -> list[int]:
        """Steps of the training rows."""
        return [row["step"] for row in self.rows if "loss" in row]

    @property
    def losses(self) -> list[float]:
        """Losses of the training rows."""
        return [row["loss"] for row in self.rows if "loss" in row]

    @property
    def validations(self) -> dict[int, float]:
        """Step -> validation loss."""
        return {row["step"]: row["val_loss"] for row in self.rows if "val_loss" in row}

    @property
    def exact_rows(self) -> list[dict[str, float]]:
        """What must be equal bit for bit between an interrupted and an uninterrupted run."""
        kept = ("step", "loss", "val_loss", "grad_norm", "lr", "tokens")
        return [{name: row[name] for name in kept if name in row} for row in self.rows]

    @property
    def ledger(self) -> bytes:
        """The record of the samples that each step used, byte for byte."""
        return self.run.ledger.read_bytes()

    def events(self, name: str) -> list[dict[str, Any]]:
        """Events of one kind."""
        return [event for event in read_jsonl(self.run.events) if event["event"] == name]

    def saved_steps(self) -> list[int]:
        """Steps of the checkpoints that are there."""
        return sorted(int(path.name.removeprefix("step_")) for path in self.run.checkpoints.glob("step_*"))

    def tensor_files(self) -> dict[str, bytes]:
        """The newest checkpoint's tensors, byte for byte."""
        newest = max(self.run.checkpoints.glob("step_*"))
        return {path.name: path.read_bytes() for path in newest.glob("*.safetensors")}


NewTrial = Callable[..., Trial]


@pytest.fixture
def new_trial(tmp_path: Path, dataset: Path) -> NewTrial:
    """Makes a run directory: `new_trial("training.seed=1", ...)`."""
    numbers = itertools.count()

    def make(*overrides: str) -> Trial:
        run = RunDir(tmp_path / f"run{next(numbers)}")
        run.path.mkdir()
        write_config(load_config("default", [*TINY, f"datasets.path={dataset}", *overrides]), run.config)
        return Trial(run)

    return make


@contextlib.contextmanager
def training_here() -> Iterator[Callable[[RunDir], int]]:
    """Trains runs in this process, on one thread: `main(run)` returns the exit code."""
    import signal

    from tmrc.train.run import main
    from tmrc.train.stop import STOP_SIGNALS

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield lambda run: main([str(run.path)])
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def saved_at_once(patch: pytest.MonkeyPatch) -> None:
    """Training stands still while a checkpoint is written."""
    from tmrc.train.keeper import Keeper

    original = Keeper.begin_save

    def begin_save(self: Keeper, *args: Any) -> None:
        original(self, *args)
        assert self._saving is not None
        self._saving.written.exception()  # waits for it

    patch.setattr(Keeper, "begin_save", begin_save)


def pretend_code(run: RunDir) -> None:
    """What a launcher looks for before it goes on with a run that it has not made."""
    for package in ("tmrc", "launch"):
        (run.code / package).mkdir(parents=True)
        (run.code / package / "__init__.py").touch()


@pytest.fixture
def train(new_trial: NewTrial) -> Iterator[Callable[..., Trial]]:
    """Trains in this process: `train("training.seed=1", expect=0)`, or goes on with `again=trial`."""
    with training_here() as main:

        def run(*overrides: str, expect: int = 0, again: Trial | None = None) -> Trial:
            trial = again or new_trial(*overrides)
            assert main(trial.run) == expect
            return trial

        yield run


def spawn(trial: Trial, processes: int = 1, trainer: Sequence[str] = ("-m", "tmrc.train")) -> subprocess.Popen[str]:
    """Start the run in processes of its own, as the launcher does."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, *trainer]
    if processes > 1:
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={processes}",
            *trainer,
        ]
    return subprocess.Popen(
        [*command, str(trial.run.path)], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(process: subprocess.Popen[str], expect: int = 0) -> str:
    """Standard error of the ended process, which must have left with the exit code `expect`."""
    _, errors = process.communicate(timeout=400)
    assert process.returncode == expect, errors
    return errors
