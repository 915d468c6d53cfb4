"""`tmrc logs`: what a run has printed, attempt after attempt."""

from __future__ import annotations

import codecs
import json
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from launch.complete import runs

if TYPE_CHECKING:
    from launch.logs import Segment


LONGEST = 1 << 20  # bytes after which the parts of a line without an end are printed by themselves


@click.command()
@click.argument("run", metavar="RUN", shell_complete=runs)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until the run is over. Ctrl-C ends it.")
@click.option("-n", "--lines", type=click.IntRange(min=0), metavar="N", help="Begin with the last N lines. [all]")
@click.option("--attempt", type=int, metavar="N", help="Of attempt N only.")
@click.option("--node", type=int, default=0, show_default=True, metavar="K", help="Of the job's K-th node.")
@click.option("--json", "as_json", is_flag=True, help="Print an object a line: attempt, job, node, host and line.")
def logs(run: str, follow: bool, lines: int | None, attempt: int | None, node: int, as_json: bool) -> None:
    """Print the logs of all attempts of RUN: a directory, a run id, or the beginning of one.

    A terminal gets them without control characters; a file or a pipe gets every byte.
    """
    from launch.find import find_run
    from launch.follow import Reader

    found = find_run(run)
    reader = Reader(found, node, attempt)
    printer = _JsonPrinter() if as_json else _Printer(sys.stdout.isatty())
    if lines is not None:
        reader.skip(lines)
    try:
        for part, block in reader.follow() if follow else reader.new():
            printer.write(part, block)
    except KeyboardInterrupt:
        if not follow:
            raise
    printer.end()
    if not reader.read:
        click.echo(f"{found.run_id}: nothing has been logged yet", err=True)


@dataclass
class _JsonPrinter:
    """Lines of logs on stdout, each as an object, when it is whole or no more of it can come."""

    part: Segment | None = None
    begun: bytes = b""

    def write(self, part: Segment, block: bytes) -> None:
        """Print the lines that `block`, which belongs to `part`, completes."""
        if self.part is None or (part.path, part.start) != (self.part.path, self.part.start):
            self._rest()
        self.part = part
        *whole, self.begun = (self.begun + block).split(b"\n")
        for line in whole:
            self._print(line)
        if len(self.begun) > LONGEST:
            self._rest()
        sys.stdout.flush()

    def end(self) -> None:
        """Print a last line without an end."""
        self._rest()
        sys.stdout.flush()

    def _rest(self) -> None:
        if self.begun:
            self._print(self.begun)
        self.begun = b""

    def _print(self, line: bytes) -> None:
        assert self.part is not None
        about = {"attempt": self.part.attempt, "job": self.part.job, "node": self.part.node, "host": self.part.host}
        print(json.dumps({**about, "line": line.decode("utf8", "replace")}))


@dataclass
class _Printer:
    """Blocks of logs on stdout, each attempt's under a heading."""

    harmless: bool
    shown: Segment | None = None
    line_ended: bool = True
    decoder: codecs.IncrementalDecoder = field(default_factory=lambda: codecs.getincrementaldecoder("utf8")("replace"))

    def write(self, part: Segment, block: bytes) -> None:
        """Print `block`, which belongs to `part`."""
        if self.shown is None or (part.path, part.start) != (self.shown.path, self.shown.start):
            gap = "" if self.shown is None else "\n" if self.line_ended else "\n\n"
            self._print(f"{gap}==> {part.heading} <==\n".encode("utf8", "replace"))
            self.shown = part
        self._print(block)
        self.line_ended = block.endswith(b"\n")
        sys.stdout.buffer.flush()

    def end(self) -> None:
        """Leave a terminal's prompt a line of its own."""
        if self.harmless and not self.line_ended:
            self._print(b"\n")
        sys.stdout.buffer.flush()

    def _print(self, block: bytes) -> None:
        from launch.plaintext import harmless

        text = harmless(self.decoder.decode(block)).encode("utf8", "replace") if self.harmless else block
        sys.stdout.buffer.write(text)
