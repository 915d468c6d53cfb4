"""Weights & Biases beside the run: a process of its own that reads metrics.jsonl and reports what it finds there.

Nothing that happens to it, to wandb or to the network reaches training, which only writes its file. It is told to
finish by the end of its standard input, so it also ends when training is killed.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys

from tmrc.config.rundir import RunDir
from tmrc.config.schema import WandbConfig

FINISH_SECONDS = 30.0


class Tracker:
    """The reporting process of one attempt."""

    def __init__(self, run: RunDir, config: WandbConfig) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        if config.mode == "disabled":
            return
        with (run.path / "wandb.log").open("ab") as log, contextlib.suppress(OSError):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tmrc.train.wandb_sync", str(run.path)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a signal to the run's process group is not meant for it
            )

    def finish(self, wait: bool) -> None:
        """Let it report the last rows; wait for that only when nothing presses."""
        if self._process is None or self._process.stdin is None:
            return
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        if not wait:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(FINISH_SECONDS)
            return
        self._process.kill()
