"""What Submitit runs on the node: one torchrun, watched from its start to the last word of every rank.

Submitit unpickles a `TrainJob` and calls it. Signals that ask the run to stop (USR2 before the time limit, TERM on
preemption, INT from a person) are passed on as USR2 to the training processes themselves: torchrun would die of USR2
and kill its workers after TERM. Nothing in here imports torch.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from launch.attempts import Ending, begin_attempt, hold_lock, this_process, write_json
from launch.processes import adopt_orphans, alive, end_with_parent, kill_descendants, wait_for_descendants
from launch.verdict import verdict
from launch.watch import Requests, Watch
from tmrc.config.errors import UserError
from tmrc.config.rundir import (
    EXIT_CRASHED,
    EXIT_FINISHED,
    EXIT_USER_ERROR,
    EXIT_WANTS_REQUEUE,
    RunDir,
    append_event,
    read_jsonl,
)

TRAINER = "tmrc.train"
LINGER = 3.0  # seconds for what reports to others (wandb) to send the last rows after an orderly end
# What belongs to the job around torchrun and would mislead the job inside it (CPU binding, ranks, torchrun's options)
FOREIGN = re.compile(
    r"^(SLURM|SLURMD|SUBMITIT|SRUN|SBATCH|PMI|PMIX|TORCHELASTIC|PET)_|^((LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|MASTER_(ADDR|PORT))$"
)


@dataclass
class TrainJob:
    """One run, as Submitit's callable. Everything it needs to continue is in the run directory.

    `devices` are the values for CUDA_VISIBLE_DEVICES, None to leave it as the cluster set it. `submitter` is the
    process (id, start time) without which the run shall not go on: the `tmrc-submit --local` that shows its progress.
    """

    run_dir: str
    processes: int
    devices: tuple[str, ...] | None = None
    submitter: tuple[int, int | None] | None = None
    trainer: str = TRAINER
    requests: Requests = field(default_factory=Requests, init=False)

    def __call__(self) -> NoReturn:
        """Run one attempt and exit with the run's exit code.

        Submitit writes a result only for a call that returns; none is wanted, since a result of one attempt would
        stand for the next one's.
        """
        run = RunDir(Path(self.run_dir))
        if self.submitter is not None and os.getpgrp() != os.getpid():
            os.setsid()  # Ctrl-C in the terminal reaches `tmrc-submit`, which passes it on, and not us as well
        self._listen()
        try:
            lock = hold_lock(run, patience=2.0)
        except UserError as error:
            _leave(Ending(EXIT_USER_ERROR, "failed", str(error)))
        number = begin_attempt(run, this_process(os.environ.get("SLURM_JOB_ID"), self.submitter))
        try:
            ending = self._attempt(run, number)
        except OSError as error:
            ending = Ending(EXIT_CRASHED, "failed", f"torchrun cannot be started: {error}")
        finally:
            kill_descendants(os.getpid())
        with contextlib.suppress(OSError):  # a full disk must not hide how training ended
            self._record(run, number, ending)
        os.close(lock)
        _leave(ending)

    def checkpoint(self) -> Any:
        """What Submitit resubmits if its own USR2 handler runs, before ours stands: the same call."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(TrainJob(self.run_dir, self.processes, self.devices, self.submitter, self.trainer))

    def _listen(self) -> None:
        def stop(signum: int, frame: FrameType | None) -> None:
            self.requests.stops += 1
            self.requests.interrupts += signum == signal.SIGINT

        for signum in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, stop)

    def _attempt(self, run: RunDir, number: int) -> Ending:
        """Start torchrun, pass on signals until it ends, and judge."""
        adopt_orphans()
        log = _Log()
        process = subprocess.Popen(
            self._command(),
            env=self._environment(number),
            start_new_session=True,
            preexec_fn=_before_torchrun,  # safe: this process has one thread
        )
        watch = Watch(run.attempt(number), self.processes, process, self.requests)
        killed = watch.until_end(self._look_at_submitter)
        ending = verdict(run.attempt(number), self.processes, process.returncode, log.text())
        if ending.exit_code in (EXIT_FINISHED, EXIT_WANTS_REQUEUE):
            wait_for_descendants(os.getpid(), LINGER)
        if killed and ending.exit_code == EXIT_CRASHED:
            return Ending(EXIT_CRASHED, "failed", killed, ending.step)
        return ending

    def _look_at_submitter(self) -> None:
        """A run in the foreground is asked to stop when the process that shows it is gone, however it went."""
        if self.submitter is not None and self.requests.stops == 0 and not alive(*self.submitter):
            self.requests.stops = 1

    def _command(self) -> list[str]:
        options = ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={self.processes}", "--max-restarts=0"]
        return [sys.executable, "-m", "torch.distributed.run", *options, "-m", self.trainer, self.run_dir]

    def _environment(self, number: int) -> dict[str, str]:
        env = {name: value for name, value in os.environ.items() if not FOREIGN.match(name)}
        code = str(RunDir(Path(self.run_dir)).code)
        paths = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path and path != code]
        env["PYTHONPATH"] = os.pathsep.join([code, *paths])
        env["PYTHONSAFEPATH"] = "1"  # the working directory may hold another tmrc
        env["TMRC_ATTEMPT"] = str(number)
        env.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // self.processes)))
        # Threads that spin while they wait take the cores from whoever else is on them, and from each other.
        env.setdefault("OMP_WAIT_POLICY", "passive")
        if self.devices is not None:
            env["CUDA_VISIBLE_DEVICES"] = ",".join(self.devices)
        return env

    def _record(self, run: RunDir, number: int, ending: Ending) -> None:
        """Say how it ended, once: in job.json, and in events.jsonl where no rank has."""
        write_json(run.attempt(number) / "job.json", vars(ending))
        if ending.status != "failed":
            return
        told = any(row.get("event") == "failed" and row.get("attempt") == number for row in read_jsonl(run.events))
        if not told:
            about = {"attempt": number, "step": ending.step, "exit_code": ending.exit_code}
            append_event(run, "failed", **about, cause=ending.message)


def _before_torchrun() -> None:
    """torchrun dies of a USR2, which some Slurm set-ups send to every process of a job; the ranks set handlers."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    end_with_parent()


class _Log:
    """What is printed to this job's log from now on, as far as it can be read back."""

    def __init__(self) -> None:
        self.path = _log_path()
        self.offset = self.path.stat().st_size if self.path and self.path.exists() else 0

    def text(self, limit: int = 200_000) -> str:
        """The last `limit` bytes of it."""
        if self.path is None or not self.path.exists():
            return ""
        with self.path.open("rb") as file:
            file.seek(max(self.offset, self.path.stat().st_size - limit))
            return file.read().decode("utf8", "replace")


def _log_path() -> Path | None:
    if "SUBMITIT_EXECUTOR" not in os.environ:
        return None
    from submitit import JobEnvironment

    path: Path = JobEnvironment().paths.stdout
    return path


def _leave(ending: Ending) -> NoReturn:
    """The log's last line, then exit with the run's code, so that Slurm shows a failed run as failed."""
    reason = f": {ending.message}" if ending.message else ""
    print(f"tmrc: {ending.status} (exit code {ending.exit_code}){reason}", flush=True)
    sys.exit(ending.exit_code)
