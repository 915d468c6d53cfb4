"""`tmrc report`: what runs have learnt, cost and suffered."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from launch.complete import runs_and_sweeps

if TYPE_CHECKING:
    from launch.report.entries import Facts
    from launch.resultfile import ResultFile

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="RUN|SWEEP|DIR...", shell_complete=runs_and_sweeps)
@click.option("-o", "--output", "html", type=_FILE, metavar="FILE.html", help="Write a page that needs no network.")
@click.option("--png", type=_FILE, metavar="FILE", help="Write a picture of the losses.")
@click.option("--csv", type=_FILE, metavar="FILE", help="Write a row for each run.")
@click.option("--text", "as_text", is_flag=True, help="Print it. [where no file is written]")
@click.option("--json", "as_json", is_flag=True, help="Print the facts of each run as one JSON object.")
@click.option("--force", is_flag=True, help="Replace a file even if no report has written it.")
def report(
    targets: tuple[str, ...],
    html: Path | None,
    png: Path | None,
    csv: Path | None,
    as_text: bool,
    as_json: bool,
    force: bool,
) -> None:
    """Tell of runs: losses, learning rate, gradients and throughput, attempts with causes, goodput, and commands.

    RUN is a run's directory, its id, or the beginning of that; of a sweep, or of a directory with runs, all runs are
    compared, and so are several of either. Without an option it is printed as text.
    """
    from launch.find import find_runs
    from launch.plaintext import one_line
    from launch.resultfile import check_files
    from tmrc.config.errors import UserError

    runs = find_runs(targets)
    if not runs:
        raise UserError(f"no runs in {', '.join(targets)}")
    files = _files(html, png, csv)
    check_files(files, force)
    from launch.report.collect import collect
    from launch.report.entries import make_facts

    found = collect(runs)
    facts = make_facts(found)
    title = _title(targets, facts)
    for kind, target in files.items():
        target.write(_content(kind, facts, title, found.now, found.problem))
    if as_json:
        _print_json(facts, files, found.problem)
        return
    if as_text or not files:
        _print_text(facts, title, found.problem)
    for target in files.values():
        click.echo(one_line(str(target.path)))


def _files(html: Path | None, png: Path | None, csv: Path | None) -> dict[str, ResultFile]:
    from launch.report.output import PAGE, PICTURE, SHEET
    from launch.resultfile import ResultFile

    marks = (
        ("html", "-o", html, PAGE),
        ("png", "--png", png, PICTURE),
        ("csv", "--csv", csv, SHEET),
    )
    advice = "name another file, or add --force"
    return {
        kind: ResultFile(option, path, mark, "tmrc report", advice)
        for kind, option, path, mark in marks
        if path is not None
    }


def _content(kind: str, facts: Facts, title: str, now: float, problem: str) -> bytes:
    if kind == "html":
        from launch.report.page import page

        return page(facts, title, now, problem).encode("utf8", "replace")
    if kind == "png":
        from launch.report.picture import picture

        return picture(facts, title)
    from launch.report.sheet import sheet

    return sheet(facts).encode("utf8", "replace")


def _title(targets: tuple[str, ...], facts: Facts) -> str:
    """The run's id, the sweep's or directory's name, or how many runs are compared."""
    if len(facts.entries) == 1:
        return facts.entries[0].run_id
    parents = {Path(entry.directory).parent for entry in facts.entries}
    return parents.pop().name if len(parents) == 1 and len(targets) == 1 else f"{len(facts.entries):,} runs compared"


def _print_json(facts: Facts, files: dict[str, ResultFile], problem: str) -> None:
    from launch.report.sheet import objects

    if problem:
        print(f"queue unknown: {problem}", file=sys.stderr)
    written = {kind: str(target.path) for kind, target in files.items()}
    about = {"runs": objects(facts), "differing": list(facts.keys), "hours_unit": facts.hours_unit, "written": written}
    print(json.dumps(about))


def _print_text(facts: Facts, title: str, problem: str) -> None:
    from launch.report.terminal import BLOCKS, report_lines
    from launch.screen import never_fails_to_print, width_of_stdout

    never_fails_to_print()
    try:
        BLOCKS.encode(sys.stdout.encoding or "ascii")
        blocks = True
    except (UnicodeEncodeError, LookupError):
        blocks = False
    lines = report_lines(facts, title, width_of_stdout(), blocks)
    print("\n".join([*lines, *([f"queue unknown: {problem}"] if problem else [])]))
