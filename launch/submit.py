"""What `tmrc-submit` does: settings, preflight, run directory, and the run itself, here or on Slurm."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.attempts import hold_lock, last_attempt, newest_step
from launch.forecast import Forecast
from launch.gpus import Resources, local_resources, slurm_resources
from launch.grid import key_of
from launch.interrupts import interruptible
from launch.plaintext import harmless
from launch.preflight import Facts, check_run_path, preflight
from launch.progress import quiet_when_nobody_reads
from launch.rundirs import create_run, new_run_id
from launch.script import batch_script
from launch.settings import check_launch, check_secrets, load_settings, resume_overrides
from launch.slurm_check import check_script
from launch.words import typed_command
from tmrc.config.errors import ConfigError, shortened
from tmrc.config.rundir import EXIT_FINISHED, EXIT_WANTS_REQUEUE, RunDir, append_event
from tmrc.config.schema import Config

if TYPE_CHECKING:
    from launch.changed import Review
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
    multirun: bool = False
    parallel: int | None = None  # points of a sweep at a time
    allow_change: bool = False  # whether a resumed run may train differently from here on


@dataclass(frozen=True)
class _Prepared:
    """A run that passed preflight. Nothing of it is on disk yet, unless it is resumed."""

    config: Config
    resources: Resources
    facts: Facts
    run: RunDir
    script: str | None = None  # None for a run on this machine
    start: Forecast | None = None  # None where Slurm was not asked
    notes: tuple[str, ...] = ()
    review: Review | None = None  # of a resumed run: what changes


def submit(request: Request) -> int:
    """Do what is asked; returns the exit code. Raises UserError."""
    if request.multirun:
        from launch.multirun import run_sweep

        return run_sweep(request)
    prepared = _prepare(request)
    if request.dry_run:
        return _show(request, prepared)
    if request.local:
        _begin(request, prepared)
        return _run_here(request, prepared)
    with interruptible():
        return _submit_job(request, prepared, _begin(request, prepared))


def _begin(request: Request, prepared: _Prepared) -> Callable[[], None]:
    """Make the run directory, or the run that goes on ready; returns what undoes it, as long as nothing has run."""
    if request.resume is not None:
        from launch.resume import take_up

        return take_up(prepared.run, prepared.config, prepared.review.course if prepared.review else {})
    run = create_run(prepared.config, prepared.run.path.name, request.command)
    hold_lock(run, name="submit.lock")
    return lambda: shutil.rmtree(run.path, ignore_errors=True)


def _prepare(request: Request) -> _Prepared:
    if request.resume is None:
        return _check(request, *_new(request))
    from launch.changed import compare_file
    from launch.code import code_note
    from launch.resume import rank_note

    config, run, reviewed = _resumed(request)
    source = request.source
    file_notes = tuple(compare_file(run, source, config, request.overrides)) if source else ()
    prepared = _check(request, config, run, there=run)
    notes = (*file_notes, *code_note(run), *reviewed.note(), *rank_note(run, prepared.resources, config))
    return dataclasses.replace(prepared, notes=(*prepared.notes, *notes), review=reviewed)


def _check(request: Request, config: Config, run: RunDir, there: RunDir | None = None) -> _Prepared:
    """All that can be known beforehand, what takes no time first; nothing is written. `there` is a run to continue."""
    check_run_path(run.path)
    if request.local:
        resources = local_resources(config)
        return _Prepared(config, resources, preflight(config, resources, there), run, notes=tuple(_unused(config)))
    resources = slurm_resources(config)
    script = batch_script(run, config.launch, resources)
    facts = preflight(config, resources, there)
    said = check_script(script, config, resources, request.dry_run)
    return _Prepared(config, resources, facts, run, script, said.start, said.notes)


def _unused(config: Config) -> Iterator[str]:
    """What the configuration asks for and a run on this machine does not use."""
    if config.launch.setup:
        yield "launch.setup is for batch jobs and is not run with --local"
    if config.launch.gpus_per_node and config.training.device == "cpu":
        yield (
            "launch.gpus_per_node is not used with training.device: cpu; launch.processes_per_node says how many "
            "processes there are"
        )


def _new(request: Request) -> tuple[Config, RunDir]:
    assert request.source is not None
    try:
        config = load_settings(request.source, request.overrides, request.flags)
    except ConfigError as error:
        several = [text for text in request.overrides if re.search(r"^sweep=|=.*(,|\b(choice|range)\()", text)]
        hint = " (-m makes a sweep of several values)" if any(key_of(text) in str(error) for text in several) else ""
        raise ConfigError(f"{error}{hint}") from None
    return config, RunDir(Path(config.training.artifacts_path) / new_run_id(config, request.source))


def _resumed(request: Request) -> tuple[Config, RunDir, Review]:
    from launch.changed import review
    from launch.find import find_run
    from launch.resume import changed_config, check_resumable

    assert request.resume is not None
    run = find_run(request.resume, _artifacts(request), "--resume: ")
    if not request.dry_run:
        hold_lock(run, name="submit.lock")  # until we end: nobody else may begin an attempt meanwhile
    config = changed_config(run, resume_overrides(request.overrides, request.flags))
    check_launch(config.launch)
    check_secrets(config)
    reviewed = review(run, config, request.allow_change)
    check_resumable(run, config)
    return config, run, reviewed


def _artifacts(request: Request) -> Path:
    """Where a run id is looked for: the artifacts_path of CONFIG, or the default one."""
    config = load_settings(request.source, (), {}) if request.source else Config()
    return Path(config.training.artifacts_path)


def _record_changes(prepared: _Prepared, attempt: int) -> None:
    """Say in events.jsonl what has another value from `attempt` on."""
    review = prepared.review
    if review and (review.all or review.course):
        course = {"course": review.course} if review.course else {}
        append_event(prepared.run, "changed", attempt=attempt, changes=review.all, **course)


def _say_notes(prepared: _Prepared) -> None:
    """What is no reason to refuse; said after a job was taken, so that a refusal stands alone."""
    for warning in prepared.facts.warnings:
        _say(f"warning: {warning}")
    for note in prepared.notes:
        _say(f"note: {note}")


def _show(request: Request, prepared: _Prepared) -> int:
    """The plan and the script; nothing is written."""
    from launch.plan import make_plan, show_plan

    _say_notes(prepared)
    config, run, script = prepared.config, prepared.run, prepared.script
    plan = make_plan(config, prepared.resources, prepared.facts)
    if request.as_json:
        start = prepared.start.start if prepared.start else None
        about = {"run_id": run.path.name, "run_dir": str(run.path), "job_id": None, "start_estimate": start}
        review = prepared.review
        changed = {"changes": review.all, "course": review.course} if review else {}
        _print_json({**about, **changed, "plan": plan, "script": script})
        return 0
    print(harmless(f"{'run':9}{run.path}\n{show_plan(plan, config)}"))
    if prepared.start:
        print(f"{'start':9}{prepared.start.shown()}")
    if script is not None:
        print(f"\n{script}", end="")
    return 0


def _submit_job(request: Request, prepared: _Prepared, undo: Callable[[], None]) -> int:
    """Hand the run to Slurm; where that is refused or interrupted, `undo` what was written for it."""
    from launch.job import TrainJob
    from launch.slurm import submit as hand_over

    assert prepared.script is not None
    run, resources = prepared.run, prepared.resources
    attempt = last_attempt(run) + 1
    job = TrainJob(str(run.path), resources.processes, resources.devices, trainer=request.trainer)
    try:
        job_id = hand_over(run, job, prepared.script)
    except BaseException:
        undo()
        raise
    with contextlib.suppress(OSError):  # the job is in the queue, whatever else fails
        about = {"attempt": attempt, "executor": "slurm", "job_id": job_id, "overrides": list(request.overrides)}
        append_event(run, "submitted", **about)
        _record_changes(prepared, attempt)
    if request.as_json:
        _print_json({"run_id": run.run_id, "run_dir": str(run.path), "job_id": job_id})
    else:
        print(f"submitted job {job_id}\n{'run':9}{run.path}\n{'log':9}{run.submitit / f'{job_id}_0_log.out'}")
        print(f"{'next':9}{typed_command('tmrc')} status {shlex.quote(str(run.path))}")
    _say_notes(prepared)
    return 0


def _run_here(request: Request, prepared: _Prepared) -> int:
    from launch.local import run_local

    run = prepared.run
    _record_changes(prepared, last_attempt(run) + 1)
    _say_notes(prepared)
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
        logged = max(result.state.step, result.state.validated)
        of = f"  (as of step {logged:,})" if shown and logged != (ending.step or 0) else ""
        print(f"{ending.status:9}at step {ending.step or 0:,}  {'  '.join(shown)}{of}".rstrip())
        print(f"{'run':9}{run.path}")
        print(f"{'next':9}{_next_command(ending.exit_code, run)}")


def _next_command(exit_code: int, run: RunDir) -> str:
    where = shlex.quote(str(run.path))
    if exit_code == EXIT_WANTS_REQUEUE:
        return f"{typed_command('tmrc-submit')} --local --resume {where}"
    if exit_code != EXIT_FINISHED:
        return ""
    if newest_step(run) is None:
        return f"{typed_command('tmrc')} report {where}"
    return f'{typed_command("tmrc")} generate {where} --prompt "..."'


def _print_json(values: dict[str, Any]) -> None:
    print(json.dumps(values, ensure_ascii=False))


def _say(line: str) -> None:
    print(shortened(harmless(line)), file=sys.stderr, flush=True)
