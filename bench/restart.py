"""From a job's start on its node to the first step: new, and back in the queue on a node that knows nothing of the run.

Both are what a Slurm job starts on its node (launch.job), with torchrun and the trainer in processes of their own. Each
start gets an empty directory for temporary files, as on a node where nothing was compiled before; what a warm start has
beyond that stands in the run's directory. The model has as many layers as the default one, but is narrow. It is
compiled for the CPU, which needs a C++ compiler.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml

from bench.harness import ROOT, Aim, Given, Missing, Result, Side, compare
from launch.attempts import begin_attempt, this_process
from launch.job import ATTEMPT, MEETING
from tests.train.conftest import write_dataset
from tmrc.config.rundir import RunDir, read_jsonl

NODE = "import sys; from launch.job import TrainJob; TrainJob(sys.argv[1], 1)()"
LENGTH, VOCAB = 64, 2048
PATIENCE = 900.0  # seconds for anything to happen
AIM = Aim("at most", 0.25)


def run(given: Given) -> list[Result]:
    """Seconds to the first step, warm against cold."""
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        raise Missing("no C++ compiler, without which nothing is compiled for a CPU")
    nodes = Nodes(given.scratch)
    restarted = nodes.new_run()
    nodes.first_step(restarted, keeps=True)
    cold = Side("a new run", lambda: nodes.first_step(nodes.new_run()))
    warm = Side("requeued to another node", lambda: nodes.first_step(restarted))
    return [compare("start to first step", AIM, warm, cold, given.repeats)]


@dataclass
class Nodes:
    """As many nodes as are asked for, each used once; runs and the data lie in `folder`."""

    folder: Path
    made: int = 0
    config: Path = field(init=False)

    def __post_init__(self) -> None:
        tokens = np.random.default_rng(0).integers(2, VOCAB, LENGTH * 4000)
        data = write_dataset(self.folder / "data", [tokens], VOCAB)
        self.config = self.folder / "config.yaml"
        self.config.write_text(yaml.safe_dump(configuration(data)))

    def new_run(self) -> RunDir:
        """A run that has not begun."""
        self.made += 1
        found = RunDir(self.folder / f"run-{self.made}")
        found.path.mkdir()
        shutil.copy(self.config, found.config)
        return found

    def first_step(self, of: RunDir, keeps: bool = False) -> float:
        """Seconds from the start of the next attempt's process to the row of its first step; then it is stopped.

        `keeps` waits until what was compiled lies in the run's directory.
        """
        self.made += 1
        empty = self.folder / f"node-{self.made}"
        empty.mkdir()
        number = begin_attempt(of, this_process("bench"))
        steps = last_step(of)
        kept = set(os.environ) - {"TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"}
        given = {name: os.environ[name] for name in kept} | {ATTEMPT: str(number), MEETING: "", "TMPDIR": str(empty)}
        with (of.path / "log").open("ab") as log:
            began = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, "-c", NODE, str(of.path)], cwd=ROOT, env=given, stdout=log, stderr=log
            )
            try:
                wait_for(lambda: last_step(of) > steps, process, of)
                seconds = time.perf_counter() - began
                if keeps:
                    wait_for(lambda: any(of.compile_cache.glob("*.tar")), process, of)
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(PATIENCE)
        shutil.rmtree(empty)
        return seconds


def configuration(data: Path) -> dict[str, dict[str, object]]:
    """A run that logs every step and does not end by itself."""
    forever = 1_000_000
    return {
        "datasets": {"path": str(data)},
        "tokenizer": {"vocab_size": VOCAB},
        "model": {"context_length": LENGTH, "d_model": 128, "n_layer": 8, "autocast_precision": "float32"},
        "training": {
            "compile": True,
            "device": "cpu",
            "batch_size": 4,
            "epochs": forever,
            "train_steps": forever,
            "log_interval": 1,
            "val_interval": 0,
        },
        "wandb_log": {"mode": "disabled"},
    }


def last_step(of: RunDir) -> int:
    """The newest step with a row of metrics."""
    return max((int(row["step"]) for row in read_jsonl(of.metrics)), default=0)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], of: RunDir) -> None:
    """Wait for `condition`. Raises RuntimeError when the process ends before."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            log = (of.path / "log").read_text("utf8", "replace")
            raise RuntimeError(f"the run does not get there: {json.dumps(log[-2000:])}")
        time.sleep(0.02)
