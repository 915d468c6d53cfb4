"""Continuing a run: which one is meant, whether it may go on, and with which changes."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from launch.attempts import last_attempt, read_owner, refuse_running
from tmrc.config.errors import ConfigError, UserError, nearest, shown
from tmrc.config.load import load_config, write_config
from tmrc.config.rundir import RunDir, read_jsonl
from tmrc.config.schema import Config
from tmrc.data.plan import plan_data

# What does not change what the run computes, only how long, how often it says so, and where it runs
CHANGEABLE = (
    "training.train_steps", "training.epochs", "training.save_every", "training.keep_checkpoints",
    "training.log_interval", "launch.", "wandb_log.",
)  # fmt: skip


def find_run(name: str, artifacts: Path) -> RunDir:
    """The run that is a directory, or the id of one under `artifacts`. Raises UserError when there is none."""
    for path in (Path(name), artifacts / name):
        try:
            if (path / "config.yaml").is_file() and (path / "run.json").is_file():
                return RunDir(path.resolve())
        except (OSError, ValueError):
            break
    there = [entry.parent.name for entry in artifacts.glob("*/run.json")] if artifacts.is_dir() else []
    hint = nearest(name, there)
    raise UserError(f"--resume: {shown(name)} is no run directory and no run under {artifacts}{hint}")


def check_overrides(overrides: Sequence[str]) -> None:
    """Raise ConfigError for a change that would make another run of this one."""
    for text in overrides:
        key = re.sub(r"^(\+\+?|~)", "", text).partition("=")[0]
        if not any(key == one or (one.endswith(".") and key.startswith(one)) for one in CHANGEABLE):
            allowed = ", ".join(one + "*" * one.endswith(".") for one in CHANGEABLE)
            raise ConfigError(f"--resume: {shown(key)} cannot change in the middle of a run; these can: {allowed}")


def check_resumable(run: RunDir, config: Config) -> None:
    """Raise UserError when the run is still going, is finished, lacks its code, or holds what cannot be read."""
    try:
        _check_resumable(run, config)
    except OSError as error:
        raise UserError(f"{error.filename or run.path}: cannot be read: {error.strerror or error}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{run.path}: events.jsonl or attempts/ hold what tmrc does not write: {error}") from None


def _check_resumable(run: RunDir, config: Config) -> None:
    if not run.code.is_dir():
        raise UserError(f"{run.code}: missing, so the run cannot go on with the code that it began with")
    refuse_running(run)
    _refuse_queued(run)
    ends = [row for row in read_jsonl(run.events) if row.get("event") in ("finished", "started", "resumed", "failed")]
    if ends and ends[-1]["event"] == "finished":
        done = int(ends[-1].get("step", 0))
        total = plan_data(config).total_steps
        if total <= done:
            raise UserError(
                f"{run.path}: finished at step {done}; a larger training.train_steps or training.epochs continues it "
                f"(now they end it at step {total})"
            )


def changed_config(run: RunDir, overrides: Sequence[str]) -> Config:
    """The run's configuration with `overrides`, not yet written."""
    check_overrides(overrides)
    return load_config(run.config, overrides)


def keep_changes(run: RunDir, config: Config) -> None:
    """Write the changed configuration; the one that the last attempt used stays with that attempt."""
    if load_config(run.config) == config:
        return
    try:
        _replace_config(run, config)
    except OSError as error:
        raise UserError(f"{error.filename or run.path}: cannot be written: {error.strerror or error}") from None


def _replace_config(run: RunDir, config: Config) -> None:
    kept = run.attempt(last_attempt(run))
    kept.mkdir(parents=True, exist_ok=True)
    shutil.copy2(run.config, kept / "config.yaml")
    temporary = run.config.with_name(".config.yaml")
    write_config(config, temporary)
    temporary.replace(run.config)


def _refuse_queued(run: RunDir) -> None:
    """Raise UserError while Slurm still has the job of the last submission, or the one that ran the last attempt."""
    submitted = [row for row in read_jsonl(run.events) if row.get("event") == "submitted"]
    owner = read_owner(run, last_attempt(run))
    jobs = {str(row["job_id"]) for row in submitted[-1:] if row.get("executor") == "slurm" and "job_id" in row}
    for job_id in sorted(jobs | ({owner.job_id} if owner and owner.job_id else set())):
        if state := _queue_state(job_id):
            raise UserError(f"{run.path}: job {job_id} is still {state.lower()}")


def _queue_state(job_id: str) -> str:
    """What squeue says of a job; empty when it is in no queue, or nobody can say."""
    command = ["squeue", "-h", "-j", job_id, "-o", "%T"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
