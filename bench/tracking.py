"""What Weights & Biases costs training, well or broken: `python -m bench.tracking`.

Trains a small model on a CPU again and again, with tracking switched off and with each of the others in turn, and
compares the seconds that went into training steps (spent.json). Written for an idle machine with at least two cores.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

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
COST = 1.01  # the aim: less than this ratio to tracking switched off
LENGTH, VOCAB = 128, 512
Environments = Mapping[str, Mapping[str, str]]


def main() -> int:
    """Print medians and ratios; returns 1 when an aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--steps", type=int, default=300)
    given = parser.parse_args()
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, situations() as environments:
        tokens = np.random.default_rng(0).integers(2, VOCAB, LENGTH * 4000)
        data = write_dataset(Path(folder) / "data", [tokens], VOCAB)
        for repeat in range(given.repeats):
            names = list(environments)
            for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
                run = Path(folder) / f"{name.replace(' ', '_')}_{repeat}"
                times.setdefault(name, []).append(seconds(run, data, name, environments[name], given.steps))
    print(
        f"{given.steps} steps, {given.repeats} repeats, {os.cpu_count()} cores; seconds in steps and waiting for data"
    )
    print(f"{OFF:22}{statistics.median(times[OFF]):8.3f} s")
    return max(told(name, times[name], times[OFF]) for name in times if name != OFF)


def told(name: str, own: list[float], off: list[float]) -> int:
    """Print one situation's line; 1 when it misses the aim. The ratio is the median over pairs of neighbours."""
    ratios = [mine / without for mine, without in zip(own, off, strict=True)]
    middle = statistics.median(ratios)
    spread = f"{min(ratios):.4f} to {max(ratios):.4f}"
    print(f"{name:22}{statistics.median(own):8.3f} s  ratio {middle:.4f} ({spread}); aim: below {COST}")
    return int(middle >= COST)


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


def seconds(run: Path, data: Path, name: str, environment: Mapping[str, str], steps: int) -> float:
    """Train once; returns what its steps took, the wait for data included."""
    run.mkdir()
    mode = name if name in (OFF, "offline") else "online"
    overrides = [
        f"datasets.path={data}", "datasets.tokenizer_used=null", "tokenizer.name=null", f"tokenizer.vocab_size={VOCAB}",
        f"model.context_length={LENGTH}", "model.d_model=128", "model.n_head=4", "model.n_layer=2",
        "training.batch_size=8", "training.epochs=1000", f"training.train_steps={steps}", "training.log_interval=1",
        "training.val_interval=0", "training.device=cpu", f"wandb_log.mode={mode}",
    ]  # fmt: skip
    write_config(load_config("default", overrides), run / "config.yaml")
    subprocess.run(
        [sys.executable, "-c", TRAINER, str(run)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    spent = json.loads((run / "attempts" / "1" / "spent.json").read_bytes())["seconds"]
    return float(spent["step"] + spent["data_wait"])


if __name__ == "__main__":
    sys.exit(main())
