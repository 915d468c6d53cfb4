"""Sending runs to Weights & Biases from the login node: one process a run, so that none breaks another."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from launch.facts import Row, integer, word
from tmrc.config.errors import UserError
from tmrc.config.load import load_config
from tmrc.config.progress import progress
from tmrc.config.rundir import RunDir

AT_ONCE = 4  # runs that are sent side by side: most of it is waiting
LONGEST = 1800.0  # seconds for one run


@dataclass(frozen=True)
class Synced:
    """What has become of one run. `state`: sent, nothing, tracked, empty, disabled or failed."""

    run_id: str
    state: str
    message: str
    steps: int = 0  # points of the curve that have been sent
    last: int | None = None  # the last of them
    url: str | None = None


def is_tracked(run: RunDir) -> bool:
    """Whether there may be something to send: not where tracking is disabled."""
    try:
        return load_config(run.config).wandb_log.mode != "disabled"
    except UserError:  # the process that sends the run says what is wrong
        return True


def sync_runs(runs: Sequence[RunDir]) -> Iterator[Synced]:
    """Send each run; results in the order in which they are ready. Progress on stderr if it takes a while."""
    with ThreadPoolExecutor(AT_ONCE) as pool, progress("syncing", len(runs), "runs") as advance:
        jobs = [pool.submit(sync_run, run) for run in runs]
        try:
            for done, job in enumerate(as_completed(jobs), 1):
                advance(done)
                yield job.result()
        finally:
            for job in jobs:
                job.cancel()


def sync_run(run: RunDir) -> Synced:
    """Send one run. Whatever goes wrong is said in the result."""
    command = [sys.executable, "-m", "tmrc.train.wandb_send", str(run.path)]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Synced(run.run_id, "failed", str(error))
    try:
        said = json.loads(ended.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        lines = ended.stderr.strip().splitlines()
        return Synced(run.run_id, "failed", lines[-1] if lines else f"ended with exit code {ended.returncode}")
    return _result(run, said)


def _result(run: RunDir, said: Row) -> Synced:
    if "error" in said:
        return Synced(run.run_id, "failed", word(said, "error"))
    state, steps, url = word(said, "state"), integer(said, "steps") or 0, word(said, "url") or None
    last = integer(said, "last") if steps else None
    words = {
        "sent": f"{steps:,} {'point' if steps == 1 else 'points'} sent, up to step {last}",
        "nothing": "nothing to do: all of it is there",
        "tracked": _sender(integer(said, "attempt")),
        "empty": "nothing to do: no step yet",
        "disabled": "nothing to do: wandb_log.mode is disabled",
    }
    message = words.get(state, state) + (f": {url}" if url else "")
    return Synced(run.run_id, state, message, steps, last, url)


def _sender(attempt: int | None) -> str:
    return f"nothing to do: {f'attempt {attempt} is tracked online' if attempt else 'another tmrc sync sends it'} now"
