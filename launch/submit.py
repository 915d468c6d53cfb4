"""What `tmrc-submit` does: settings, preflight, run directory, and the run itself, here or on Slurm."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.attempts import hold_lock
from launch.cluster import check_cluster
from launch.gpus import Resources, local_resources, slurm_resources
from launch.plan import make_plan, show_plan
from launch.preflight import Facts, check_run_path, check_sbatch, preflight
from launch.progress import quiet_when_nobody_reads
from launch.rundirs import create_run, new_run_id
from launch.script import batch_script
from launch.settings import check_launch, flag_overrides, load_settings
from tmrc.config.errors import ConfigError, UserError
from tmrc.config.rundir import EXIT_FINISHED, EXIT_WANTS_REQUEUE, RunDir, append_event
from tmrc.config.schema import Config

if TYPE_CHECKING:
    from launch.local import LocalResult


@dataclass(frozen=True)
class Request:
    """One call of `tmrc-submit`. `flags` holds the `launch:` keys given as options."""

    source: str | None
    overrides: tuple[str, ...] = ()
    flags: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    local: bool = False
    dry_run: bool = False
    resume: str | None = None
    as_json: bool = False
    command: tuple[str, ...] = ()
    trainer: str = "tmrc.train"


@dataclass(frozen=True)
class _Prepared:
    """A run that passed preflight. Nothing of it is on disk yet, unless it is resumed."""

    config: Config
    resources: Resources
    facts: Facts
    run: RunDir
    script: str | None  # None for a run on this machine


def submit(request: Request) -> int:
    """Do what is asked; returns the exit code. Raises UserError."""
    prepared = _prepare(request)
    for warning in prepared.facts.warnings:
        _say(f"warning: {warning}")
    if request.local and prepared.config.launch.setup:
        _say("note: launch.setup is for batch jobs and is not run with --local")
    if request.dry_run:
        return _show(request, prepared)
    if not request.local:
        check_sbatch()
    run = prepared.run
    if request.resume is None:
        run = create_run(prepared.config, prepared.run.path.name, request.command)
        hold_lock(run, name="submit.lock")
    else:
        from launch.resume import keep_changes

        keep_changes(run, prepared.config)
    return _run_here(request, prepared, run) if request.local else _submit_job(request, prepared, run)


def _prepare(request: Request) -> _Prepared:
    if request.resume is not None:
        from launch.resume import changed_config, check_resumable, find_run

        run = find_run(request.resume, _artifacts(request))
        if not request.dry_run:
            hold_lock(run, name="submit.lock")  # until we end: nobody else may begin an attempt meanwhile
        config = changed_config(run, [*request.overrides, *flag_overrides(request.flags)])
        check_launch(config.launch)
        check_resumable(run, config)
    else:
        assert request.source is not None
        config = load_settings(request.source, request.overrides, request.flags)
        run = RunDir(Path(config.training.artifacts_path) / new_run_id(config, request.source))
    check_run_path(run.path)
    if config.launch.nodes > 1 and not request.local:
        raise ConfigError(f"launch.nodes: got {config.launch.nodes}, valid: 1 (a run uses the GPUs of one node)")
    resources = local_resources(config) if request.local else slurm_resources(config)
    if not request.local:
        check_cluster(config.launch, resources)
    script = None if request.local else batch_script(run, config.launch, resources)
    return _Prepared(config, resources, preflight(config, resources), run, script)


def _artifacts(request: Request) -> Path:
    """Where a run id is looked for: the artifacts_path of CONFIG, or the default one."""
    config = load_settings(request.source, (), {}) if request.source else Config()
    return Path(config.training.artifacts_path)


def _show(request: Request, prepared: _Prepared) -> int:
    """The plan and the script; nothing is written."""
    config, run, script = prepared.config, prepared.run, prepared.script
    plan = make_plan(config, prepared.resources, prepared.facts)
    if request.as_json:
        _print_json({"run_id": run.path.name, "run_dir": str(run.path), "job_id": None, "plan": plan, "script": script})
        return 0
    print(f"{'run':9}{run.path}\n{show_plan(plan, config)}")
    if script is not None:
        print(f"\n{script}", end="")
        if shutil.which("sbatch") is None:
            _say("note: no sbatch on PATH, so nothing was checked against a cluster; --local runs on this machine")
    return 0


def _submit_job(request: Request, prepared: _Prepared, run: RunDir) -> int:
    from launch.job import TrainJob
    from launch.slurm import submit as hand_over

    assert prepared.script is not None
    resources = prepared.resources
    job = TrainJob(str(run.path), resources.processes, resources.devices, trainer=request.trainer)
    try:
        job_id = hand_over(run, job, prepared.script)
    except UserError:
        if request.resume is None:
            shutil.rmtree(run.path)  # made a moment ago, and nothing has run in it
        raise
    with contextlib.suppress(OSError):  # the job is in the queue, whatever else fails
        append_event(run, "submitted", executor="slurm", job_id=job_id, overrides=list(request.overrides))
    if request.as_json:
        _print_json({"run_id": run.run_id, "run_dir": str(run.path), "job_id": job_id})
    else:
        print(f"submitted job {job_id}\n{'run':9}{run.path}\n{'log':9}{run.submitit / f'{job_id}_0_log.out'}")
    return 0


def _run_here(request: Request, prepared: _Prepared, run: RunDir) -> int:
    from launch.local import run_local

    _say(f"{'run':9}{run.path}")
    result = run_local(run, prepared.resources, request.trainer)
    with quiet_when_nobody_reads():
        _say_how_it_ended(request, run, result)
        sys.stdout.flush()
    return result.ending.exit_code


def _say_how_it_ended(request: Request, run: RunDir, result: LocalResult) -> None:
    ending, losses = result.ending, {"loss": result.state.row.get("loss"), "val_loss": result.state.val_loss}
    if request.as_json:
        _print_json({"run_id": run.run_id, "run_dir": str(run.path), "job_id": result.job_id, **vars(ending), **losses})
    if ending.status == "failed":
        _say(f"error: {ending.message}")
        _say(f"{'log':9}{result.log}")
    elif not request.as_json:
        shown = [
            f"{name.replace('val_', 'validation ')} {value:,.4f}" for name, value in losses.items() if value is not None
        ]
        logged = result.state.step
        of = f"  (as of step {logged:,})" if shown and logged != (ending.step or 0) else ""
        print(f"{ending.status:9}at step {ending.step or 0:,}  {'  '.join(shown)}{of}")
        print(f"{'run':9}{run.path}")
        print(f"{'next':9}{_next_command(ending.exit_code, run)}")


def _next_command(exit_code: int, run: RunDir) -> str:
    where = shlex.quote(str(run.path))
    if exit_code == EXIT_WANTS_REQUEUE:
        return f"{_typed('tmrc-submit')} --local --resume {where}"
    return f'{_typed("tmrc")} generate {where} --prompt "..."' if exit_code == EXIT_FINISHED else ""


def _typed(command: str) -> str:
    """How to call one of our commands: by name where that is on PATH, else by path."""
    return command if shutil.which(command) else shlex.quote(str(Path(sys.executable).parent / command))


def _print_json(values: dict[str, Any]) -> None:
    print(json.dumps(values, ensure_ascii=False))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
