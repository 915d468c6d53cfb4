"""What Submitit unpickles and calls: the whole run on this machine, or one node's part of a Slurm job.

Signals that ask the run to stop (USR2 before the time limit, TERM on preemption, INT from a person) are passed on to
the training processes themselves: torchrun would die of USR2 and kill its workers after TERM. Nothing in here imports
torch.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from launch.attempts import Ending, begin_attempt, hold_lock, newest_step, this_process, write_json
from launch.processes import alive, kill_descendants
from launch.rendezvous import Rendezvous
from launch.reports import NodeReport, write_report
from launch.signals import STOP_SIGNALS, let_through
from launch.verdict import verdict
from launch.watch import Requests
from tmrc.config.errors import UserError
from tmrc.config.load import load_config
from tmrc.config.rundir import EXIT_CRASHED, EXIT_USER_ERROR, EXIT_WANTS_REQUEUE, RunDir, append_event, read_jsonl

if TYPE_CHECKING:
    from launch.node import NodeTask

TRAINER = "tmrc.train"
# From the supervisor of a Slurm job to its nodes: the attempt, and where several nodes meet (host port nodes key)
ATTEMPT, MEETING = "TMRC_ATTEMPT", "TMRC_RENDEZVOUS"


@dataclass
class TrainJob:
    """One run, as Submitit's callable. Everything it needs to continue is in the run directory.

    `processes` are those of a node and `devices` the values for CUDA_VISIBLE_DEVICES, None to leave it as the cluster
    set it. `submitter` is the process (id, start time) without which the run shall not go on: the `tmrc-submit --local`
    that shows its progress.
    """

    run_dir: str
    processes: int
    devices: tuple[str, ...] | None = None
    submitter: tuple[int, int | None] | None = None
    trainer: str = TRAINER
    requests: Requests = field(default_factory=Requests, init=False)

    def __call__(self) -> NoReturn:
        """Run one attempt, or one node's part of it, and exit.

        Submitit writes a result only for a call that returns; none is wanted, since a result of one attempt would
        stand for the next one's.
        """
        import launch.goodput
        import launch.node  # noqa: F401 - not when a submission makes the job, but before anything happens to its code

        run = RunDir(Path(self.run_dir))
        if self.submitter is not None and os.getpgrp() != os.getpid():
            os.setsid()  # Ctrl-C in the terminal reaches `tmrc-submit`, which passes it on, and not us as well
        self._listen()
        # Whoever started us from within a training process may have its variables in the environment.
        of_slurm = self.submitter is None and ATTEMPT in os.environ
        sys.exit(self._node_of_a_job(run) if of_slurm else self._all(run))

    def checkpoint(self) -> Any:
        """What Submitit resubmits if its own USR2 handler runs, before ours stands: the same call."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(TrainJob(self.run_dir, self.processes, self.devices, self.submitter, self.trainer))

    def _listen(self) -> None:
        def stop(signum: int, frame: FrameType | None) -> None:
            self.requests.signals.append(signal.Signals(signum).name)

        for signum in STOP_SIGNALS:
            signal.signal(signum, stop)
        signal.signal(signal.SIGCONT, signal.SIG_DFL)  # Submitit writes a line for it into the log
        let_through()  # held back since launch.node_main

    def _node_of_a_job(self, run: RunDir) -> int:
        """Do this node's part and leave a report for the supervisor, which decides."""
        from launch.node import run_node

        node, meeting = int(os.environ.get("SLURM_PROCID", "0")), os.environ.get(MEETING)
        number, task = int(os.environ[ATTEMPT]), self._task(run, int(os.environ[ATTEMPT]))
        if meeting:
            host, port, nodes, key = meeting.split()
            task = replace(task, rendezvous=Rendezvous(host, int(port), int(nodes), key))
        try:
            report = run_node(replace(task, node=node), self.requests)
        except OSError as error:
            report = NodeReport(node, socket.gethostname(), -1, f"torchrun cannot be started: {error}", "code_error")
        finally:
            kill_descendants(os.getpid())
        write_report(run.attempt(number), report)
        return 0

    def _all(self, run: RunDir) -> int:
        """The run in the foreground of this machine: begin an attempt, run it, record how it ended."""
        from launch.node import run_node

        try:
            lock = hold_lock(run, patience=2.0)
        except UserError as error:
            return _leave(Ending(EXIT_USER_ERROR, "failed", str(error)))
        log = _log_path()
        logs = (str(log),) if log else ()
        offset = log.stat().st_size if log and log.exists() else 0
        me = this_process(None, self.submitter, logs=logs, log_offset=offset, checkpoint=newest_step(run))
        number = begin_attempt(run, me)
        try:
            task = self._task(run, number)
            report = run_node(task, self.requests, self._look_at_submitter)
            ending = verdict(run.attempt(number), self.processes, [report])
        except OSError as error:
            ending = Ending(EXIT_CRASHED, "failed", f"torchrun cannot be started: {error}", kind="code_error")
        finally:
            kill_descendants(os.getpid())
        with contextlib.suppress(OSError):  # a full disk must not hide how training ended
            record(run, number, replace(ending, checkpoint=newest_step(run), ended=time.time()))
        os.close(lock)
        return _leave(ending)

    def _task(self, run: RunDir, number: int) -> NodeTask:
        from launch.node import NodeTask

        timeout = load_config(run.config).training.hang_timeout
        return NodeTask(run, number, self.processes, self.trainer, timeout, self.devices, log=_log_path())

    def _look_at_submitter(self) -> None:
        """A run in the foreground is asked to stop when the process that shows it is gone, however it went."""
        if self.submitter is not None and not self.requests.signals and not alive(*self.submitter):
            self.requests.signals.append("SIGTERM")


def record(run: RunDir, number: int, ending: Ending) -> None:
    """Say how the attempt ended, once: in job.json, and in events.jsonl where no rank has; and where its time went."""
    from launch.goodput import record_goodput

    write_json(run.attempt(number) / "job.json", asdict(ending))
    rows = read_jsonl(run.events) if ending.status == "failed" else []
    told = any(row.get("event") == "failed" and row.get("attempt") == number for row in rows)
    if ending.status == "failed" and not told:
        about = {"attempt": number, "step": ending.step, "exit_code": ending.exit_code, "kind": ending.kind}
        append_event(run, "failed", **about, cause=ending.message)
    record_goodput(run, number)


def _log_path() -> Path | None:
    if "SUBMITIT_EXECUTOR" not in os.environ:
        return None
    from submitit import JobEnvironment

    path: Path = JobEnvironment().paths.stdout
    return path


def last_line(ending: Ending) -> str:
    """The last line of a log."""
    reason = f": {ending.message}" if ending.message else ""
    done = f", {ending.action}" if ending.action != "none" else ""
    return f"tmrc: {ending.status} (exit code {ending.exit_code}{done}){reason}"


def _leave(ending: Ending) -> int:
    """Print the log's last line; returns the exit code, so that who started us sees a failed run as failed."""
    if ending.exit_code == EXIT_WANTS_REQUEUE:
        ending = replace(ending, kind="stopped")
    print(last_line(ending), flush=True)
    return ending.exit_code
