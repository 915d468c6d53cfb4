"""Starting `tmrc-submit` as a user does, in real processes, and looking at what it leaves."""

from __future__ import annotations

import array
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
STANDIN = "tests.launch.standin.submit"
REAL = "launch.cli.submit"


def write_data(folder: Path, tokens: int = 4096, vocab_size: int = 100) -> Path:
    """A data set of `tokens` tokens in tatm's format."""
    folder.mkdir(parents=True)
    info = {"tokenizer": "toy", "file_prefix": str(folder / "toy"), "dtype": "uint16", "vocab_size": vocab_size}
    (folder / "metadata.yaml").write_text(yaml.safe_dump({"name": "toy", "tokenized_info": info}))
    (folder / "toy_0.bin").write_bytes(array.array("H", [2 + n % 90 for n in range(tokens)]).tobytes())
    return folder


def write_config(tmp_path: Path, **sections: dict[str, Any]) -> Path:
    """A small configuration beside a small data set; `sections` are merged in."""
    data = tmp_path / "data"
    if not data.exists():
        write_data(data)
    values: dict[str, dict[str, Any]] = {
        "datasets": {"path": str(data)},
        "model": {"n_head": 1, "d_model": 16, "n_layer": 1, "context_length": 16, "autocast_precision": "float32"},
        "tokenizer": {"vocab_size": 128},
        "training": {
            "artifacts_path": str(tmp_path / "artifacts"),
            "train_steps": 20,
            "batch_size": 4,
            "log_interval": 1,
            "val_interval": 0,
            "device": "cpu",
        },
        "wandb_log": {"mode": "disabled"},
    }
    for section, keys in sections.items():
        values.setdefault(section, {}).update(keys)
    file = tmp_path / "toy.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


@dataclass
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


def call(*arguments: object, module: str = STANDIN, env: dict[str, str] | None = None, cwd: Path = ROOT) -> Done:
    """Run `tmrc-submit` to its end, in any directory."""
    env = {"PYTHONPATH": str(ROOT), **(env or {})} if cwd != ROOT else env
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        capture_output=True, text=True, timeout=300, cwd=cwd, env={**os.environ, **(env or {})},
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


class Started:
    """`tmrc-submit --local` in a session of its own, as in a terminal of its own."""

    def __init__(self, config: Path, *arguments: object, module: str = STANDIN, **environment: str) -> None:
        self.artifacts = config.parent / "artifacts"
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, "--local", str(config), *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True,
            env={**os.environ, **environment},
        )  # fmt: skip

    @property
    def run_dir(self) -> Path:
        wait_for(lambda: any(self.artifacts.glob("*/run.json")), "the run directory")
        return next(self.artifacts.glob("*/run.json")).parent

    def wait_for_step(self, step: int) -> None:
        metrics = self.run_dir / "metrics.jsonl"
        wait_for(lambda: metrics.exists() and metrics.read_bytes().count(b"\n") >= step, f"step {step}")

    def wait_for_file(self, name: str) -> Path:
        file = self.run_dir / name
        wait_for(file.exists, name)
        return file

    def interrupt(self) -> None:
        """Ctrl-C: the terminal sends SIGINT to every process of the foreground group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> Done:
        out, err = self.process.communicate(timeout=240)
        return Done(self.process.returncode, out, err)


def wait_for(condition: Callable[[], object], what: str, patience: float = 240.0) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"waited {patience} seconds for {what}"
        time.sleep(0.05)


def processes_of(run_dir: Path) -> dict[int, str]:
    """The processes that belong to a run, by their command lines: its path is in their environment or arguments."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            text = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
            if str(run_dir).encode() in text and int(process.name) != os.getpid():
                found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def living(run_dir: Path) -> list[str]:
    return list(processes_of(run_dir).values())


def events(run_dir: Path, kind: str | None = None) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    return [row for row in rows if kind in (None, row["event"])]


def steps(run_dir: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def tags(**values: object) -> str:
    """An override that tells the stand-in trainer what to do."""
    return f"wandb_log.tags={json.dumps([f'{name}={value}' for name, value in values.items()])}"
