"""A tiny run on a private cluster: submitted as a user does, watched through its files, compared with another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests.slurm.cluster import Cluster
from tmrc.config.rundir import RunDir, read_jsonl

ROOT = Path(__file__).parents[2]
PATIENCE = 400.0  # seconds for anything to happen; the machine may be busy
STEPS = 16
VOCAB, LENGTH = 64, 16
EXACT = ("step", "loss", "val_loss", "grad_norm", "lr", "tokens")  # what must be the same bit for bit


def write_data(folder: Path, beyond: bool = False) -> Path:
    """A data set in which something can be learnt: documents that count upwards. `beyond`: past its own vocabulary."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    documents: list[int] = []
    while len(documents) < 100 * LENGTH:
        start, length = random.integers(2, 40), random.integers(5, 20)
        documents += [*range(start, start + length), 1]
    if beyond:
        documents = [VOCAB + 1] * len(documents)
    np.array(documents, dtype="uint16").tofile(folder / "tiny_0.bin")
    info = {"tokenizer": "tiny", "file_prefix": str(folder / "tiny"), "dtype": "uint16", "vocab_size": VOCAB}
    (folder / "metadata.yaml").write_text(yaml.safe_dump({"name": "tiny", "tokenized_info": info}))
    return folder


def configuration(folder: Path, data: Path, launch: dict[str, Any], **training: Any) -> dict[str, Any]:
    """A model that trains `STEPS` steps on a CPU, slowly enough to be interrupted."""
    tags = training.pop("tags", ["step_seconds=0.1"])
    usual = {
        "artifacts_path": str(folder / "runs"), "train_steps": STEPS, "epochs": 1000, "batch_size": 8,
        "log_interval": 1, "val_interval": 5, "val_batches": 4, "micro_batch_size": 2, "device": "cpu",
    }  # fmt: skip
    return {
        "datasets": {"path": str(data), "tokenizer_used": None},
        "tokenizer": {"name": None, "vocab_size": VOCAB},
        "model": {"context_length": LENGTH, "d_model": 32, "n_head": 2, "n_layer": 1},
        "optimizer": {"lr": 0.01},
        "training": usual | training,
        "wandb_log": {"mode": "disabled", "tags": tags},
        "launch": {"gpus_per_node": 0, "cpus_per_task": 1, "mem": "2G", "time": "10", **launch},
    }


