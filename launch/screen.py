"""Showing something that changes: in place on a terminal, as a new block in a pipe."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # the alternate screen without a cursor, and back
HOME, REST_OF_LINE, REST = "\x1b[H", "\x1b[K", "\x1b[J"

PIPE_EVERY = 60.0  # seconds at least between two blocks in a pipe for what is no change of a state

Look = Callable[[], tuple[object, object]]  # looks again; returns the states, and all but what time alone changes
Lines = Callable[[int | None, bool], list[str]]  # lines for a width (None: as wide as it gets), with colours or without


def width_of_stdout() -> int | None:
    """Columns of the terminal; None when stdout is a pipe or a file."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def never_fails_to_print() -> None:
    """Names of files may hold what the terminal's character set has not."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def coloured() -> bool:
    """Whether stdout is a terminal, and nobody has asked for no colours (NO_COLOR, TERM=dumb)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def watch(look: Look, lines: Lines, interval: float) -> None:
    """Show `lines` anew every `interval` seconds until Ctrl-C. A terminal keeps what was shown last."""
    if not sys.stdout.isatty():
        _watch_in_pipe(look, lines, interval)
        return
    with _alternate_screen():
        _watch_on_screen(look, lines, interval)
    print("\n".join(lines(width_of_stdout(), coloured())))


def _watch_on_screen(look: Look, lines: Lines, interval: float) -> None:
    """Draw over what is there, line by line, so that nothing flickers."""
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            look()
            shown = lines(width_of_stdout(), coloured())
            height = shutil.get_terminal_size().lines - 1
            if (more := len(shown) - height) > 0:
                shown = [shown[0], f"... {more + 1:,} lines more", *shown[more + 2 :]]
            sys.stdout.write(HOME + "".join(f"{line}{REST_OF_LINE}\n" for line in shown) + REST)
            sys.stdout.flush()
            time.sleep(interval)


def _watch_in_pipe(look: Look, lines: Lines, interval: float) -> None:
    """States are told when they change, steps and losses now and then."""
    before: tuple[object, object] | None = None
    printed = 0.0
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            now = look()
            late = time.monotonic() - printed >= PIPE_EVERY
            if before is None or now[0] != before[0] or (late and now[1] != before[1]):
                print("\n".join([*([] if before is None else [""]), *lines(None, False)]), flush=True)
                before, printed = now, time.monotonic()
            time.sleep(interval)


@contextmanager
def _alternate_screen() -> Iterator[None]:
    def end(signum: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + signum)

    before = [signal.signal(signum, end) for signum in (signal.SIGTERM, signal.SIGHUP)]
    sys.stdout.write(ENTER)
    try:
        yield
    finally:
        sys.stdout.write(LEAVE)
        sys.stdout.flush()
        for signum, handler in zip((signal.SIGTERM, signal.SIGHUP), before, strict=True):
            signal.signal(signum, handler)
