"""The processes of a fake node: those in its mount namespace, whatever they have done to their session or parents."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

HOSTS = "root/etc/hosts"  # below /proc/<pid>: the file as that process sees it


def processes_of(marker: str) -> dict[int, str]:
    """Pid -> command line of the living processes whose /etc/hosts begins with the line `marker`."""
    own, known, found = _namespace(Path("/proc/self")), {}, {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            namespace = _namespace(process)
            if namespace == own:
                continue
            if namespace not in known:
                known[namespace] = _first_line(process / HOSTS)
            if known[namespace] == marker and (process / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                found[int(process.name)] = command_line(int(process.name))
    return found


def command_line(pid: int) -> str:
    """The words of a process, or its name where it has none."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        return words or Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def kill_node(marker: str, patience: float = 10.0) -> None:
    """SIGKILL everything on a node, again until nothing is left. Raises RuntimeError when something stays."""
    deadline = time.monotonic() + patience
    while left := processes_of(marker):
        if time.monotonic() > deadline:
            raise RuntimeError(f"these processes do not end: {left}")
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def kill_daemon(pid_file: Path, name: str) -> None:
    """SIGKILL the process of `pid_file`, if it is a `name`, and wait for its end."""
    with contextlib.suppress(OSError, ValueError):
        pid = int(pid_file.read_text())
        if Path(f"/proc/{pid}/comm").read_text().strip() == name:
            os.kill(pid, signal.SIGKILL)
            while Path(f"/proc/{pid}/root").exists() and not _zombie(pid):
                time.sleep(0.01)
    pid_file.unlink(missing_ok=True)


def _zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"


def _namespace(process: Path) -> str:
    return str((process / "ns/mnt").readlink())


def _first_line(file: Path) -> str:
    with file.open(errors="replace") as lines:
        return lines.readline().rstrip("\n")
