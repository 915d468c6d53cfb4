"""The files of one run: where they are, who may write them, and what a run's exit code means.

artifacts_path/<run_id>/
  config.yaml      the whole configuration, resolved, as it was at submission
  run.json         id, versions, git commit, dirty diff, submit command
  metrics.jsonl    one object a logged step; after a resume each step stands there once
  ledger.bin       one record a step of the samples that it used (see tmrc.train.ledger)
  data.json        name, size and times of each shard when the run began
  events.jsonl     submitted, started, signal, checkpoint, requeued, resumed, finished, failed, goodput
  allowed.json     keys that were let change in the middle of the run, with the values that they were let have
  cancel.json      there from `tmrc cancel` until the run is resumed
  attempts/<n>/    what each rank of attempt n ended with, rank_<k>.json, and where its time went, spent.json
  checkpoints/     step_<8 digits>/, and .attempt_<n>/ of the attempt that may write (see tmrc.train.fence)
  submitit/        Submitit's own files and the logs; 0700, since it holds pickles
  compile_cache/   what torch has compiled, an archive a kind of node (see launch.compile_cache); 0700, since it is code
  code/            the packages as they were at submission
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EXIT_FINISHED = 0
EXIT_CRASHED = 1
EXIT_USER_ERROR = 2
EXIT_WANTS_REQUEUE = 75
_STEP_NAME = re.compile(r"step_([0-9]{8,15})")


@dataclass(frozen=True)
class RunDir:
    """Paths of one run directory."""

    path: Path

    @property
    def run_id(self) -> str:
        """The run's id is the directory's name."""
        return self.path.resolve().name

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def run_json(self) -> Path:
        return self.path / "run.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.bin"

    @property
    def data(self) -> Path:
        return self.path / "data.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def submitit(self) -> Path:
        return self.path / "submitit"

    @property
    def code(self) -> Path:
        return self.path / "code"

    @property
    def compile_cache(self) -> Path:
        return self.path / "compile_cache"

    @property
    def allowed(self) -> Path:
        """Keys of the configuration that somebody has let change between attempts, with their new values."""
        return self.path / "allowed.json"

    @property
    def cancel(self) -> Path:
        """There while somebody wants the run neither started nor requeued."""
        return self.path / "cancel.json"

    @property
    def wandb(self) -> Path:
        return self.path / "wandb"

    def attempt(self, number: int) -> Path:
        """Directory of attempt `number`, counted from 1."""
        return self.path / "attempts" / str(number)


def checkpoint_name(step: int) -> str:
    """Name of the directory of the checkpoint of `step`."""
    return f"step_{step:08d}"


def checkpoint_steps(run: RunDir) -> dict[int, Path]:
    """Step -> directory of all checkpoints of the run, newest first, not verified."""
    if not run.checkpoints.is_dir():
        return {}
    named = {int(match[1]): path for path in run.checkpoints.iterdir() if (match := _STEP_NAME.fullmatch(path.name))}
    return {step: path for step, path in sorted(named.items(), reverse=True) if path.name == checkpoint_name(step)}


def append_event(run: RunDir, event: str, **fields: Any) -> None:
    """Append one line to events.jsonl, durable when this returns. Raises OSError, also when that is no plain file."""
    _append_event(run, event, fields, durable=True)


def note_event(run: RunDir, event: str, **fields: Any) -> None:
    """As `append_event`, but not durable: for whoever writes to many runs and then syncs their files."""
    _append_event(run, event, fields, durable=False)


def _append_event(run: RunDir, event: str, fields: Mapping[str, Any], durable: bool) -> None:
    row = {"event": event, "time": time.time(), **fields}
    line = json.dumps(row, ensure_ascii=False) + "\n"
    # A pipe in its place must not hold us, nor a link lead us elsewhere.
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(run.events, flags, 0o644)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.ENXIO, "is not a file", str(run.events))
        data = (b"" if _ends_a_line(fd) else b"\n") + line.encode()
        while data:
            data = data[os.write(fd, data) :]
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)


def _ends_a_line(fd: int) -> bool:
    """Whether a file ends with a whole line; not so when the disk was full in the middle of one."""
    size = os.fstat(fd).st_size
    return size == 0 or os.pread(fd, 1, size - 1) == b"\n"


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a .jsonl file, oldest first; a last line cut off by a kill is left out. No file: none."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows
