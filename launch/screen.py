"""Showing something that changes: in place on a terminal, as a new block in a pipe."""

from __future__ import annotations

import contextlib
import io
import os
import select
import shutil
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

# The alternate screen, without a cursor, where what is too long does not go on in the next line; and back
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[H\x1b[2J", "\x1b[?7h\x1b[?25h\x1b[?1049l"
HOME, REST_OF_LINE, REST = "\x1b[H", "\x1b[K", "\x1b[J"
BEGIN, END = "\x1b[?2026h", "\x1b[?2026l"  # of a picture to be shown at once, for terminals that know this

PIPE_EVERY = 60.0  # seconds at least between two blocks in a pipe for what is no change of a state

Look = Callable[[], tuple[object, object]]  # looks again; returns the states, and all but what time alone changes
# Lines for a width (None: as wide as it gets), with colours or without, as many as there is room for (None: all)
Lines = Callable[[int | None, bool, int | None], list[str]]


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


def watch(look: Look, lines: Lines, interval: float, in_place: bool = True) -> None:
    """Show `lines` anew every `interval` seconds until Ctrl-C or q. A terminal keeps what was shown last.

    Where stdout is no terminal, or without `in_place`, a new block is printed for what has changed.
    """
    if not (in_place and sys.stdout.isatty()):
        _watch_in_blocks(look, lines, interval)
        return
    with _terminal() as terminal:
        _watch_in_place(look, lines, interval, terminal)
    width, height = _size()
    print("\n".join(_fitting(lines(width, coloured(), height), height)))


def _watch_in_place(look: Look, lines: Lines, interval: float, terminal: _Terminal) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        _draw(["looking ..."])
        while True:
            look()
            until = time.monotonic() + interval
            word = "redraw"
            while word == "redraw":
                width, height = _size()
                _draw(_fitting(lines(width, coloured(), height), height))
                word = terminal.wait(until)
            if word == "quit":
                return


def _fitting(shown: list[str], height: int) -> list[str]:
    """The first line and the last ones, where there are more than `height`."""
    more = len(shown) - height
    return shown if more <= 0 else [shown[0], f"... {more + 1:,} lines more", *shown[more + 2 :]][:height]


def _draw(shown: list[str]) -> None:
    """Over what is there, line by line and in one go, so that nothing flickers.

    A line is emptied before it is written: behind a full one, that would take its last character away.
    """
    picture = "".join(f"{REST_OF_LINE}{line}\n" for line in shown)
    sys.stdout.write(f"{BEGIN}{HOME}{picture}{REST}{END}")
    sys.stdout.flush()


def _size() -> tuple[int, int]:
    """Columns and lines that can be written; what COLUMNS says does not follow the window."""
    try:
        columns, rows = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        columns, rows = 0, 0
    return columns or 80, max(1, (rows or 24) - 1)


def _watch_in_blocks(look: Look, lines: Lines, interval: float) -> None:
    """States are told when they change, steps and losses now and then."""
    before: tuple[object, object] | None = None
    printed = 0.0
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            now = look()
            late = time.monotonic() - printed >= PIPE_EVERY
            if before is None or now[0] != before[0] or (late and now[1] != before[1]):
                print("\n".join([*([] if before is None else [""]), *lines(None, False, None)]), flush=True)
                before, printed = now, time.monotonic()
            time.sleep(interval)


@dataclass
class _Terminal:
    """The terminal while it is drawn on: `wake` becomes readable when a signal has come, `keys` were its settings."""

    wake: int
    keys: list[Any] | None = field(default=None)

    def enter(self) -> None:
        """Take the terminal; keys are read one by one where they are ours to read."""
        if _reads_keys():
            self.keys = termios.tcgetattr(0)
            tty.setcbreak(0)
        sys.stdout.write(ENTER)
        sys.stdout.flush()

    def leave(self) -> None:
        """Leave the terminal as it was."""
        with contextlib.suppress(OSError):  # it may be gone
            sys.stdout.write(LEAVE)
            sys.stdout.flush()
        if self.keys is not None:
            with contextlib.suppress(OSError, termios.error):
                termios.tcsetattr(0, termios.TCSADRAIN, self.keys)
        self.keys = None

    def wait(self, until: float) -> str:
        """`quit` at a q, `redraw` when the window has another size or is ours again, `look` at the time `until`."""
        while (left := until - time.monotonic()) > 0:
            ready, _, _ = select.select([self.wake, *([0] if self.keys is not None else [])], [], [], left)
            if self.wake in ready:
                os.read(self.wake, 4096)
                return "redraw"
            if 0 in ready and (typed := os.read(0, 64)) in (b"q", b"Q", b""):
                self.keys = self.keys if typed else None
                return "quit" if typed else "redraw"
        return "look"


def _reads_keys() -> bool:
    """Whether stdin is the terminal, and we are in its foreground."""
    try:
        return os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


@contextmanager
def _terminal() -> Iterator[_Terminal]:
    """The terminal, to be drawn on; it is as it was afterwards, also after TERM and HUP, and while we are suspended."""
    wake, signalled = os.pipe()
    os.set_blocking(signalled, False)
    terminal = _Terminal(wake)

    def end(signum: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + signum)

    def suspend(signum: int, frame: FrameType | None) -> None:
        terminal.leave()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)  # goes on behind this line once we are in the foreground again
        signal.signal(signal.SIGTSTP, suspend)
        terminal.enter()

    handlers = {signal.SIGTERM: end, signal.SIGHUP: end, signal.SIGTSTP: suspend, signal.SIGWINCH: lambda *_: None}
    before = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
    watched = signal.set_wakeup_fd(signalled, warn_on_full_buffer=False)
    try:
        terminal.enter()
        yield terminal
    finally:
        terminal.leave()
        signal.set_wakeup_fd(watched)
        for signum, handler in before.items():
            signal.signal(signum, handler)
        os.close(wake)
        os.close(signalled)
