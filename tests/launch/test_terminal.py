"""A run in a real terminal: what it draws, and Ctrl-C typed into it."""

from __future__ import annotations

import os
import pty
import re
import select
import struct
import sys
import time
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

from tests.launch.helpers import ROOT, STANDIN, living, tags, write_config


class Terminal:
    """`tmrc-submit` as the foreground process of a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self.shown = ""
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            os.environ["TERM"] = "xterm"
            os.execv(sys.executable, [sys.executable, "-m", STANDIN, *arguments])
        ioctl(self.descriptor, TIOCSWINSZ, struct.pack("HHHH", 30, 110, 0, 0))

    def read_until(self, pattern: str, patience: float = 240.0) -> str:
        """What the terminal shows, up to and with `pattern`."""
        deadline = time.monotonic() + patience
        while not re.search(pattern, self.shown):
            assert time.monotonic() < deadline, self.shown
            if select.select([self.descriptor], [], [], 0.1)[0]:
                try:
                    self.shown += os.read(self.descriptor, 65536).decode("utf8", "replace")
                except OSError:  # the other end is closed
                    break
        return self.shown

    def type(self, keys: bytes) -> None:
        os.write(self.descriptor, keys)

    def exit_code(self) -> int:
        self.read_until("never")
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_progress_and_ctrl_c_in_a_terminal(tmp_path: Path) -> None:
    config = write_config(tmp_path, training={"train_steps": 2000})
    terminal = Terminal("--local", str(config), tags(step_seconds=0.02))
    shown = terminal.read_until(r"step ([5-9]\d|\d{3}|1,\d{3})/2,000")
    assert "loss " in shown and "tokens/s" in shown and "left" in shown and "\x1b[" in shown
    terminal.type(b"\x03")
    shown = terminal.read_until("saving and stopping")
    assert terminal.exit_code() == 75
    run = next(tmp_path.glob("artifacts/*"))
    assert "tmrc-submit --local --resume" in terminal.shown and living(run) == []


def test_a_closed_terminal_stops_the_run(tmp_path: Path) -> None:
    config = write_config(tmp_path, training={"train_steps": 2000})
    terminal = Terminal("--local", str(config), tags(step_seconds=0.02))
    terminal.read_until(r"step [\d,]+/2,000")
    os.close(terminal.descriptor)
    assert os.waitstatus_to_exitcode(os.waitpid(terminal.pid, 0)[1]) == 75
    assert living(next(tmp_path.glob("artifacts/*"))) == []
