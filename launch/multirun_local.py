"""A sweep on this machine: some points at a time, each in a process of its own, as `tmrc-submit --local` runs one."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from launch.attempts import last_attempt, read_ending
from launch.facts import read_events
from launch.gpus import visible_devices
from launch.local import ASKED, signals_counted
from launch.multirun import Prepared
from launch.multirun_show import about_points, say_notes
from launch.points import Point
from launch.progress import State, quiet_when_nobody_reads
from launch.signals import hold_back, let_through
from launch.sweep_progress import SweepDisplay, sweep_display
from launch.tail import Tail
from launch.words import typed_command
from tmrc.config.errors import ConfigError
from tmrc.config.rundir import EXIT_CRASHED, EXIT_FINISHED, EXIT_USER_ERROR, EXIT_WANTS_REQUEUE
from tmrc.config.schema import Config

if TYPE_CHECKING:
    from launch.submit import Request

POLL = 0.2  # seconds between looks at the points


@dataclass
class Running:
    """A point whose process runs on the GPUs `devices`."""

    point: Point
    process: subprocess.Popen[bytes]
    devices: tuple[str, ...]
    said: IO[bytes]  # what the process has printed
    state: State = field(default_factory=State)
    tails: tuple[Tail, Tail] = field(init=False)

    def __post_init__(self) -> None:
        self.tails = Tail(self.point.run.metrics), Tail(self.point.run.events)

    def look(self) -> None:
        """Take in what the run has written since the last look."""
        metrics, events = self.tails
        for row in events.rows():
            self.state.event(row)
        now = time.monotonic()
        for row in metrics.rows():
            self.state.metrics(row, now)


@dataclass(frozen=True)
class Ended:
    """A point that has run: its exit code and where it stood."""

    point: Point
    exit_code: int
    message: str
    state: State


def gpus_per_point(config: Config, parallel: int) -> int | None:
    """How many GPUs each of `parallel` points has; None without GPUs. Raises ConfigError where there are too few."""
    devices = visible_devices() if config.training.device != "cpu" else ()
    if not devices:
        return None
    each = config.launch.gpus_per_node
    if each is None:
        each = max(1, len(devices) // parallel)
    if each and parallel > len(devices) // each:
        most = len(devices) // each
        raise ConfigError(
            f"--parallel: got {parallel}, valid: at most {most}, since each point uses {each} of {len(devices)} GPUs"
        )
    return each


def run_points(prepared: Prepared, request: Request) -> int:
    """Run the points, showing them on stderr; returns 0 when all have finished, else what became of the worst."""
    with quiet_when_nobody_reads():
        say_notes(prepared)
        print(f"{'sweep':9}{prepared.sweep.folder.path}", file=sys.stderr, flush=True)
    ended = run_all(prepared, request.trainer)
    with quiet_when_nobody_reads():
        _say_how_it_ended(prepared, ended, request)
        sys.stdout.flush()
    return _exit_code(prepared, ended)


def run_all(prepared: Prepared, trainer: str) -> list[Ended]:
    """Run the points, some at a time, until all have ended or somebody has asked to stop."""
    turns = _Turns(list(prepared.sweep.to_run), _slots(prepared), trainer)
    with signals_counted() as requests, sweep_display(len(turns.waiting)) as shown:
        while turns.running or (turns.waiting and not requests.came):
            if not requests.came:
                turns.start()
            turns.pass_on(requests.came, shown)
            turns.collect(shown)
            turns.look(shown)
            time.sleep(POLL)
    return turns.ended


@dataclass
class _Turns:
    """Points that wait for their turn, run, and have ended; `free` are the GPUs of those that may begin."""

    waiting: list[Point]
    free: list[tuple[str, ...]]
    trainer: str
    running: list[Running] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    passed_on: int = 0

    def start(self) -> None:
        """Start points while there is room."""
        at_once = len(self.free) + len(self.running)
        while self.waiting and self.free:
            self.running.append(_start(self.waiting.pop(0), self.free.pop(0), at_once, self.trainer))

    def pass_on(self, came: int, shown: SweepDisplay) -> None:
        """Tell the points of the next request to stop, of the `came` that have come."""
        if came == self.passed_on or not self.running:
            return
        self.passed_on += 1
        with quiet_when_nobody_reads():
            shown.say(ASKED[min(self.passed_on, 3) - 1])
        for one in self.running:
            one.process.send_signal(signal.SIGINT)

    def collect(self, shown: SweepDisplay) -> None:
        """Take note of points that have ended."""
        for one in [one for one in self.running if one.process.poll() is not None]:
            self.running.remove(one)
            self.free.append(one.devices)
            ended = _end(one)
            self.ended.append(ended)
            with quiet_when_nobody_reads():
                shown.ended(ended.point, ended.exit_code, ended.message, ended.state)

    def look(self, shown: SweepDisplay) -> None:
        """Show where the points stand."""
        for one in self.running:
            one.look()
        with quiet_when_nobody_reads():
            shown.update([(one.point, one.state) for one in self.running])


def _slots(prepared: Prepared) -> list[tuple[str, ...]]:
    """The GPUs of each of the points that run at a time; none without GPUs."""
    count = min(prepared.parallel or 1, max(1, len(prepared.sweep.to_run)))
    each = prepared.resources.gpus
    devices = visible_devices() if each else ()
    return [devices[n * each : (n + 1) * each] for n in range(count)]


def _start(point: Point, devices: tuple[str, ...], at_once: int, trainer: str) -> Running:
    environment = dict(os.environ)
    if devices:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
    if at_once > 1:  # torch would take all cores for each
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // at_once)))
    said = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the point has ended
    hold_back()  # it inherits that, so that a request to stop waits until it listens
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "launch.point", str(point.run.path), trainer],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            env=environment,
            start_new_session=True,  # Ctrl-C in the terminal reaches us, and we pass it on
        )
    finally:
        let_through()
    running = Running(point, process, devices, said)
    running.look()
    return running


def _end(one: Running) -> Ended:
    one.look()
    code = one.process.wait()
    ending = read_ending(one.point.run, last_attempt(one.point.run))
    one.said.seek(0)
    lines = one.said.read().decode("utf8", "replace").strip().splitlines() or [""]
    one.said.close()
    message = (ending.message if ending else "") or (lines[-1].removeprefix("error: ") if code else "")
    return Ended(one.point, code if code >= 0 else EXIT_CRASHED, message, one.state)


def _exit_code(prepared: Prepared, ended: Sequence[Ended]) -> int:
    """A crash is worse than a mistake, which is worse than having been stopped."""
    codes = {one.exit_code for one in ended}
    if len(ended) < len(prepared.sweep.to_run):
        codes.add(EXIT_WANTS_REQUEUE)
    crashed = codes - {EXIT_FINISHED, EXIT_USER_ERROR, EXIT_WANTS_REQUEUE}
    if crashed:
        return EXIT_CRASHED
    return next((code for code in (EXIT_USER_ERROR, EXIT_WANTS_REQUEUE) if code in codes), EXIT_FINISHED)


def _say_how_it_ended(prepared: Prepared, ended: Sequence[Ended], request: Request) -> None:
    if request.as_json:
        by_id = {one.point.record.run_id: one for one in ended}
        found = about_points(prepared, [_job_id(point) for point in prepared.sweep.to_run])
        for job in found["jobs"]:
            job.update(_result(by_id.get(job["run_id"])))
        print(json.dumps(found, ensure_ascii=False))
        return
    done = sum(one.exit_code == EXIT_FINISHED for one in ended)
    total = len(prepared.sweep.points)
    left = sum(point.state == "finished" for point in prepared.sweep.points)
    print(f"{'finished':9}{done + left} of {total} points" + (f", {left} of them before" if left else ""))
    for one in ended:
        if one.exit_code not in (EXIT_FINISHED, EXIT_WANTS_REQUEUE):
            print(f"{'failed':9}{one.point.name}: {one.message or f'exit code {one.exit_code}'}", file=sys.stderr)
    where = shlex.quote(str(prepared.sweep.folder.path))
    print(f"{'sweep':9}{prepared.sweep.folder.path}")
    if done + left < total:
        print(f"{'next':9}the same command goes on with the others")
    else:
        print(f"{'next':9}{typed_command('tmrc')} report {where} -o report.html")


def _job_id(point: Point) -> str | None:
    """The process that Submitit started for the point last."""
    rows = [row for row in read_events(point.run) if row["event"] == "submitted"]
    return str(rows[-1].get("job_id")) if rows else None


def _result(ended: Ended | None) -> dict[str, Any]:
    """What became of a point; nothing for one that was not begun."""
    if ended is None:
        return {"exit_code": None, "loss": None, "val_loss": None, "message": "not begun"}
    loss, val_loss = ended.state.row.get("loss"), ended.state.val_loss
    return {"exit_code": ended.exit_code, "loss": loss, "val_loss": val_loss, "message": ended.message}
