"""`tmrc drill` behind its options: files checked first, then the drill, then what it has found."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

import launch.drill.faults
import launch.drill.slurm_faults  # noqa: F401  both register theirs
from launch.drill.drill import Drill
from launch.drill.prepare import prepare
from launch.drill.table import MARK, Report, as_object, folded, markdown, summary, table
from launch.drill.wish import Wish
from launch.interrupts import interruptible
from launch.resultfile import ResultFile, check_files
from launch.screen import never_fails_to_print
from tmrc.config.errors import UserError

INTERRUPTED = 130
STDOUT = "-"


def run_command(wish: Wish, json_file: str | None, markdown_file: str | None) -> int:
    """Do it; returns the exit code. Raises UserError."""
    never_fails_to_print()
    if json_file == markdown_file == STDOUT:
        raise UserError("--json and --markdown cannot both be -")
    files = _files(json_file, markdown_file)
    check_files(files)
    began = time.monotonic()
    with interruptible(), _one_line_for_a_full_disk():
        drill = prepare(wish, _say)
        report = drill.run(lambda report: _write(files, "json", _as_json(report, time.monotonic() - began)))
    seconds = time.monotonic() - began
    texts = {"json": _as_json(report, seconds), "markdown": markdown(report, seconds)}
    for kind, text in texts.items():
        _write(files, kind, text)
    piped = next(
        (texts[kind] for kind, file in (("json", json_file), ("markdown", markdown_file)) if file == STDOUT), ""
    )
    _show(report, seconds, drill, piped)
    drill.clean_up()
    return exit_code(report)


def exit_code(report: Report) -> int:
    """0 where all trials are equal and a fault has come to one of them at least; 1 else, and 130 when interrupted."""
    if report.interrupted:
        return INTERRUPTED
    return 0 if report.equal and report.hit else 1


def _files(json_file: str | None, markdown_file: str | None) -> dict[str, ResultFile]:
    """Those that are files, not stdout, and what of ours begins with."""
    given = (("json", json_file, b'{\n "drill"'), ("markdown", markdown_file, MARK.encode()))
    return {
        kind: ResultFile(f"--{kind}", Path(name), mark, "tmrc drill")
        for kind, name, mark in given
        if name not in (None, STDOUT)
    }


def _as_json(report: Report, seconds: float) -> str:
    return json.dumps(as_object(report, seconds), indent=1) + "\n"


def _write(files: Mapping[str, ResultFile], kind: str, text: str) -> None:
    """What is known, into the file of that kind, if there is one."""
    if kind in files:
        files[kind].write(text.encode("utf8", "replace"))


@contextlib.contextmanager
def _one_line_for_a_full_disk() -> Iterator[None]:
    """What the disk of the drill refuses is said in one line, with the file."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise
        raise UserError(f"{error.filename}: {error.strerror or error}") from None


def _show(report: Report, seconds: float, drill: Drill, piped: str) -> None:
    """The tables, to stderr where stdout gets the text `piped`."""
    if piped:
        print(piped, end="")
    stream = sys.stderr if piped else sys.stdout
    width = _columns(stream)
    lines = [*table(report, width), ""] if report.outcomes else []
    lines += folded(summary(report, seconds), width)
    if drill.keeps:
        lines.append(f"kept: {drill.folder}")
    if report.interrupted and drill.wish.reference is None and report.reference is not None:
        lines.append(f"its reference can be used again: tmrc drill --reference {shlex.quote(report.reference)}")
    print("\n".join(lines), file=stream)


def _say(text: str) -> None:
    width = _columns(sys.stderr)
    print("\n".join(part for line in text.split("\n") for part in folded(line, width)), file=sys.stderr, flush=True)


def _columns(stream: TextIO) -> int | None:
    """Those of the terminal; None for a pipe or a file."""
    return shutil.get_terminal_size().columns if stream.isatty() else None
