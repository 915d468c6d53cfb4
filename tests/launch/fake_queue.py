"""Stand-ins for squeue, sacct and scancel that answer from files, and run directories made by hand."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

SQUEUE = """#!/bin/bash
here=$(dirname "$0"); echo "squeue $*" >> "$here/calls"
env | grep -E '^(SQUEUE|SACCT)_' >> "$here/leaked"
[[ -e $here/squeue.err ]] && cat "$here/squeue.err" >&2 && exit 1
cat "$here/queue" 2>/dev/null; true
"""
SACCT = """#!/bin/bash
here=$(dirname "$0"); echo "sacct $*" >> "$here/calls"
[[ -e $here/sacct.err ]] && cat "$here/sacct.err" >&2 && exit 1
cat "$here/accounts" 2>/dev/null; true
"""
SCANCEL = """#!/bin/bash
here=$(dirname "$0"); echo "scancel $*" >> "$here/calls"
[[ -e $here/scancel.err ]] && cat "$here/scancel.err" >&2 && exit 1
case "$*" in *--signal*) ;; *) rm -f "$here/queue" ;; esac
"""


class FakeSlurm:
    """squeue, sacct and scancel in a directory that comes first on PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for name, text in (("squeue", SQUEUE), ("sacct", SACCT), ("scancel", SCANCEL)):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        self.env = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "COLUMNS": ""}

    def queue(self, *rows: str) -> None:
        """Lines of `id|state|nodes|start|time left|reason`."""
        (self.folder / "queue").write_text("".join(f"{row}\n" for row in rows))

    def accounts(self, *rows: str) -> None:
        """Lines of `id|state|exit code|nodes|end`."""
        (self.folder / "accounts").write_text("".join(f"{row}\n" for row in rows))

    def fails(self, command: str, words: str) -> None:
        (self.folder / f"{command}.err").write_text(words + "\n")

    @property
    def calls(self) -> list[str]:
        file = self.folder / "calls"
        return file.read_text().splitlines() if file.exists() else []


class HandMade:
    """A run directory as a run would have left it. Times count from `began`."""

    def __init__(self, artifacts: Path, run_id: str = "toy-20260101-000000-abcd", began: float | None = None) -> None:
        self.path = artifacts / run_id
        self.path.mkdir(parents=True)
        (self.path / "submitit").mkdir()
        (self.path / "config.yaml").write_text("{}\n")
        (self.path / "run.json").write_text(json.dumps({"id": run_id}))
        self.clock = (time.time() if began is None else began) - 1000

    def event(self, event: str, **fields: Any) -> HandMade:
        self.clock += 1
        with (self.path / "events.jsonl").open("a") as file:
            file.write(json.dumps({"event": event, "time": self.clock, **fields}) + "\n")
        return self

    def submitted(self, job_id: str, executor: str = "slurm", **fields: Any) -> HandMade:
        return self.event("submitted", executor=executor, job_id=job_id, **fields)

    def began(self, number: int = 1, job_id: str | None = "7", **fields: Any) -> HandMade:
        """Attempt `number` on Slurm, or here with `job_id` None."""
        self.clock += 1
        owner = {
            "host": "node1" if job_id else socket.gethostname(), "pid": os.getpid(), "started": None, "job_id": job_id,
            "executor": "slurm" if job_id else "local", "nodes": ["node1", "node2"] if job_id else [],
            "logs": [], "log_offset": 0, "began": self.clock, "checkpoint": None,
        }  # fmt: skip
        return self._attempt(number, "owner.json", owner | fields)

    def ended(self, number: int = 1, status: str = "finished", **fields: Any) -> HandMade:
        self.clock += 1
        codes = {"finished": 0, "failed": 1, "stopped": 75, "cancelled": 75}
        ending = {"exit_code": codes.get(status, 1), "status": status, "message": "", "step": None, "kind": status}
        return self._attempt(number, "job.json", ending | {"ended": self.clock, "action": "none"} | fields)

    def trains(self, number: int = 1, begun: int = 0, steps: int = 10, total: int = 100) -> HandMade:
        """The attempt has started and logged."""
        self.event("resumed" if begun else "started", attempt=number, step=begun, total_steps=total)
        with (self.path / "metrics.jsonl").open("a") as file:
            for step in range(begun + 1, begun + steps + 1):
                self.clock += 1
                row = {
                    "step": step,
                    "loss": 10 / step,
                    "tokens": step * 12345,
                    "tokens_per_s": 12345 * (2 if step % 2 else 0.5),  # a single row's value says little
                    "time": self.clock,
                }
                file.write(json.dumps(row) + "\n")
        return self

    def saved(self, step: int) -> HandMade:
        (self.path / "checkpoints" / f"step_{step:08}").mkdir(parents=True)
        return self

    def _attempt(self, number: int, name: str, content: dict[str, Any]) -> HandMade:
        folder = self.path / "attempts" / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
        return self
