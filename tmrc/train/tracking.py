"""Weights & Biases beside the run: a process of its own that reads metrics.jsonl and reports what it finds there.

Nothing that happens to it, to wandb or to the network reaches training, which only writes its file. It is told to
finish by the end of its standard input, so it also ends when training is killed.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import Literal

from tmrc.config.rundir import RunDir
from tmrc.config.schema import WandbConfig

FINISH_SECONDS = 30.0


class Tracker:
    """The reporting process of one attempt."""

    def __init__(self, run: RunDir, config: WandbConfig, attempt: int) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        if config.mode == "disabled" or (config.mode == "auto" and os.environ.get("WANDB_MODE") == "disabled"):
            return
        with contextlib.suppress(OSError), (run.path / "wandb.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tmrc.train.wandb_sync", str(run.path), str(attempt)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a signal to the run's process group is not meant for it
            )

    def finish(self, status: Literal["finished", "stopped", "failed"]) -> None:
        """Let it report the last rows, and how the attempt ended; wait for that only when nothing presses."""
        if self._process is None or self._process.stdin is None:
            return
        with contextlib.suppress(OSError):
            self._process.stdin.write(f"{status}\n".encode())
            self._process.stdin.flush()
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        if status != "finished":
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(FINISH_SECONDS)
            return
        self._process.kill()
