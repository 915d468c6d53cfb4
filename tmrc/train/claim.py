"""Who sends a run to wandb: one process at a time, or two would write over each other's lines on the server."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import uuid
from typing import Any

from tmrc.config.rundir import RunDir

SYNC = 0  # in place of an attempt's number: a `tmrc sync`
PATIENCE = 180.0  # seconds without a sign of life after which a sender counts as gone


class Claim:
    """The file wandb/sender.json, which names the sender; its time of change is the sign of life.

    A later attempt takes over from an earlier one at once. Processes that go by it may overlap for a moment: both then
    send the same rows to the same lines.
    """

    def __init__(self, run: RunDir, attempt: int) -> None:
        self._path = run.wandb / "sender.json"
        self._attempt = attempt
        self._token = uuid.uuid4().hex
        self.taken = False

    def take(self) -> int | None:
        """Become the sender: None, or the attempt (or SYNC) that is. Raises OSError where nothing can be written."""
        self._path.parent.mkdir(exist_ok=True)
        said = {"attempt": self._attempt, "host": socket.gethostname(), "pid": os.getpid(), "token": self._token}
        fresh = self._path.with_name(f".sender.{self._token}")
        fresh.write_text(json.dumps(said))
        try:
            holder = self._holder(fresh.stat().st_mtime)
            if holder is None:
                fresh.replace(self._path)
                self.taken = True
            return holder
        finally:
            fresh.unlink(missing_ok=True)

    def keep(self) -> bool:
        """Give a sign of life; False once another is the sender."""
        if not self.taken:
            return True
        try:
            self.taken = self._read().get("token") == self._token
            if self.taken:
                os.utime(self._path)
        except OSError:
            return True  # a disk that stalls is no other sender
        return self.taken

    def release(self) -> None:
        """Let others send."""
        if self.taken and self.keep():
            with contextlib.suppress(OSError):
                self._path.unlink()
        self.taken = False

    def _holder(self, now: float) -> int | None:
        """Who else sends. `now` is the file system's time: nodes differ in theirs."""
        said = self._read()
        attempt = said.get("attempt")
        if not isinstance(attempt, int) or said.get("token") == self._token:
            return None
        try:
            silent = now - self._path.stat().st_mtime
        except OSError:
            return None
        if silent > PATIENCE or 0 < attempt < self._attempt or _is_gone(said):
            return None
        return attempt

    def _read(self) -> dict[str, Any]:
        try:
            said = json.loads(self._path.read_bytes())
        except (FileNotFoundError, ValueError, RecursionError):
            return {}
        return said if isinstance(said, dict) else {}


def _is_gone(said: dict[str, Any]) -> bool:
    """Whether its process is known to have ended: it was one of this host's."""
    pid = said.get("pid")
    if said.get("host") != socket.gethostname() or not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False
