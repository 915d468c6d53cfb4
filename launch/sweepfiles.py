"""What a submission of a sweep writes before anything runs, and what takes it back."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from launch.atonce import for_each
from launch.attempts import hold_lock, newest_step, refuse_running
from launch.code import copy_code
from launch.points import NEW, Point, Sweep
from launch.rundirs import create_point, make_durable, provenance, why_not
from launch.script import Array
from launch.sweepdir import SweepDir, write_sweep
from tmrc.config.errors import UserError
from tmrc.config.rundir import RunDir, append_event
from tmrc.config.waiting import waiting


@contextlib.contextmanager
def sweep_lock(sweep: SweepDir) -> Iterator[None]:
    """Nobody else submits the sweep meanwhile. Raises UserError when somebody does, or it cannot be written."""
    try:
        descriptor = _locked(sweep)
    except OSError as error:
        raise UserError(f"training.artifacts_path: {sweep.path}: cannot be written: {error.strerror}") from None
    try:
        yield
    finally:
        _remove_if_empty(sweep)  # while nobody else can have the lock
        os.close(descriptor)


def _locked(sweep: SweepDir) -> int:
    """The descriptor of the lock. The file must still be there under its name: an empty sweep is removed with it."""
    file = sweep.path / "submit.lock"
    while True:
        try:
            sweep.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except FileNotFoundError:  # removed between the two
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise UserError(f"{sweep.path}: another tmrc-submit is at work on this sweep") from None
        except OSError:
            return descriptor  # a file system without locks
        with contextlib.suppress(FileNotFoundError):
            if file.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)


def begin(sweep: Sweep, array: Array, command: Sequence[str]) -> Callable[[], None]:
    """Make the runs that are missing and the others ready to go on; returns what undoes it, until something has run.

    Raises UserError when it cannot be written; what was begun is undone then.
    """
    undone: list[Callable[[], object]] = []

    def undo() -> None:
        for step in reversed(undone):
            with contextlib.suppress(OSError):
                step()

    try:
        _begin(sweep, array, command, undone)
    except BaseException as error:
        undo()
        if isinstance(error, OSError):
            raise UserError(f"{error.filename or sweep.folder.path}: cannot be written: {why_not(error)}") from None
        raise
    return undo


def _begin(sweep: Sweep, array: Array, command: Sequence[str], undone: list[Callable[[], object]]) -> None:
    points = sweep.to_run
    if not points:
        return
    before = sweep.folder.record.read_bytes() if sweep.folder.record.exists() else None
    undone.append(lambda: _put_back(sweep.folder.record, before))
    write_sweep(sweep.folder, sweep.record.with_points((point.record for point in points), command))
    array.folder.mkdir(parents=True)
    undone.append(lambda: shutil.rmtree(array.folder, ignore_errors=True))
    array.submitit.mkdir(mode=0o700)  # holds pickles, which run code when they are loaded
    array.runs_file.write_text("".join(f"{point.run.path}\n" for point in points), "utf8")
    code = array.folder / "code"
    with ThreadPoolExecutor(1) as aside:
        of_all = aside.submit(provenance, "", command)  # waits for git, again and again
        copy_code(code)
    about = of_all.result()
    written: dict[str, str] = {}
    new = [point for point in points if point.state == NEW]
    undone.append(lambda: _remove(new))

    def create(point: Point) -> None:
        of_sweep = {"id": sweep.folder.path.name, "overrides": list(point.overrides)}
        create_point(point.run, point.config, code, {**about, "sweep": of_sweep}, written)

    with waiting(f"{len(new):,} run directories to be written"):
        for_each(new, create)
        make_durable(point.run.run_json for point in new)
    _allow_open_files(2 * len(points) + 256)
    for point in points:
        if point.state != NEW:
            undone.append(_make_ready(point, code))


def _allow_open_files(count: int) -> None:
    """Raise this process's limit: the lock of each run that goes on is an open file until we end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _make_ready(point: Point, code: Path) -> Callable[[], None]:
    """Let a run that has ended go on; one without a checkpoint begins anew, with the code as it is now."""
    from launch.changed import review
    from launch.resume import take_up
    from launch.trust import refuse_others

    run = point.run
    hold_lock(run, name="submit.lock")  # until we end: nobody else may begin an attempt meanwhile
    refuse_others(run)
    refuse_running(run)
    changed = review(run, point.config, allow=False).all
    put_back = take_up(run, point.config)
    old = str(run.code.readlink()) if run.code.is_symlink() and newest_step(run) is None else None
    if old is not None:
        _link(run, os.path.relpath(code, run.path))
    if changed:
        append_event(run, "changed", changes=changed)

    def undo() -> None:
        put_back()
        if old is not None:
            _link(run, old)

    return undo


def _link(run: RunDir, target: str) -> None:
    fresh = run.path / ".code"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(run.code)


def _remove(points: Sequence[Point]) -> None:
    for point in points:
        shutil.rmtree(point.run.path, ignore_errors=True)


def _put_back(file: Path, content: bytes | None) -> None:
    if content is None:
        file.unlink(missing_ok=True)
    else:
        file.write_bytes(content)


def _remove_if_empty(sweep: SweepDir) -> None:
    """Leave no directory behind in which nothing is."""
    with contextlib.suppress(OSError):
        if {entry.name for entry in sweep.path.iterdir()} <= {"submit.lock", "submissions"}:
            (sweep.path / "submissions").rmdir() if (sweep.path / "submissions").is_dir() else None
            (sweep.path / "submit.lock").unlink()
            sweep.path.rmdir()
