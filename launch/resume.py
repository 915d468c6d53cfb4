"""Continuing a run: which one is meant, whether it may go on, and with which changes."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from launch.attempts import last_attempt, newest_step, read_owner, refuse_running
from launch.changed import allowed_after, require_same_data
from launch.code import require_code
from launch.facts import read_facts
from launch.gpus import Resources
from launch.standing import phase
from launch.status import statuses
from launch.trust import refuse_others
from tmrc.config.changes import Changes, differing, leaves
from tmrc.config.errors import DataError, UserError
from tmrc.config.load import load_config, write_config
from tmrc.config.rundir import RunDir, append_event, read_jsonl
from tmrc.config.schema import Config
from tmrc.config.waiting import waiting
from tmrc.data.plan import DataPlan, plan_data

ENDING = "COMPLETING"  # Slurm's word for a job whose processes and epilog it is still ending
ENDING_PATIENCE = 60.0  # seconds for that: KillWait is 30 by default


def check_resumable(run: RunDir, config: Config) -> None:
    """Raise UserError when the run is still going, is finished, lacks its code, or holds what cannot be read."""
    try:
        _check_resumable(run, config)
    except OSError as error:
        raise UserError(f"{error.filename or run.path}: cannot be read: {error.strerror or error}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{run.path}: events.jsonl or attempts/ hold what tmrc does not write: {error}") from None


def _check_resumable(run: RunDir, config: Config) -> None:
    require_code(run)
    refuse_others(run)
    if run.events.exists() and not run.events.is_file():
        raise UserError(f"{run.events}: is not a file")
    refuse_running(run)
    _refuse_queued(run)
    ends = [row for row in read_jsonl(run.events) if row.get("event") in ("finished", "started", "resumed", "failed")]
    if ends and ends[-1]["event"] == "finished":
        done = int(ends[-1].get("step", 0))
        total = _plan(config).total_steps
        if total <= done:
            raise UserError(
                f"{run.path}: finished at step {done}; a larger training.train_steps or training.epochs continues it "
                f"(now they end it at step {total})"
            )
    newest = newest_step(run)
    if newest is None:
        return
    plan = _plan(config)
    if plan.total_steps < newest:
        raise UserError(
            f"{run.path}: training.train_steps or training.epochs end it at step {plan.total_steps}, but its newest "
            f"checkpoint is of step {newest}; valid: {newest} steps or more"
        )
    require_same_data(run, plan)


def _plan(config: Config) -> DataPlan:
    try:
        return plan_data(config)
    except DataError as error:
        moved = "; if it has moved: --allow-change datasets.path=NEW" if "no such data set" in str(error) else ""
        raise DataError(f"{error}{moved}") from None


def changed_config(run: RunDir, overrides: Sequence[str]) -> Config:
    """The run's configuration with `overrides`, not yet written."""
    return load_config(run.config, overrides)


def changes(run: RunDir, config: Config) -> Changes:
    """Dotted key -> [value until now, value from now on], for what `config` changes in the run's config.yaml."""
    return differing(leaves(load_config(run.config)), leaves(config))


def rank_note(run: RunDir, resources: Resources, config: Config) -> Iterator[str]:
    """A run that goes on with more or fewer processes stays right, but bit for bit only with the exact reduction."""
    if config.training.exact_reduction:
        return
    before = len(list(run.attempt(last_attempt(run)).glob("rank_*.pid")))
    after = config.launch.nodes * resources.processes
    if before and before != after:
        yield (
            f"the last attempt had {before} training process{'es' * (before != 1)} and the next has {after}: sums "
            "are rounded in another order, so losses may differ in their last digits from those of a run that kept the "
            "number"
        )


def take_up(run: RunDir, config: Config, course: Changes | None = None) -> Callable[[], None]:
    """Make the run ready to go on: with the changed configuration, and no longer cancelled.

    What is let change the `course` of training is noted for the trainer, which refuses any other change. Returns what
    puts all back, for a submission that is refused. Raises UserError when it cannot be written.
    """
    cancel = run.cancel
    allowed = allowed_after(run, course or {})
    keep_word_of_cancelling(run)
    try:
        before = {file: file.read_bytes() for file in (run.config, cancel, run.allowed) if file.exists()}
        if allowed:
            _replace(run.allowed, allowed)
        if changes(run, config):
            _replace_config(run, config)
        cancel.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{error.filename or run.path}: cannot be written: {error.strerror or error}") from None

    def put_back() -> None:
        with contextlib.suppress(OSError):
            for file, content in before.items():
                _replace(file, content)
            if run.allowed not in before:
                run.allowed.unlink(missing_ok=True)

    return put_back


def keep_word_of_cancelling(run: RunDir) -> None:
    """Record that the run's job was cancelled where only Slurm says so, which forgets it."""
    facts = read_facts(run)
    if phase(facts) not in ("waiting", "running"):
        return
    (one,), _ = statuses([run])
    if one.state == "cancelled":
        about = {"attempt": one.attempts, "step": one.step, "kind": "cancelled", "cause": one.cause}
        with contextlib.suppress(OSError):
            append_event(run, "cancelled", **about, job_id=one.job_id)


def _replace_config(run: RunDir, config: Config) -> None:
    """Write the changed configuration; the one that the last attempt used stays with that attempt."""
    kept = run.attempt(last_attempt(run))
    kept.mkdir(parents=True, exist_ok=True)
    if not (kept / "config.yaml").exists():  # one that was kept before any attempt has begun since
        shutil.copy2(run.config, kept / "config.yaml")
    temporary = run.config.with_name(".config.yaml")
    write_config(config, temporary)
    temporary.replace(run.config)


def _replace(file: Path, content: bytes) -> None:
    """A reader sees the old content or the new one."""
    temporary = file.with_name(f".{file.name}")
    temporary.write_bytes(content)
    temporary.replace(file)


def _refuse_queued(run: RunDir) -> None:
    """Raise UserError while Slurm still has a job of the run, or does not say. One that it is ending is waited for."""
    if shutil.which("squeue") is None:
        return  # a machine without Slurm: whoever else runs this run holds its lock, and is fenced off
    rows = [row for row in read_jsonl(run.events) if row.get("event") in ("submitted", "requeued")]
    owner = read_owner(run, last_attempt(run))
    jobs = {str(row["job_id"]) for row in rows[-2:] if row.get("executor", "slurm") == "slurm" and row.get("job_id")}
    jobs |= {owner.job_id} if owner and owner.job_id and owner.executor == "slurm" else set()
    there, until = _active(run, jobs, aloud=True), time.monotonic() + ENDING_PATIENCE
    with waiting("Slurm to end the run's job"):
        while ENDING in there.values() and time.monotonic() < until:
            time.sleep(1.0)
            there = _active(run, jobs)
    for job_id, state in sorted(there.items()):
        what = "Slurm is ending it: try again in a minute" if state == ENDING else "tmrc cancel ends it"
        raise UserError(f"{run.path}: job {job_id} is still {state.lower()} ({what})")


def _active(run: RunDir, jobs: set[str], aloud: bool = False) -> dict[str, str]:
    """Job id -> Slurm's word for its state, of those that have not ended. Raises UserError when Slurm does not say."""
    from launch.queue import QueueUnknown, queue

    try:
        return {job_id: row.state for job_id, row in queue(jobs, aloud).items() if row.active}
    except QueueUnknown as error:
        if "configuration source" in str(error):
            return {}  # Slurm's commands are here, but no cluster
        raise UserError(f"{run.path}: cannot tell whether job {', '.join(sorted(jobs))} still runs: {error}") from None
