"""A second trainer on a run whose first one still lives, as when a lost node comes back."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from launch.attempts import last_attempt
from launch.drill.processes import MARK, Process
from launch.drill.scene import Scene, Trouble
from launch.gpus import local_resources
from launch.job import TRAINER
from launch.node import NodeTask, command, environment

SHUT_OUT_PATIENCE = 60.0  # seconds for the first trainer to end once the second has begun to train
LONGEST = 600.0  # seconds that the second one may train


def second_trainer(scene: Scene) -> None:
    """Start a later attempt's torchrun by hand. The first attempt must end by itself; the second ends or is killed.

    Raises Trouble when the first does not end.
    """
    run = scene.run
    assert run is not None
    first = scene.processes("rank")
    number = last_attempt(run) + 1
    resources = local_resources(scene.config)
    scratch = Path(tempfile.mkdtemp(prefix="tmrc-drill-"))
    task = NodeTask(run, number, resources.processes, TRAINER, 0.0, resources.devices)
    env = {**environment(task, dict(os.environ), scratch), MARK: str(scene.folder)}
    run.attempt(number).mkdir(parents=True, exist_ok=True)
    with (scene.folder / "twin.log").open("ab") as log:
        process = subprocess.Popen(
            command(task, scratch), env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )
    try:
        _wait(first, process)
        won = not any(one.alive() for one in first)
        how = _outcome(process, scene.random.random() if scene.random.random() < 0.5 else LONGEST)
        scene.say(f"attempt {number} {'shut' if won else 'did not shut'} the first one out, and {how}")
    finally:
        _end(scene, process)
        shutil.rmtree(scratch, ignore_errors=True)


def _wait(first: list[Process], second: subprocess.Popen[bytes]) -> None:
    """Until the first trainer's ranks have ended, or the second one has (it may be the one that is shut out)."""
    deadline = time.monotonic() + SHUT_OUT_PATIENCE
    while second.poll() is None and any(process.alive() for process in first):
        if time.monotonic() > deadline:
            names = ", ".join(process.name for process in first if process.alive())
            raise Trouble(f"{names} of the first attempt go on {SHUT_OUT_PATIENCE:.0f} s after a later one has begun")
        time.sleep(0.05)


def _outcome(second: subprocess.Popen[bytes], patience: float) -> str:
    """How the second trainer ends within so many seconds, in words; after them it is killed."""
    try:
        return f"ended with exit code {second.wait(patience)}"
    except subprocess.TimeoutExpired:
        return "was killed"


def _end(scene: Scene, torchrun: subprocess.Popen[bytes]) -> None:
    """Kill the second trainer: torchrun, and the ranks that it leaves."""
    if torchrun.poll() is None:
        own = [process for process in scene.processes("rank") if _parent(process.pid) == torchrun.pid]
        torchrun.send_signal(signal.SIGKILL)
        for process in own:
            process.send(signal.SIGKILL)
    torchrun.wait()


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text("utf8", "replace").rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0
