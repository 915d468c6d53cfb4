"""`tmrc logs`: what a run has printed, attempt after attempt."""

from __future__ import annotations

import codecs
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from launch.logs import Segment


@click.command()
@click.argument("run", metavar="RUN")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until the run is over. Ctrl-C ends it.")
@click.option("-n", "--lines", type=click.IntRange(min=0), metavar="N", help="Begin with the last N lines. [all]")
@click.option("--attempt", type=int, metavar="N", help="Of attempt N only.")
@click.option("--node", type=int, default=0, show_default=True, metavar="K", help="Of the job's K-th node.")
def logs(run: str, follow: bool, lines: int | None, attempt: int | None, node: int) -> None:
    """Print the logs of all attempts of RUN: a directory, a run id, or the beginning of one.

    A terminal gets them without control characters; a file or a pipe gets every byte.
    """
    from launch.find import find_run
    from launch.follow import Reader

    found = find_run(run)
    reader, printer = Reader(found, node, attempt), _Printer(sys.stdout.isatty())
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