@dataclass
class Live:
    """A run that has been submitted to `cluster`, where `nodes` are its own."""

    cluster: Cluster
    nodes: tuple[str, ...]
    run: RunDir
    job_id: str

    @classmethod
    def submit(
        cls, cluster: Cluster, nodes: tuple[str, ...], folder: Path, values: dict[str, Any], array: bool
    ) -> Live:
        """By `tmrc-submit`, or as a task of an array."""
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "tiny.yaml"
        file.write_text(yaml.safe_dump(values))
        said = json.loads(submit_command(cluster, *(["--array"] if array else ["--json"]), str(file)))
        return cls(cluster, nodes, RunDir(Path(said["run_dir"])), said["job_id"])

    def resume(self) -> None:
        """What a person does with a run that has been cancelled."""
        self.job_id = json.loads(submit_command(self.cluster, "--json", "--resume", str(self.run.path)))["job_id"]

    @property
    def rows(self) -> list[dict[str, Any]]:
        return read_jsonl(self.run.metrics)

    @property
    def exact_rows(self) -> list[dict[str, Any]]:
        return [{name: row[name] for name in EXACT if name in row} for row in self.rows]

    @property
    def tensors(self) -> dict[str, bytes]:
        """The last checkpoint's tensors, byte for byte."""
        folder = self.run.checkpoints / f"step_{STEPS:08d}"
        return {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}

    @property
    def steps_done(self) -> int:
        return max((row["step"] for row in self.rows if "loss" in row), default=0)

    @property
    def repeated_steps(self) -> int:
        """Steps that were done more than once: work that was lost."""
        notes = (self.run.path / "passes_0").read_text().splitlines()
        return len(set(notes)) - STEPS

    def events(self, *names: str) -> list[dict[str, Any]]:
        return [row for row in read_jsonl(self.run.events) if row["event"] in names]

    def ended(self, attempt: int) -> dict[str, Any] | None:
        """How an attempt ended, once it has."""
        file = self.run.attempt(attempt) / "job.json"
        found: dict[str, Any] | None = json.loads(file.read_text()) if file.exists() else None
        return found

    @property
    def log(self) -> str:
        """What the job printed on its first node."""
        return next(self.run.submitit.glob("*_0_log.out")).read_text()

    @property
    def attempts(self) -> int:
        return len(list((self.run.path / "attempts").glob("[0-9]*")))

    def rank(self, number: int) -> int:
        """The process of a rank of the last attempt."""
        file = self.run.attempt(self.attempts) / f"rank_{number}.pid"
        return int(file.read_text().split()[1])

    def tasks(self) -> list[int]:
        """The processes that srun has started, one a node."""
        found = self.cluster.processes(*self.nodes)
        return [pid for pid, words in found.items() if "launch.node_main" in words and not _has_parent(pid, found)]

    def show(self) -> dict[str, str]:
        """What Slurm says of the job now."""
        words = self.cluster.call("scontrol", "show", "job", "-o", self.job_id, check=False).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, condition: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
        """Wait until the condition holds. Raises AssertionError with what is known."""
        deadline = time.monotonic() + patience
        while not condition():
            assert time.monotonic() < deadline, f"waited {patience:g} s for {what}\n{self.story()}"
            time.sleep(0.2)

    def wait_for_step(self, step: int) -> None:
        self.wait(lambda: self.steps_done >= step, f"step {step}")

    def wait_until_held(self) -> None:
        self.wait(lambda: len(list(self.run.path.glob("held_*"))) >= 1, "a rank that is held")

    def wait_until_empty(self) -> None:
        """Until Slurm has no job of the run and no process of it is left."""
        names = ("-n", ",".join(self._names))
        # With process groups nobody but the rank itself ends what its torchrun has left (tmrc.train.stop).
        leaving = 75.0 if self.cluster.options.proctrack == "pgid" else 30.0
        self.wait(lambda: self.cluster.has_no_job(*names), "the job's end")
        self.wait(lambda: not self.cluster.processes(*self.nodes), "the end of all processes", leaving)

    def abandon(self) -> None:
        """Cancel what there is of it, without waiting for anything."""
        for name in self._names:
            self.cluster.call("scancel", "-n", name, check=False)

    @property
    def _names(self) -> tuple[str, str]:
        """Of the jobs: a run's has its own, an array that of the sweep."""
        return self.run.run_id, f"sweep-{self.run.run_id}"

    def story(self) -> str:
        """Everything that helps to find out what went wrong."""
        parts = [str(self.run.path), *(json.dumps(row) for row in read_jsonl(self.run.events))]
        parts += [f"{file.parent.name}/{file.name}: {file.read_text()}" for file in self._files("attempts/*/*.json")]
        parts += [f"{file.name}:\n{file.read_text(errors='replace')[-3000:]}" for file in self._files("**/*log.out")]
        parts += [self.cluster.call("scontrol", "show", "job", "-o", self.job_id, check=False)]
        parts += [f"{pid} {words}" for pid, words in self.cluster.processes(*self.nodes).items()]
        return "\n".join(parts)

    def _files(self, pattern: str) -> list[Path]:
        return sorted(file for file in self.run.path.parent.glob(f"*/{pattern}") if "owner" not in file.name)


def submit_command(cluster: Cluster, *arguments: str) -> str:
    """What the command prints. Raises AssertionError with its complaint."""
    environment = {**os.environ, **cluster.env, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.slurm.submit", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _has_parent(pid: int, among: dict[int, str]) -> bool:
    """Whether the process is a child of one of the same words (a fork)."""
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return "launch.node_main" in among.get(parent, "")
