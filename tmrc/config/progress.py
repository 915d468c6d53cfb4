"""Progress of long work on stderr: a bar on a terminal, else a line now and then; nothing for what is soon done."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from tmrc.config.waiting import PATIENCE

Advance = Callable[[int], None]  # told how much is done by now
_SECONDS_BETWEEN_LINES = 10.0


@contextlib.contextmanager
def progress(label: str, total: int, unit: str = "") -> Iterator[Advance]:
    """Show how much of `total` bytes, or of `total` things that are called `unit`, is done, from two seconds on."""
    with contextlib.ExitStack() as stack:
        begin = time.monotonic() + PATIENCE
        shown: Advance | None = None

        def advance(done: int) -> None:
            nonlocal shown
            if shown is None and time.monotonic() >= begin:
                bar = sys.stderr.isatty()
                shown = stack.enter_context(_bar(label, total, unit)) if bar else _lines(label, total, unit)
            if shown is not None:
                shown(done)

        yield advance


def _lines(label: str, total: int, unit: str) -> Advance:
    last = -_SECONDS_BETWEEN_LINES

    def advance(done: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            much = f"{done:,} of {total:,} {unit}" if unit else f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB"
            print(f"{label}: {much}", file=sys.stderr, flush=True)

    return advance


@contextlib.contextmanager
def _bar(label: str, total: int, unit: str) -> Iterator[Advance]:
    from rich import progress as shown
    from rich.console import Console

    of_bytes = (shown.DownloadColumn(), shown.TransferSpeedColumn())
    much = (shown.MofNCompleteColumn(), shown.TextColumn(unit)) if unit else of_bytes
    columns = (shown.TextColumn("{task.description}"), shown.BarColumn(), *much, shown.TimeRemainingColumn())
    with shown.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)

        def advance(done: int) -> None:
            bar.update(task, completed=done)

        yield advance
