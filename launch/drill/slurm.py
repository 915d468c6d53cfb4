"""A trial whose run is a job on Slurm: it must come back by itself where it can, and is resumed where it cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from launch.attempts import last_attempt, read_ending
from launch.commands import SilentError, ask
from launch.drill.faults import leave_no_process
from launch.drill.outcome import Setting
from launch.drill.plan import Hit, Plan
from launch.drill.processes import end_all
from launch.drill.scene import Scene, SlurmSide, Trouble
from launch.drill.trial import Stopped, Trial
from launch.status import Asker, RunStatus, statuses
from tmrc.config.errors import UserError
from tmrc.config.rundir import RunDir
from tmrc.config.waiting import waiting

if TYPE_CHECKING:
    from launch.drill.wish import Wish

POLL = 0.5  # seconds between two looks at a run's files
ASK_SLURM = 3.0  # seconds between two questions to Slurm's controller
QUIET_STATES = ("pending", "suspended")  # it waits for others, however long that takes


class SlurmTrial(Trial):
    """A trial whose attempts are those of a job."""

    def __init__(self, setting: Setting, plan: Plan) -> None:
        super().__init__(setting, plan)
        self._asker = Asker(ASK_SLURM, aloud=False)

    def attempt(self, hit: Hit | None) -> None:
        """Have the next attempt hit and wait for its end, or wait for the run's end where there is no hit."""
        before = last_attempt(self.watcher.run) if self.watcher.run is not None else 0
        self.watcher.begin()
        if not self._status_active():
            self._submit()
        if hit is None:
            self._wait(lambda: not self._status_active(), "the run's end")
            leave_no_process(self.folder)
            self.watcher.note_end()
            return
        self._wait(lambda: last_attempt(self.run) > before or not self._status_active(), "the next attempt")
        number = last_attempt(self.run)
        scene = self.strike(hit, lambda: self._over(number), time.monotonic())
        self._wait(lambda: self._over(number) or last_attempt(self.run) > number, "the end of the attempt")
        self.watcher.note_end()
        if scene is not None:
            self.after(scene)

    def scene(self, hit: Hit) -> Scene:
        """What the fault gets to see: the job as well."""
        side = SlurmSide(self._status().job_id or "", slurm_command)
        return Scene(self.folder, self.watcher, self.setting.config, Random(hit.draw), self.call, side)

    def abandon(self) -> None:
        """Cancel the job, and end what of it is on this machine."""
        if self.watcher.run is not None:
            slurm_command("scancel", f"--name={self.watcher.run.run_id}")
        end_all(self.folder, 2.0)

    def _submit(self) -> None:
        done = self.call("--json", *self.setting.options, *self.how())
        if done.returncode != 0:
            raise Trouble(f"tmrc-submit ended with exit code {done.returncode}: {done.stderr.strip()[-400:]}")
        self._asker = Asker(ASK_SLURM, aloud=False)  # what was known of an earlier job is old
        self.options = []

    def _status(self) -> RunStatus:
        (one,), _ = statuses([self.run], self._asker)
        return one

    def _status_active(self) -> bool:
        """Whether Slurm has a job of the run. While the controller does not answer, it has."""
        if self.watcher.run is None:
            return False
        one = self._status()
        return one.active or not one.sure

    def _over(self, number: int) -> bool:
        """Whether an attempt has ended, by its own word or by Slurm's."""
        return read_ending(self.run, number) is not None or last_attempt(self.run) > number or not self._status_active()

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until it holds. Raises Trouble when the run stands still meanwhile, time in the queue not counted."""
        patience = 3 * self.setting.course.wall + 600.0
        quiet, last = time.monotonic(), (-1, -1)
        while not condition():
            if self.setting.stopping.is_set():
                raise Stopped
            sight, one = self.watcher.look(), self._status()
            self.doing = f"{what} of trial {self.plan.number} (job {one.job_id} {one.state})"
            now = (sight.attempt, sight.step)
            if now != last or one.state in QUIET_STATES:
                quiet, last = time.monotonic(), now
            if time.monotonic() - quiet > patience:
                raise Trouble(f"{what} has not come: {one.state} for {patience:.0f} seconds")
            time.sleep(POLL)


def slurm_command(*words: str) -> str:
    """Run a command of Slurm's; returns its complaint, or nothing."""
    try:
        done = ask(*words, patience=60.0)
    except SilentError as error:
        return str(error)
    return " ".join(done.stderr.split()) if done.returncode else ""


def run_reference(wish: Wish, folder: Path, source: str) -> RunDir:
    """Submit the configuration and wait for its end. Raises UserError when it does not finish."""
    words = [sys.executable, "-m", wish.submit, "--json", *wish.options, source, *wish.overrides]
    words += [f"training.artifacts_path={folder}", "wandb_log.mode=disabled"]
    done = subprocess.run(words, env=dict(os.environ), text=True, capture_output=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        with suppress(OSError):
            folder.rmdir()
            folder.parent.rmdir()
        raise UserError(
            done.stderr.strip().splitlines()[-1].removeprefix("error: ") if done.stderr else "tmrc-submit failed"
        )
    run = RunDir(Path(json.loads(done.stdout)["run_dir"]))
    try:
        with waiting("the reference, a job without any fault"):
            one = _wait_for_end(run)
    except BaseException:
        slurm_command("scancel", f"--name={run.run_id}")
        raise
    if one.state != "finished":
        raise UserError(f"the reference has not finished: {one.state} {one.cause or ''} ({run.path})")
    return run


def _wait_for_end(run: RunDir) -> RunStatus:
    asker = Asker(ASK_SLURM, aloud=False)
    while True:
        (one,), _ = statuses([run], asker)
        if not one.active and one.sure:
            return one
        time.sleep(POLL)
