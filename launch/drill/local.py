"""A trial on this machine: every attempt is a `tmrc-submit --local`."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from launch.drill.faults import leave_no_process
from launch.drill.plan import Hit
from launch.drill.scene import Trouble
from launch.drill.trial import Stopped, Trial
from launch.processes import end_with_parent


class LocalTrial(Trial):
    """A trial whose attempts are `tmrc-submit --local`."""

    def attempt(self, hit: Hit | None) -> None:
        """One `tmrc-submit --local`, to the end of its last process."""
        if self.setting.stopping.is_set():
            raise Stopped
        self.watcher.begin()
        log = self.folder / "submit.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                self.command("--local", *self.how()), env=self.environment(), start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, preexec_fn=end_with_parent,
            )  # fmt: skip
        begun = time.monotonic()
        scene = self.strike(hit, lambda: process.poll() is not None, begun) if hit else None
        code = self._wait(process)
        leave_no_process(self.folder)
        self.watcher.note_end()
        if self.setting.stopping.is_set():
            raise Stopped
        if scene is not None:
            self.after(scene)
        elif code != 0:
            last = last_line(log)
            raise Trouble(f"an attempt without any fault ended with exit code {code}: {last} ({log})")

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        """Its exit code. Raises Trouble when it takes much longer than the whole reference."""
        patience = 3 * self.setting.course.wall + 180.0
        deadline = time.monotonic() + patience
        while process.poll() is None:
            self.watcher.look()
            if time.monotonic() > deadline:
                raise Trouble(f"tmrc-submit has not ended after {patience:.0f} seconds")
            time.sleep(0.02)
        return process.returncode


def last_line(file: Path) -> str:
    """The last line of a log."""
    lines = [line.strip() for line in file.read_text("utf8", "replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or [""])[-1][:400]
