"""One trial: a new run, disturbed as its plan says, resumed until it has finished, and compared."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

from launch.attempts import last_attempt
from launch.compare.difference import Difference, compare
from launch.compare.results import read_results
from launch.drill import moments
from launch.drill.outcome import Blow, Outcome, Setting
from launch.drill.plan import Hit, Plan
from launch.drill.processes import MARK, end_all
from launch.drill.scene import Scene, Trouble
from launch.drill.watch import Watcher, remove_scratch
from tmrc.config.errors import UserError
from tmrc.config.rundir import RunDir, read_jsonl

UNDISTURBED = 3  # attempts in a row without any fault in which a run must come to its end
ENDS = ("finished", "started", "resumed", "failed")


class Stopped(Exception):
    """Somebody has ended the drill."""


class Trial:
    """One trial. `run_all` goes through its plan; what a subclass says of attempts decides where they run."""

    def __init__(self, setting: Setting, plan: Plan) -> None:
        self.setting = setting
        self.plan = plan
        self.folder = setting.folder / f"trial-{plan.number:04d}"
        self.watcher = Watcher(self.folder)
        self.blows: list[Blow] = []
        self.options: list[str] = []  # for the next attempt
        self.doing = f"trial {plan.number}"  # for people who wait

    def run_all(self) -> Outcome:
        """Go through the plan and compare. Raises Stopped; nothing of the trial runs any more when this returns."""
        self.folder.mkdir(parents=True)
        difference, trouble = None, ""
        begun = time.monotonic()
        try:
            for hit in self.plan.hits:
                if not self.finished():
                    self.attempt(hit)
            self._to_the_end()
            seconds = time.monotonic() - begun
            difference = compare(self.setting.reference, read_results(self.run))
        except (Trouble, UserError) as error:
            seconds = time.monotonic() - begun
            trouble = str(error)
        except BaseException:
            end_all(self.folder)
            raise
        if trouble:
            end_all(self.folder)
        if self.setting.stopping.is_set():
            raise Stopped
        return self._outcome(seconds, difference, trouble)

    @property
    def run(self) -> RunDir:
        """The run. Raises Trouble when there is none."""
        if self.watcher.run is None:
            raise Trouble("no run directory was made")
        return self.watcher.run

    def finished(self) -> bool:
        """Whether the run has done all of its steps."""
        if self.watcher.run is None:
            return False
        rows = [row for row in read_jsonl(self.run.events) if row.get("event") in ENDS]
        return bool(rows) and rows[-1]["event"] == "finished"

    def attempt(self, hit: Hit | None) -> None:
        """Begin or resume the run, have it hit, and wait until nothing of the attempt is left. Raises Trouble."""
        raise NotImplementedError

    def strike(self, hit: Hit, over: Callable[[], bool], begun: float) -> Scene | None:
        """Wait for the moment and let the fault hit; None when the attempt was over before."""
        course, fault = self.setting.course, self.setting.faults[hit.fault]
        reached = moments.wait_for(hit.moment, course, self.watcher, over, begun)
        sight, seconds = self.watcher.look(), time.monotonic() - begun
        scene = self.scene(hit)
        if reached:
            fault.strike(scene)
        else:
            scene.say("the run had ended before")
        when = moments.shown(hit.moment, sight, seconds)
        self.blows.append(Blow(hit.fault, reached, when, sight.step, seconds, "; ".join(scene.said)))
        return scene if reached else None

    def scene(self, hit: Hit) -> Scene:
        """What the fault gets to see."""
        return Scene(self.folder, self.watcher, self.setting.config, Random(hit.draw), self.call)

    def after(self, scene: Scene) -> None:
        """Do what the fault left to be done once the attempt has ended, unless the run has finished."""
        if self.finished():
            return
        for action in scene.after:
            action()
        self.options += scene.options
        self.blows[-1] = replace(self.blows[-1], said="; ".join(scene.said))

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`tmrc-submit` with these arguments, to its end."""
        words, env = self.command(*arguments), self.environment()
        return subprocess.run(words, env=env, text=True, capture_output=True, stdin=subprocess.DEVNULL)

    def command(self, *arguments: str) -> list[str]:
        """The words of `tmrc-submit`, as the reference's code has it."""
        return [sys.executable, "-m", self.setting.submit, *arguments]

    def environment(self) -> dict[str, str]:
        """The environment of `tmrc-submit`: ours, with the reference's code and the trial's mark."""
        return {**trial_environment(self.setting.code), MARK: str(self.folder)}

    def abandon(self) -> None:
        """End everything of the trial at once, from another thread."""
        end_all(self.folder, 2.0)

    def how(self) -> list[str]:
        """What of CONFIG's words begins the run anew or resumes it."""
        if self.watcher.run is not None:
            return ["--resume", str(self.run.path), *self.options]
        return [str(self.setting.source), *self.setting.overrides, f"training.artifacts_path={self.folder}"]

    def _to_the_end(self) -> None:
        for _ in range(UNDISTURBED):
            if self.finished():
                return
            self.attempt(None)
        if not self.finished():
            raise Trouble(f"has not finished after {UNDISTURBED} attempts without any fault")

    def _outcome(self, seconds: float, difference: Difference | None, trouble: str) -> Outcome:
        run = self.watcher.run
        if run is not None:
            remove_scratch(run)
        equal = not trouble and difference is None
        return Outcome(
            number=self.plan.number,
            blows=tuple(self.blows),
            attempts=last_attempt(run) if run is not None else 0,
            steps_lost=self.watcher.lost_steps(),
            seconds=seconds,
            seconds_lost=max(0.0, seconds - self.setting.course.wall),
            equal=equal,
            difference=difference,
            trouble=trouble,
            directory=str(run.path if run is not None else self.folder),
        )


def trial_environment(code: Path) -> dict[str, str]:
    """Our environment, where the packages are those in `code`."""
    inherited = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(code), inherited] if inherited else [str(code)])
    return {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
