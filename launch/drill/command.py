"""`tmrc drill` behind its options: files checked first, then the drill, then what it has found."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import launch.drill.faults
import launch.drill.slurm_faults  # noqa: F401  both register theirs
from launch.drill.drill import Drill
from launch.drill.prepare import prepare
from launch.drill.table import MARK, Report, as_object, markdown, summary, table
from launch.drill.wish import Wish
from launch.interrupts import interruptible
from launch.screen import never_fails_to_print
from tmrc.config.errors import UserError

INTERRUPTED = 130


def run_command(wish: Wish, json_file: str | None, markdown_file: str | None) -> int:
    """Do it; returns the exit code. Raises UserError."""
    never_fails_to_print()
    files = [(name, path, mark) for name, path, mark in _files(json_file, markdown_file) if path is not None]
    for option, path, mark in files:
        _check(option, path, mark)
    began = time.monotonic()
    with interruptible():
        drill = prepare(wish, _say)
        report = drill.run(lambda report: _write(report, time.monotonic() - began, json_file, None))
    seconds = time.monotonic() - began
    _write(report, seconds, json_file, markdown_file)
    _show(report, seconds, drill, to_stderr=json_file == "-")
    drill.clean_up()
    if drill.interrupted:
        return INTERRUPTED
    return 0 if report.equal else 1


def _files(json_file: str | None, markdown_file: str | None) -> tuple[tuple[str, Path | None, bytes], ...]:
    """(option, file, what a file of ours begins with)."""
    written = Path(json_file) if json_file not in (None, "-") else None
    return ("--json", written, b'{\n "drill"'), (
        "--markdown",
        Path(markdown_file) if markdown_file else None,
        MARK.encode(),
    )


def _check(option: str, path: Path, mark: bytes) -> None:
    """Raise UserError where the file cannot be written, or is none that a drill has written."""
    try:
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise UserError(f"{option}: {path}: is a directory, or in none")
        if path.exists() and path.stat().st_size:
            with path.open("rb") as file:
                ours = file.read(len(mark)) == mark
            if not ours:
                raise UserError(f"{option}: {path}: exists, and is not of tmrc drill; name another file")
        elif not path.exists():
            path.touch()
            path.unlink()
    except (OSError, ValueError) as error:
        raise UserError(f"{option}: {path}: cannot be written: {getattr(error, 'strerror', None) or error}") from None


def _write(report: Report, seconds: float, json_file: str | None, markdown_file: str | None) -> None:
    """What is known, into the files; into stdout only at the end, with the table."""
    if json_file not in (None, "-"):
        _replace(Path(str(json_file)), json.dumps(as_object(report, seconds), indent=1) + "\n")
    if markdown_file is not None:
        _replace(Path(markdown_file), markdown(report, seconds))


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name[:200]}.drill")
    try:
        temporary.write_text(text, "utf8")
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None


def _show(report: Report, seconds: float, drill: Drill, to_stderr: bool) -> None:
    if to_stderr:
        print(json.dumps(as_object(report, seconds)))
    stream = sys.stderr if to_stderr else sys.stdout
    lines = [*table(report), "", summary(report, seconds)]
    if drill.wish.keep or drill.interrupted or not report.equal:
        lines.append(f"kept: {drill.folder}")
    print("\n".join(lines), file=stream)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
