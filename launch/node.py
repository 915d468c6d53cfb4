"""One node's part of an attempt: one torchrun, watched from its start to the last word of every rank on the node."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from launch.attempts import read_json
from launch.compile_cache import CompileCache, compile_cache
from launch.environment import foreign
from launch.hang import HangWatch
from launch.memory import out_of_memory_kills
from launch.processes import adopt_orphans, end_with_parent, wait_for_descendants
from launch.rendezvous import Rendezvous
from launch.reports import NodeReport
from launch.scratch import scratch
from launch.signals import STOP_SIGNALS
from launch.slurmlog import read_log
from launch.verdict import why_silent
from launch.watch import Requests, Watch
from tmrc.config.rundir import RunDir

LINGER = 3.0  # seconds for what reports to others (wandb) to send the last rows after an orderly end


@dataclass(frozen=True)
class NodeTask:
    """What a node has to do: `processes` ranks of attempt `number` of the run, as the job's node `node`.

    `devices` are the values for CUDA_VISIBLE_DEVICES, None to leave it as the cluster set it. `rendezvous` is where the
    nodes meet, None for a job of one node.
    """

    run: RunDir
    number: int
    processes: int
    trainer: str
    hang_timeout: float
    devices: tuple[str, ...] | None = None
    node: int = 0
    rendezvous: Rendezvous | None = None
    log: Path | None = None


def run_node(task: NodeTask, requests: Requests, also: Callable[[], None] | None = None) -> NodeReport:
    """Start torchrun, pass on requests to stop until it ends, and report.

    A run in the foreground is looked at by `also`, and there a person's second and third INT cut it short.

    Raises OSError when torchrun cannot be started.
    """
    adopt_orphans()
    offset = task.log.stat().st_size if task.log and task.log.exists() else 0
    kills = out_of_memory_kills()
    environ = dict(os.environ)
    cache = CompileCache(task.run, task.number, task.node)  # of torch's own, in the foreground: it is this machine's
    with contextlib.ExitStack() as stack:
        heartbeats = stack.enter_context(scratch(task.run.run_id, task.node))
        if also is None:
            cache = stack.enter_context(compile_cache(task.run, task.number, task.node, environ))
        process = subprocess.Popen(
            command(task, heartbeats),
            env=environment(task, environ, heartbeats) | cache.variables,
            start_new_session=True,
            preexec_fn=_before_torchrun,  # safe: this process has one thread
        )
        attempt, hang = task.run.attempt(task.number), HangWatch(heartbeats, task.hang_timeout)
        watch = Watch(attempt, task.processes, process, requests, hang, task.node, also is not None)
        killed = watch.until_end(also or (lambda: cache.look(hang.beats)))
        ranks = tuple(sorted(watch.pids))
        silent = not ranks or any(read_json(attempt / f"rank_{rank}.json") is None for rank in ranks)
        cache.close(orderly=bool(requests.signals) or not (silent or process.returncode))
    nodes = task.rendezvous.nodes if task.rendezvous else 1
    code = 0 if watch.dismissed else process.returncode
    cause, kind = "", ""
    if silent or code < 0:  # ranks whose torchrun was killed save and stop, but that is not all there is to say
        log = read_log(task.log, offset) if task.log else ""
        cause, kind = why_silent(code, log, out_of_memory_kills() > kills, nodes)
    if not silent and watch.crashed_at is None:
        wait_for_descendants(os.getpid(), LINGER)
    return NodeReport(
        task.node, socket.gethostname(), code, cause, kind, killed, ranks,
        tuple(requests.signals), watch.hung, task.hang_timeout, watch.beats,
    )  # fmt: skip


def command(task: NodeTask, scratch: Path) -> list[str]:
    """torchrun's words."""
    meet = task.rendezvous
    where = meet.options(task.node) if meet else ["--standalone"]
    here = os.environ.get("SLURMD_NODENAME") if meet else "127.0.0.1"
    address = [f"--local-addr={here}"] if here else []
    options = [*where, *address, f"--nproc-per-node={task.processes}", "--max-restarts=0", f"--log-dir={scratch}"]
    return [sys.executable, "-m", "torch.distributed.run", *options, "-m", task.trainer, str(task.run.path)]


def environment(task: NodeTask, inherited: dict[str, str], heartbeats: Path) -> dict[str, str]:
    """The environment of torchrun and of the ranks: `inherited` without what would mislead them."""
    env = {name: value for name, value in inherited.items() if not foreign(name)}
    if task.run.code.is_dir():
        code = str(task.run.code)
        paths = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path and path != code]
        env["PYTHONPATH"] = os.pathsep.join([code, *paths])
    env["PYTHONSAFEPATH"] = "1"  # the working directory may hold another tmrc
    env["TMRC_ATTEMPT"] = str(task.number)
    env["TMRC_HEARTBEAT"] = str(heartbeats)
    env["PET_SIGNALS_TO_HANDLE"] = "SIGINT"  # see _before_torchrun
    env.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // task.processes)))
    # Threads that spin while they wait take the cores from whoever else is on them, and from each other.
    env.setdefault("OMP_WAIT_POLICY", "passive")
    if task.devices is not None:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(task.devices)
    return env


def _before_torchrun() -> None:
    """Some Slurm set-ups send signals to every process of a job.

    torchrun would die of USR2, and after a TERM kill the ranks in the middle of a save. It need not know of either: the
    ranks are asked by us. It does not outlive us.
    """
    for signum in STOP_SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    end_with_parent(signal.SIGKILL)
