"""A trainer without torch that keeps the file contract of tmrc.train; what it does is told by wandb_log.tags.

Tags: `step_seconds=0.05`, `start_seconds=1`, `deaf=1` (never stops), `error=TEXT` (user error), `crash=TEXT`,
`kill=<rank>` (SIGKILL to itself at half the steps), `hang=<rank>` (stands still there, whatever it is told),
`child=1` (every rank starts a child that sleeps), `val=1` (a validation loss at the end: the learning rate).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from launch.processes import end_with_parent
from tmrc.config.load import load_config
from tmrc.config.rundir import EXIT_CRASHED, EXIT_FINISHED, EXIT_USER_ERROR, EXIT_WANTS_REQUEUE, RunDir, append_event


class Trainer:
    def __init__(self, path: Path) -> None:
        self.run = RunDir(path)
        self.config = load_config(self.run.config)
        self.tags = dict(tag.split("=", 1) for tag in self.config.wandb_log.tags)
        self.rank = int(os.environ.get("RANK", 0))
        self.attempt = int(os.environ["TMRC_ATTEMPT"])
        self.stop = False
        self.step = 0

    def tag(self, name: str) -> float:
        return float(self.tags.get(name, 0))

    def say(self, event: str, **fields: Any) -> None:
        if self.rank == 0:
            append_event(self.run, event, attempt=self.attempt, step=self.step, **fields)

    def main(self) -> int:
        end_with_parent()  # as the trainer's ranks end with their torchrun
        time.sleep(self.tag("start_seconds"))
        for signum in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self.asked)
        folder = self.run.attempt(self.attempt)
        (folder / f"rank_{self.rank}.pid").write_text(f"{socket.gethostname()} {os.getpid()}\n")
        (folder / f"rank_{self.rank}.env").write_text(json.dumps(dict(os.environ)))
        (folder / f"rank_{self.rank}.code").write_text(sys.modules[RunDir.__module__].__file__ or "")
        if self.tag("child"):
            subprocess.Popen(["sleep", "600"])
        code, message = self.train()
        status = {EXIT_FINISHED: "finished", EXIT_WANTS_REQUEUE: "stopped"}.get(code, "failed")
        row = {"exit_code": code, "status": status, "step": self.step, "message": message}
        (folder / f"rank_{self.rank}.json").write_text(json.dumps(row))
        return 0 if status != "failed" else code

    def asked(self, *_: Any) -> None:
        self.stop = not self.tag("deaf")

    def train(self) -> tuple[int, str]:
        total = self.config.training.train_steps
        saved = self.run.path / "standin.step"
        self.step = int(saved.read_text()) if saved.exists() else 0
        self.say("resumed" if self.step else "started", total_steps=total, world_size=int(os.environ["WORLD_SIZE"]))
        if "error" in self.tags:
            return EXIT_USER_ERROR, self.tags["error"]
        while self.step < total and not self.stop:
            time.sleep(self.tag("step_seconds"))
            self.step += 1
            if "crash" in self.tags and self.step > total // 2:
                return EXIT_CRASHED, self.tags["crash"]
            if self.tags.get("kill") == str(self.rank) and self.step > total // 2:
                os.kill(os.getpid(), signal.SIGKILL)
            while self.tags.get("hang") == str(self.rank) and self.step > total // 2:
                time.sleep(60)
            if self.rank == 0:
                with self.run.metrics.open("a") as file:
                    row = {"step": self.step, "loss": 10 / self.step, "lr": 1e-4, "tokens_per_s": 12345.6}
                    file.write(json.dumps(row) + "\n")
        if self.rank == 0 and self.tag("val") and self.step == total:
            with self.run.metrics.open("a") as file:
                file.write(json.dumps({"step": self.step, "val_loss": self.config.optimizer.lr}) + "\n")
        if self.rank == 0:
            saved.write_text(str(self.step))
        self.say("checkpoint", path=str(saved), seconds=0.0)
        if self.stop and self.step < total:
            return EXIT_WANTS_REQUEUE, ""
        self.say("finished")
        return EXIT_FINISHED, ""


if __name__ == "__main__":
    sys.exit(Trainer(Path(sys.argv[1])).main())
