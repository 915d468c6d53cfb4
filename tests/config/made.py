"""Run directories made by hand, and what holds for every account of one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tmrc.config.goodput import BUCKETS, RunAccount, account
from tmrc.config.rundir import RunDir

T = 1_000_000.0  # the day it begins


class Made:
    """A run directory by hand. Times count from T."""

    def __init__(self, path: Path) -> None:
        self.run = RunDir(path)
        path.mkdir(exist_ok=True)

    def event(self, event: str, at: float, **fields: Any) -> Made:
        with self.run.events.open("a") as file:
            file.write(json.dumps({"event": event, "time": T + at, **fields}) + "\n")
        return self

    def began(self, number: int, at: float, job: str = "7") -> Made:
        return self.file(number, "owner.json", {"began": T + at, "job_id": job, "executor": "slurm"})

    def ended(self, number: int, at: float, status: str = "finished", **fields: Any) -> Made:
        return self.file(number, "job.json", {"ended": T + at, "status": status, "action": "none", **fields})

    def spent(
        self, number: int, began: float, at: float, steps: int = 0, /, phase: str = "step", **seconds: float
    ) -> Made:
        content = {"began": T + began, "at": T + at, "phase": phase, "step": steps, "seconds": seconds}
        return self.file(number, "spent.json", content)

    def saved(self, number: int, at: float, steps: int, cost: float, /, **spent: float) -> Made:
        return self.event("checkpoint", at, attempt=number, step=steps, seconds=cost, spent=spent)

    def file(self, number: int, name: str, content: dict[str, Any]) -> Made:
        folder = self.run.attempt(number)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
        return self

    def account(self, now: float = 1e6, **about: Any) -> RunAccount:
        found = account(self.run, T + now, **about)
        check(found)
        return found


def check(found: RunAccount) -> None:
    """Nothing is negative, and all of it adds up."""
    assert set(found.seconds) == set(BUCKETS)
    queued = 0.0
    for one in found.attempts:
        assert set(one.seconds) == set(BUCKETS) and min(one.seconds.values()) >= 0, one
        assert one.ended >= one.began
        on_nodes = math.fsum(seconds for name, seconds in one.seconds.items() if name != "queue")
        assert on_nodes == pytest.approx(one.ended - one.began, abs=1e-3)
        queued += one.seconds["queue"]
    for name in BUCKETS[1:]:
        assert found.seconds[name] == pytest.approx(math.fsum(one.seconds[name] for one in found.attempts), abs=1e-3)
    assert found.seconds["queue"] >= queued - 1e-3  # and what it waits now
    assert found.wall == pytest.approx(found.seconds["queue"] + found.allocated, abs=1e-2)
    for before, after in zip(found.attempts, found.attempts[1:], strict=False):
        assert after.began >= before.ended
    assert found.goodput is None or 0 <= found.goodput <= 1 + 1e-9
    assert found.save_every is None or found.save_every > 0
