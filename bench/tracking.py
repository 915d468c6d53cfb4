"""What Weights & Biases costs training, well or broken, against tracking switched off.

Trains a small model on a CPU again and again and compares the seconds that went into training steps (spent.json).
Written for an idle machine with at least two cores.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from bench.harness import ROOT, Aim, Comparison, Given, Result
from tests.train.conftest import write_dataset
from tests.wandb_server import API_KEY, wandb_server
from tmrc.config.load import load_config, write_config

# The trainer, which does not wait at its end for what cannot be sent
TRAINER = """
import sys
from tmrc.train import tracking
from tmrc.train.run import main
tracking.FINISH_SECONDS = 1.0
sys.exit(main(sys.argv[1:]))
"""
OFF = "disabled"
COST = Aim("at most", 1.01)
STEPS, LENGTH, VOCAB = 300, 128, 512
Environments = Mapping[str, Mapping[str, str]]


def run(given: Given) -> Iterator[Result]:
    """Each situation in turn, which one first changing from round to round."""
    times: dict[str, list[float]] = {}
    tokens = np.random.default_rng(0).integers(2, VOCAB, LENGTH * 4000)
    data = write_dataset(given.scratch / "data", [tokens], VOCAB)
    numbers = itertools.count()
    with situations() as environments:
        names = list(environments)
        for repeat in range(given.repeats):
            first = repeat % len(names)
            for name in names[first:] + names[:first]:
                folder = given.scratch / f"run_{next(numbers)}"
                times.setdefault(name, []).append(seconds(folder, data, name, environments[name]))
    off = tuple(times.pop(OFF))
    for name, own in times.items():
        yield Comparison(f"{STEPS} steps, tracking: {name}", "tracked", "not tracked", tuple(own), off, COST)


@contextlib.contextmanager
def situations() -> Iterator[Environments]:
    """Name -> environment of what tracking may meet."""
    with wandb_server() as well, wandb_server() as broken, socket.socket() as deaf:
        broken.down = True
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(64)  # connections are taken by the kernel and never answered
        silent = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        yield {
            OFF: {},
            "offline": {},
            "online": well.environment(),
            "answers 500": broken.environment(),
            "refused": {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": API_KEY},
            "black-holed": {"WANDB_BASE_URL": silent, "WANDB_API_KEY": API_KEY},
        }


def seconds(run: Path, data: Path, name: str, environment: Mapping[str, str]) -> float:
    """Train once; returns what its steps took, the wait for data included."""
    run.mkdir()
    mode = name if name in (OFF, "offline") else "online"
    overrides = [
        f"datasets.path={data}", "datasets.tokenizer_used=null", "tokenizer.name=null", f"tokenizer.vocab_size={VOCAB}",
        f"model.context_length={LENGTH}", "model.d_model=128", "model.n_head=4", "model.n_layer=2",
        "training.batch_size=8", "training.epochs=1000", f"training.train_steps={STEPS}", "training.log_interval=1",
        "training.val_interval=0", "training.device=cpu", f"wandb_log.mode={mode}",
    ]  # fmt: skip
    write_config(load_config("default", overrides), run / "config.yaml")
    subprocess.run(
        [sys.executable, "-c", TRAINER, str(run)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, cwd=ROOT,
    )  # fmt: skip
    spent = json.loads((run / "attempts" / "1" / "spent.json").read_bytes())["seconds"]
    return float(spent["step"] + spent["data_wait"])
