"""The drill: trials, several at a time if asked, each told of when it has ended."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path

from launch.drill.local import LocalTrial
from launch.drill.outcome import Outcome, Setting
from launch.drill.plan import Plan
from launch.drill.table import Report, progress_line, why
from launch.drill.trial import Trial
from launch.drill.wish import Wish, about_drill
from tmrc.config.waiting import waiting


@dataclass
class Drill:
    """One drill under way. `say` prints a line for people."""

    wish: Wish
    say: Callable[[str], None]
    folder: Path
    setting: Setting
    plans: list[Plan]
    outcomes: list[Outcome] = field(default_factory=list)
    interrupted: bool = False

    def run(self, changed: Callable[[Report], None] = lambda report: None) -> Report:
        """All trials; `changed` is called after each. Ctrl-C ends what was begun and keeps what there is."""
        active: dict[Future[Outcome], Trial] = {}
        with ThreadPoolExecutor(self.wish.parallel) as pool:
            try:
                self._run_all(pool, active, changed)
            except BaseException as error:
                self._end(active)
                if not isinstance(error, KeyboardInterrupt | SystemExit):
                    raise
                self.interrupted = True
        return self.report(self.keeps)

    @property
    def keeps(self) -> bool:
        """Whether the directory of the drill stays: what is in it is worth a second look, or was asked for."""
        return self.wish.keep or self.interrupted or not all(one.equal for one in self.outcomes)

    def report(self, kept: bool = True) -> Report:
        """What is known so far. Without `kept` it names no directory that `clean_up` removes."""
        outcomes = sorted(self.outcomes, key=lambda one: one.number)
        texts = {name: one.help for name, one in self.setting.faults.items()}
        about = {**about_drill(self.wish, self.setting), "directory": str(self.folder) if kept else None}
        reference = str(self.setting.reference.run.path) if kept or self.wish.reference is not None else None
        return Report(about, reference, self.setting.course, texts, self.plans, outcomes, self.interrupted)

    def clean_up(self) -> None:
        """Remove the directory of the drill, unless it stays."""
        if not self.keeps:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _next(self, active: Mapping[Future[Outcome], Trial]) -> set[Future[Outcome]]:
        """Those of the trials that have ended, once there is one; says meanwhile what is waited for."""
        done: set[Future[Outcome]] = set()
        while not done:
            text = ", ".join(trial.doing for trial in active.values())
            seen = self.wish.slurm or sys.stderr.isatty()  # a file gets a line a trial, and that is enough
            with waiting(text) if seen else contextlib.nullcontext():
                while not done and text == ", ".join(trial.doing for trial in active.values()):
                    done = wait(active, timeout=0.5, return_when=FIRST_COMPLETED).done
        return done

    def _run_all(
        self, pool: ThreadPoolExecutor, active: dict[Future[Outcome], Trial], changed: Callable[[Report], None]
    ) -> None:
        left = list(self.plans)
        while active or left:
            while left and len(active) < self.wish.parallel:
                trial = self._trial(left.pop(0))
                active[pool.submit(trial.run_all)] = trial
            for future in self._next(active):
                del active[future]
                self._take(future.result())
                changed(self.report())

    def _trial(self, plan: Plan) -> Trial:
        if self.wish.slurm:
            from launch.drill.slurm import SlurmTrial

            return SlurmTrial(self.setting, plan)
        return LocalTrial(self.setting, plan)

    def _take(self, outcome: Outcome) -> None:
        deleted = outcome.equal and not self.wish.keep
        self.outcomes.append(replace(outcome, directory=None) if deleted else outcome)
        self.say(progress_line(outcome, len(self.outcomes), len(self.plans)))
        if not outcome.equal:
            named = "" if "all" in self.wish.faults else f"--faults {','.join(self.wish.faults)} "
            self.say(
                f"    {why(outcome)}\n    {outcome.directory}\n"
                f"    again: {named}--seed {self.wish.seed} --only {outcome.number}"
            )
        elif deleted:
            shutil.rmtree(self.folder / f"trial-{outcome.number:04d}", ignore_errors=True)

    def _end(self, active: dict[Future[Outcome], Trial]) -> None:
        """End what was begun: nothing of it may go on without us. Another Ctrl-C does not shorten this."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.setting.stopping.set()
        while any(not future.done() for future in active):
            for trial in active.values():
                trial.abandon()
            time.sleep(0.1)
        for trial in active.values():
            trial.abandon()
