"""`tmrc status --watch` in a real terminal, and what is said on stderr while something takes long."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections import Counter
from fcntl import ioctl
from pathlib import Path

import pytest

from launch.live import chosen, live
from launch.status import RunStatus, statuses
from launch.table import columns_of
from tests.launch.fake_queue import FakeSlurm, HandMade
from tests.launch.helpers import ROOT, call
from tmrc.config.rundir import RunDir


def many(artifacts: Path, number: int) -> list[HandMade]:
    """Runs of all sorts, the newest last."""
    made = []
    for n in range(number):
        run = HandMade(artifacts, f"run-{n:03}{'-字' if n % 7 == 3 else ''}")
        match n % 4:
            case 0:
                run.began(1, None).trains(1, 0, 50, 1000)
            case 1:
                run.began(1, "8").trains().ended(1, "failed", message="CUDA error " * 9)
            case 2:
                run.began(1, "8").trains().ended(1)
            case _:
                run.submitted("9")
        os.utime(run.path / "run.json", (1000.0 + n, 1000.0 + n))
        made.append(run)
    return made


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[RunStatus]:
    monkeypatch.setenv("PATH", str(tmp_path))  # no Slurm
    return statuses([RunDir(run.path) for run in many(tmp_path / "runs", 200)])[0]


@pytest.mark.parametrize(("width", "height"), [(80, 23), (120, 39), (40, 9), (40, 3), (200, 60), (80, 2)])
def test_a_live_table_fits_and_says_how_many_it_hides(found: list[RunStatus], width: int, height: int) -> None:
    lines = live(found, width, False, height)
    assert len(lines) <= height and max(map(columns_of, lines)) <= width
    assert "200 runs: 50 pending" in lines[0]
    shown = [line for line in lines[1:] if line.startswith("run-")]
    if height >= 9:
        assert f"no room for {200 - len(shown)} more" in lines[-1] and len(shown) > height // 3
        states = Counter(line.split()[1] for line in shown)
        assert states["running"] >= 1 and states["failed"] + states["running"] == len(shown)


def test_what_runs_and_what_failed_last_is_chosen(found: list[RunStatus]) -> None:
    kept = chosen(found, 20)
    assert Counter(one.state for one in kept) == {"running": 15, "failed": 5}
    failed = {one.run_id for one in kept if one.state == "failed"}
    assert {name[:7] for name in failed} == {"run-197", "run-193", "run-189", "run-185", "run-181"}
    assert Counter(one.state for one in chosen(found, 120)) == {"running": 50, "failed": 50, "pending": 20}
    assert len(chosen(found, 200)) == 200


@pytest.mark.parametrize("height", range(4, 20))
def test_a_live_table_of_which_only_notes_do_not_fit_hides_nothing(found: list[RunStatus], height: int) -> None:
    lines = live(found[:6], 70, False, height)
    assert not any("no room for 0" in line for line in lines)
    assert any("no room for" in line for line in lines) == (sum(line.startswith("run-") for line in lines) < 6)


class Watched:
    """`tmrc status --watch` in a terminal of its own, with a screen that is redrawn from what it writes."""

    def __init__(self, folder: Path, env: dict[str, str], columns: int = 80, rows: int = 24) -> None:
        self.written = ""
        self.master, self.slave = pty.openpty()
        self.resize(columns, rows)
        self.before = termios.tcgetattr(self.slave)

        def own_terminal() -> None:
            os.setsid()
            ioctl(0, termios.TIOCSCTTY, 0)

        command = [sys.executable, "-m", "launch.cli.main", "status", "--watch", "--interval", "0.3", str(folder)]
        env = {**os.environ, **env, "TERM": "xterm", "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            command, stdin=self.slave, stdout=self.slave, stderr=self.slave, preexec_fn=own_terminal, env=env, cwd=ROOT
        )  # fmt: skip

    def resize(self, columns: int, rows: int) -> None:
        ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read_until(self, pattern: str, patience: float = 30.0) -> str:
        deadline = time.monotonic() + patience
        while not (found := re.search(pattern, self.written, re.DOTALL)):
            assert time.monotonic() < deadline, self.written[-3000:]
            if select.select([self.master], [], [], 0.1)[0]:
                self.written += os.read(self.master, 65536).decode("utf8", "replace")
        return found[0]

    def end(self) -> tuple[int, str]:
        """The exit code, and all that was written; the terminal must be as it was."""
        code = self.process.wait(20)
        self.read_until(r"\x1b\[\?1049l")
        while select.select([self.master], [], [], 0.2)[0]:
            self.written += os.read(self.master, 65536).decode("utf8", "replace")
        assert "\x1b[?25h" in self.written and "\x1b[?7h" in self.written
        assert termios.tcgetattr(self.slave) == self.before
        os.close(self.master)
        os.close(self.slave)
        return code, self.written


@pytest.fixture
def no_slurm(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "empty").mkdir()
    return {"PATH": str(tmp_path / "empty")}


def test_a_run_that_appears_and_one_that_ends_are_shown(tmp_path: Path, no_slurm: dict[str, str]) -> None:
    artifacts = tmp_path / "runs"
    artifacts.mkdir()
    watched = Watched(artifacts, no_slurm)
    watched.read_until("no runs in ")
    run = HandMade(artifacts, "fresh").began(1, None).trains()
    watched.read_until(r"1 run: 1 running.*fresh")
    run.ended(1)
    watched.read_until("1 run: 1 finished")
    os.write(watched.master, b"q")
    code, written = watched.end()
    assert code == 0 and "fresh" in written.rpartition("\x1b[?1049l")[2]  # what was shown last stays


@pytest.mark.parametrize(("how", "code"), [("ctrl-c", 0), ("term", 143)])
def test_the_terminal_is_as_it_was_afterwards(tmp_path: Path, no_slurm: dict[str, str], how: str, code: int) -> None:
    many(tmp_path / "runs", 30)
    watched = Watched(tmp_path / "runs", no_slurm)
    watched.read_until("no room for")
    if how == "term":
        watched.process.send_signal(signal.SIGTERM)
    else:
        os.write(watched.master, b"\x03")
    assert watched.end()[0] == code


def test_a_window_of_another_size(tmp_path: Path, no_slurm: dict[str, str]) -> None:
    many(tmp_path / "runs", 30)
    watched = Watched(tmp_path / "runs", no_slurm, 80, 12)
    first = watched.read_until(r"no room for \d+ more")
    assert not re.search(r"TOKENS/S", first)
    watched.resize(160, 12)
    watched.read_until("TOKENS/S")
    watched.resize(160, 60)
    watched.read_until(r"30 runs(?:(?!no room|\x1b\[H).)*run-029(?:(?!no room|\x1b\[H).)*\x1b\[J")
    os.write(watched.master, b"q")
    watched.end()


def slow_slurm(folder: Path) -> dict[str, str]:
    """squeue answers after three seconds."""
    slurm = FakeSlurm(folder)
    (folder / "squeue").write_text("#!/bin/bash\nsleep 3\necho '7|PENDING||0|1:00|Priority'\n")
    return slurm.env


def test_a_slow_queue_is_waited_for_with_a_word(tmp_path: Path) -> None:
    HandMade(tmp_path / "runs").submitted("7")
    env = slow_slurm(tmp_path / "bin")
    done = call("status", tmp_path / "runs", "--json", module="launch.cli.main", env=env)
    assert done.code == 0 and done.err == "waiting for squeue ...\n" and '"pending"' in done.out
    terminal, other = pty.openpty()
    command = [sys.executable, "-m", "launch.cli.main", "status", str(tmp_path / "runs")]
    subprocess.run(
        command,
        stdout=subprocess.DEVNULL,
        stderr=other,
        cwd=ROOT,
        env={**os.environ, **env, "TERM": "xterm"},
        check=True,
    )
    said = os.read(terminal, 65536).decode()
    assert "waiting for squeue, 2 s" in said and said.endswith("\r\x1b[K")


def test_what_is_fast_is_not_waited_for(tmp_path: Path) -> None:
    HandMade(tmp_path / "runs").submitted("7")
    slurm = FakeSlurm(tmp_path / "bin")
    slurm.queue("7|PENDING||0|1:00|Priority")
    assert call("status", tmp_path / "runs", module="launch.cli.main", env=slurm.env).err == ""


WAIT = "import sys, time\nfrom tmrc.config import waiting\nwaiting.PATIENCE = 0.1\n"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("with waiting.waiting('it'): time.sleep(0.5); raise SystemExit(3)", 3),
        ("with waiting.waiting('it'): time.sleep(0.5); import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -15),
        ("held = waiting.waiting('it'); held.__enter__(); time.sleep(0.5); sys.exit(4)", 4),  # never left
        ("sys.stderr = None\nwith waiting.waiting('it'): time.sleep(0.3)\nsys.exit(5)", 5),
    ],
)
def test_waiting_never_holds_a_process(body: str, code: int) -> None:
    done = subprocess.run([sys.executable, "-c", WAIT + body], capture_output=True, text=True, timeout=30, cwd=ROOT)
    assert done.returncode == code
    assert done.stderr == ("" if code == 5 else "waiting for it ...\n")


def test_bytes_are_counted_on_stderr_once_it_takes_long() -> None:
    begin = "from tmrc.config import progress as p\np.PATIENCE = 0.2\n"
    count = (
        "with p.progress('reading', 4_000_000) as advance:\n"
        "    for n in range(1, 5): advance(n * 1_000_000); wait(0.15)\n"
    )
    by_hand = "import types\nnow = 0.0\ndef wait(seconds):\n    global now\n    now += seconds\n"
    by_hand += "p.time = types.SimpleNamespace(monotonic=lambda: now)\n"
    code = f"{begin}from time import sleep as wait\n{count}"
    piped = subprocess.run(
        [sys.executable, "-c", begin + by_hand + count], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert piped.stderr == "reading: 3 of 4 MB\n"
    terminal, other = pty.openpty()
    subprocess.run(
        [sys.executable, "-c", code], stderr=other, cwd=ROOT, check=True, env={**os.environ, "TERM": "xterm"}
    )
    assert "reading" in os.read(terminal, 65536).decode()
    fast = code.replace("0.2", "9")
    assert subprocess.run([sys.executable, "-c", fast], capture_output=True, cwd=ROOT, check=True).stderr == b""
