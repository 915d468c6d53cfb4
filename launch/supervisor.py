"""One attempt of a run in a Slurm job, from its first file to what comes after it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

from launch.attempts import (
    Ending,
    begin_attempt,
    last_attempt,
    newest_step,
    read_owner,
    this_process,
)
from launch.comeback import Job, back_to_the_queue, move_off
from launch.decide import Past, Situation, already_requeued, decide, nodes_to_avoid
from launch.gpus import Resources, slurm_resources
from launch.history import close_unfinished, history
from launch.job import ATTEMPT, MEETING, last_line, record
from launch.jobs import JobFacts, NoSlurmError, ask_tasks_to_stop, down_nodes, requeue, show_job
from launch.rendezvous import choose_port
from launch.reports import NodeReport, read_reports, remove_reports
from launch.script import EARLY_SIGNAL, SETUP_FAILED
from launch.signals import STOP_SIGNALS, let_through
from launch.slurmlog import read_log, why_ended, why_not_started
from launch.srun import Step
from launch.verdict import verdict
from tmrc.config.rundir import (
    EXIT_CRASHED,
    EXIT_FINISHED,
    EXIT_USER_ERROR,
    EXIT_WANTS_REQUEUE,
    RunDir,
    append_event,
)
from tmrc.config.schema import Config

POLL = 0.2  # seconds between looks at srun
CANCEL_EVERY = 10  # looks between two for a request to cancel
PORTS = 5  # rendezvous ports that are tried
REPORT_PATIENCE = 5.0  # seconds for a node's report to show on a shared filesystem


@dataclass
class Signals:
    """The signals that this process has received, by name."""

    names: list[str] = field(default_factory=list)

    def listen(self) -> None:
        """Note what asks to stop from now on, and take in what the batch script has noted."""
        for signum in STOP_SIGNALS:
            signal.signal(signum, self._note)
        let_through()
        if early := os.environ.pop(EARLY_SIGNAL, ""):
            self.names.append(f"SIG{early}")

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.names.append(signal.Signals(signum).name)


@dataclass
class Supervisor:
    """One attempt of one run, in the job `job_id` that has been restarted `restarts` times."""

    run: RunDir
    config: Config
    job_id: str
    restarts: int
    nodes: tuple[str, ...]
    folder: Path  # Submitit's: the run's, or that of the sweep whose array this is a task of
    signals: Signals
    asked: JobFacts | None = None  # what was known when the job was put back into the queue, before training ended

    @property
    def _job(self) -> Job:
        return Job(self.run, self.config, self.folder, self.job_id, self.restarts)

    @property
    def resources(self) -> Resources:
        return slurm_resources(self.config)

    def attempt(self) -> int:
        """Run one attempt; returns the exit code of the batch job."""
        close_unfinished(self.run, self.job_id)
        past = history(self.run)
        bad = nodes_to_avoid(past)
        if set(bad) & set(self.nodes):
            return move_off(self._job, bad)
        if failed := os.environ.pop(SETUP_FAILED, ""):
            ending = Ending(EXIT_USER_ERROR, "failed", f"launch.setup: {failed}", kind="config")
            return self._end(self._begin(), ending, [], past)
        if self.signals.names:  # asked to go before anything has begun
            return self._end(0, Ending(EXIT_WANTS_REQUEUE, "stopped", "asked to stop before it began"), [], past)
        number = self._begin()
        ending, reports = self._train(number)
        return self._end(number, ending, reports, past)

    def _begin(self) -> int:
        logs = tuple(str(self._log(node)) for node in range(len(self.nodes)))
        log = Path(logs[0])
        owner = this_process(
            self.job_id,
            executor="slurm",
            nodes=self.nodes,
            logs=logs,
            log_offset=log.stat().st_size if log.exists() else 0,
            checkpoint=newest_step(self.run),
        )
        return begin_attempt(self.run, owner)

    def _log(self, node: int) -> Path:
        """The log of the job's `node`-th node, where Submitit looks for it."""
        return self.folder / f"{self.job_id}_{node}_log.out"

    def _train(self, number: int) -> tuple[Ending, list[NodeReport]]:
        """Start the step on all nodes and wait for its end; again when the port of the rendezvous is taken."""
        attempt, ranks = self.run.attempt(number), len(self.nodes) * self.resources.processes
        for tried in range(PORTS):
            step = Step(self.config.launch, self.folder, self.job_id, len(self.nodes), self._variables(number, tried))
            try:
                step.start()
            except OSError as error:
                return Ending(EXIT_CRASHED, "failed", f"srun cannot be started: {error}", kind="code_error"), []
            self._wait(step)
            patience = 1.0 if self.signals.names else REPORT_PATIENCE
            reports = read_reports(attempt, len(self.nodes), patience)
            ending = verdict(attempt, ranks, reports)
            if ending.kind != "port" or self.signals.names:
                break
            remove_reports(attempt)
        if not reports:
            ending = self._without_reports(number, ending, step.code)
        return ending, reports

    def _without_reports(self, number: int, ending: Ending, code: int | None) -> Ending:
        """The ending of an attempt of which no node could say anything."""
        if ending.exit_code == EXIT_WANTS_REQUEUE and not self.signals.names:  # the ranks saw it, and have saved
            return replace(ending, message="the job's step was killed", kind="killed")
        if ending.kind != "killed":
            return ending
        if why := why_not_started(self._log_text(number)):
            message = f"launch.python: {self.config.launch.python or sys.executable}: {why}"
            return Ending(EXIT_USER_ERROR, "failed", message, kind="config")
        return replace(ending, message=f"the job's step was killed (srun: {code})")

    def _log_text(self, number: int) -> str:
        """What this attempt and Slurm have written into its log so far."""
        owner = read_owner(self.run, number) if number else None
        return read_log(Path(owner.logs[0]), owner.log_offset) if owner and owner.logs else ""

    def _variables(self, number: int, tried: int) -> dict[str, str]:
        found = {ATTEMPT: str(number), MEETING: ""}  # no other's
        if len(self.nodes) > 1:
            port = choose_port(int(os.environ["SLURM_JOB_ID"]), tried)
            found[MEETING] = f"{self.nodes[0]} {port} {len(self.nodes)} {self.run.run_id}-{number}-{tried}"
        return found

    def _wait(self, step: Step) -> None:
        """Wait for the step's end. When Slurm itself ends the job, ask for the queue while there is time."""
        seen, told, looks = len(self.signals.names), False, 0
        while step.running():
            looks += 1
            if not told and looks % CANCEL_EVERY == 0 and self._cancelled():
                told = True  # `tmrc cancel` signals the job as well; this is for a signal that got lost
                ask_tasks_to_stop(self.job_id)
            if len(self.signals.names) > seen and not self.asked:
                seen = len(self.signals.names)
                self._heed_signal()
            time.sleep(POLL)

    def _heed_signal(self) -> None:
        """See what a signal to this process means.

        When Slurm has begun to end the job for the time limit or a preemption, nothing is forfeited by asking for the
        queue now. A signal to this process alone (`scancel --batch`, `--full`) is passed on to the tasks.
        """
        try:
            facts = show_job(self.job_id)
        except NoSlurmError:
            return
        if facts is None or self._cancelled():
            return
        if not facts.ending:
            ask_tasks_to_stop(self.job_id)
        elif facts.restarts <= self.restarts and (facts.preempted or facts.reason == "TimeLimit"):
            self.asked = None if requeue(self.job_id, self.restarts, lambda: False) else facts

    def _end(self, number: int, ending: Ending, reports: Sequence[NodeReport], past: Sequence[Past]) -> int:
        """Decide what is to be done, do it, and leave it in the run's files."""
        ending = replace(ending, checkpoint=newest_step(self.run), ended=time.time())
        owner = read_owner(self.run, number) if number else None
        began_at = owner.checkpoint if owner else ending.checkpoint  # what has not begun has made nothing
        orderly = ending.exit_code in (EXIT_FINISHED, EXIT_USER_ERROR)
        warned = any("SIGUSR2" in report.signals for report in reports) or "SIGUSR2" in self.signals.names
        facts = None if orderly else self.asked or self._facts()
        situation = Situation(
            Past(ending, began_at),
            past,
            facts,
            self.restarts,
            warned and facts is not None and facts.seconds_left < 2 * self.resources.warning,
            self._cancelled(),
            number > 0 and last_attempt(self.run) > number,
            () if orderly or len(reports) == len(self.nodes) else down_nodes(self.nodes),
            "" if orderly else why_ended(self._log_text(number)),
        )
        ending = decide(situation)
        if ending.action == "requeued" and not self.asked and not already_requeued(situation):
            bad = nodes_to_avoid([*past, Past(ending, began_at)])
            ending = back_to_the_queue(self._job, ending, bad, lambda: not self._cancelled())
        if ending.kind != "superseded":
            with contextlib.suppress(OSError):  # a full disk must not hide how training ended
                self._record(number, ending)
        print(last_line(ending), flush=True)
        return ending.exit_code

    def _facts(self) -> JobFacts | None:
        """What the controller says, asked again while it does not answer: the decision hangs on it."""
        while True:
            try:
                facts = show_job(self.job_id)
            except NoSlurmError as error:
                print(f"tmrc: {error}", flush=True)
                return None
            if facts is not None or self._cancelled() or "SIGTERM" in self.signals.names:
                return facts
            print("tmrc: waiting for Slurm's controller to answer", flush=True)
            time.sleep(POLL * 25)

    def _cancelled(self) -> bool:
        return self.run.cancel.exists()

    def _record(self, number: int, ending: Ending) -> None:
        about = {"attempt": number, "step": ending.step, "kind": ending.kind}
        cause = ending.message or ending.kind.replace("_", " ")
        if number:
            record(self.run, number, ending)
        if ending.action in ("requeued", "resubmitted"):
            append_event(self.run, "requeued", **about, cause=cause, action=ending.action, job_id=self.job_id)
        elif ending.action == "held":
            append_event(self.run, "held", **about, cause=cause)
        elif ending.status == "cancelled":
            append_event(self.run, "cancelled", **about)
