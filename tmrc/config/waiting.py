"""A word on stderr while something takes long and nothing can be seen of it."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator

PATIENCE = 2.0  # seconds of waiting in silence
_TICK = 0.25  # seconds between two pictures of what moves
_SPINNER = "|/-\\"
_CLEAR = "\r\x1b[K"


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Say "waiting for `what`" on stderr when the block takes more than two seconds.

    On a terminal the line moves, tells the seconds, and is taken away at the end; a pipe or a file gets one plain line.
    The thread that does it writes to stderr itself, ends with the block, and never keeps the process from ending.
    """
    stream = _stderr()
    if stream is None:
        yield
        return
    over = threading.Event()
    teller = threading.Thread(target=_tell, args=(stream, what, over), daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join(1.0)  # a reader of stderr that has stalled must not hold us


def _stderr() -> int | None:
    """The descriptor of stderr; None where there is none."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return None


def _tell(stream: int, what: str, over: threading.Event) -> None:
    begun = time.monotonic()
    if over.wait(PATIENCE):
        return
    with contextlib.suppress(OSError):  # nobody reads it any more
        if not os.isatty(stream) or os.environ.get("TERM") == "dumb":
            os.write(stream, f"waiting for {what} ...\n".encode("utf8", "replace"))
            return
        for n in range(1 << 30):
            seconds = time.monotonic() - begun
            shown = f"{_CLEAR}{_SPINNER[n % 4]} waiting for {what}, {seconds:.0f} s"
            os.write(stream, shown[: _width(stream) + len(_CLEAR) - 1].encode("utf8", "replace"))
            if over.wait(_TICK):
                os.write(stream, _CLEAR.encode())
                return


def _width(stream: int) -> int:
    try:
        return os.get_terminal_size(stream).columns or 80
    except OSError:
        return 80
