"""Reports metrics.jsonl of a run to Weights & Biases while an attempt trains.

Started by rank 0 as python -m tmrc.train.wandb_sync RUN_DIR ATTEMPT. Its standard input ends when training does, after
a word on how (finished or stopped) if there was time for one.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from pathlib import Path

from tmrc.config.load import load_config
from tmrc.config.rundir import EXIT_CRASHED, RunDir
from tmrc.config.schema import Config
from tmrc.train.claim import SYNC, Claim
from tmrc.train.wandb_run import (
    Mode,
    Place,
    choose_mode,
    forget_the_job,
    goodput_summary,
    open_place,
    require_answer,
    said_exit_code,
    start_anew,
)

POLL_SECONDS = 2.0
SUMMARY_SECONDS = 60.0  # between two looks at where the time goes
RETRY_SECONDS = 600.0  # between two attempts to reach a server that could not be reached
UPLOAD_SECONDS = 25  # that wandb may take for the last rows; the run's end waits a little longer than that
OUTCOME_SECONDS = 10.0  # that training may take to write down how it ended


class Reporter:
    """Sends what an attempt logs to the server; while that cannot be had, to files, and then all of it."""

    def __init__(self, run: RunDir, config: Config, attempt: int, online: bool) -> None:
        self._run, self._config, self._attempt = run, config, attempt
        self._claim = Claim(run, attempt)
        self._wants_server = online
        self._place: Place | None = None
        self._tried = -RETRY_SECONDS
        self._summarized = time.monotonic()

    def report(self, ended: bool = False) -> None:
        """Send what has become complete. `ended`: no rows will follow."""
        self.leave_if_superseded()
        place = self._reach()
        place.send(ended, alive=self.leave_if_superseded)
        if time.monotonic() - self._summarized >= SUMMARY_SECONDS:
            self._summarized = time.monotonic()
            place.summarize(goodput_summary(self._run))

    def finish(self, exit_code: int) -> None:
        """End the run at wandb, and let others send."""
        if self._place:
            self._place.summarize(goodput_summary(self._run))
            self._place.finish(exit_code)
        self._claim.release()

    def leave_if_superseded(self) -> None:
        """End this process where a later attempt has begun, or another process sends the run."""
        if self._run.attempt(self._attempt + 1).exists() or not self._claim.keep():
            print("wandb: another process sends this run now", flush=True)
            os._exit(0)  # wandb's own hook at the exit would tell the server that the run has ended

    def _reach(self) -> Place:
        """The server, if it can be had now; else what is there."""
        waited = time.monotonic() - self._tried >= RETRY_SECONDS
        if self._wants_server and waited and not (self._place and self._place.online):
            self._tried = time.monotonic()
            self._go_online()
        if self._place is None:
            self._place = self._open("offline")
        return self._place

    def _go_online(self) -> None:
        if (holder := self._claim.take()) is not None:
            sender = "tmrc sync" if holder == SYNC else f"attempt {holder}"
            print(f"wandb: {sender} sends this run; offline for now", flush=True)
            return
        try:
            require_answer()
            if self._place:
                self._place.finish(EXIT_CRASHED)
                self._place = None
            self._place = self._open("online")
        except Exception as error:  # of many kinds: no server, no such entity, no permission, a bad key
            print(f"wandb: {' '.join(str(error).split())}; offline for now", flush=True)
            self._claim.release()
            if self._place is None:
                start_anew()

    def _open(self, mode: Mode) -> Place:
        return open_place(self._run, self._config, mode, finish_timeout=UPLOAD_SECONDS, x_stats_pid=os.getppid())


def main(run_path: str, attempt: str) -> None:
    """Report until training ends."""
    for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are meant for training, whose end ends this
    forget_the_job()
    parent = os.getppid()
    run = RunDir(Path(run_path))
    config = load_config(run.config)
    mode = choose_mode(config.wandb_log)
    if mode == "disabled":
        return
    reporter = Reporter(run, config, int(attempt), mode == "online")
    word = None
    while word is None:
        reporter.report()
        word = _word(POLL_SECONDS)
    reporter.report(ended=word == "finished")
    code = said_exit_code(word)
    reporter.finish(_outcome(run, int(attempt), parent) if code is None else code)


def _word(seconds: float) -> str | None:
    """What training has said at its end; empty if it said nothing; None while it goes on."""
    if not select.select([sys.stdin], [], [], seconds)[0]:
        return None
    return sys.stdin.readline().strip()


def _outcome(run: RunDir, attempt: int, parent: int) -> int:
    """The exit code that rank 0 has written down, or is about to; that of a crash if it was killed."""
    until = time.monotonic() + OUTCOME_SECONDS
    while True:
        gone = os.getppid() != parent or time.monotonic() > until
        try:
            return int(json.loads((run.attempt(attempt) / "rank_0.json").read_bytes())["exit_code"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            if gone:
                return EXIT_CRASHED
        time.sleep(0.05)


if __name__ == "__main__":
    main(*sys.argv[1:])
