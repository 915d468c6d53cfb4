"""A private Slurm on this machine: one slurmctld and some slurmd on loopback, each node with its own host name.

    python -m tests.slurm.cluster up [--dir D] [options]      then use the line `export SLURM_CONF=...` that it prints
    python -m tests.slurm.cluster down | status | node-off NAME | node-on NAME [--dir D]

Everything is in one directory. The machine's own Slurm, /etc/hosts and services are not touched. Needs root.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.slurm import accounting
from tests.slurm.controller import quick_controller
from tests.slurm.processes import kill_daemon, kill_node, processes_of
from tests.slurm.settings import CGROUPS, Layout, Options, marker, write_files

DEFAULT = Path(tempfile.gettempdir()) / f"tmrc-slurm-{os.getuid()}"


class Cluster:
    """`Cluster(root, proctrack="cgroup", nodes=2).up()`; the keywords are those of `Options`."""

    def __init__(self, root: Path | str, **options: Any) -> None:
        self.options = Options(**options)
        ports = _free_ports(3 + self.options.nodes)
        self.layout = Layout(Path(root).resolve(), f"c{ports[0]}", ports[0], ports[1], ports[2], tuple(ports[3:]))

    @classmethod
    def load(cls, root: Path | str) -> Cluster:
        """The cluster that was brought up in `root`. Raises FileNotFoundError where there is none."""
        saved = json.loads((Path(root).resolve() / "cluster.json").read_text())
        cluster = cls.__new__(cls)
        cluster.options = Options(**saved["options"])
        fields = saved["layout"]
        cluster.layout = Layout(**{**fields, "root": Path(fields["root"]), "slurmd": tuple(fields["slurmd"])})
        return cluster

    @property
    def root(self) -> Path:
        return self.layout.root

    @property
    def nodes(self) -> tuple[str, ...]:
        return self.layout.nodes

    @property
    def env(self) -> dict[str, str]:
        """What a process needs in its environment to talk to this cluster."""
        return {"SLURM_CONF": str(self.layout.conf)}

    def up(self) -> Cluster:
        """Start it and wait until all nodes are idle. Raises RuntimeError, with nothing left running."""
        if (self.root / "cluster.json").exists():
            Cluster.load(self.root).down()
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir(parents=True)
        saved = {"owner": os.getpid(), "options": vars(self.options), "layout": dataclasses.asdict(self.layout)}
        (self.root / "cluster.json").write_text(json.dumps(saved, default=str))
        write_files(self.layout, self.options)
        atexit.register(self.down)
        try:
            if self.options.accounting:
                accounting.start(self.layout, self.options)
            quick_controller(self.root / "bin")
            self.controller_start()
            for node in self.nodes:
                self._start_slurmd(node)
            self.wait_for(lambda: len(self.states()) == len(self.nodes) and set(self.states().values()) == {"idle"})
        except BaseException:
            self.down()
            raise
        return self

    def down(self) -> None:
        """Kill what `up` started and every process of its nodes, and remove their cgroups and the directory."""
        kill_daemon(self.root / "pid/slurmctld.pid", "slurmctld")
        for node in self.nodes:
            kill_node(marker(self.layout, node))
            _remove_cgroups(node)
        accounting.stop(self.layout)
        atexit.unregister(self.down)
        (self.root / "cluster.json").unlink(missing_ok=True)

    def call(self, *words: object, check: bool = True) -> str:
        """What a Slurm command prints. Raises CalledProcessError."""
        done = self._run(*words)
        if check and done.returncode:
            raise subprocess.CalledProcessError(done.returncode, done.args, done.stdout, done.stderr)
        return done.stdout

    def has_no_job(self, *which: str) -> bool:
        """Whether squeue says that there is none; a controller that does not answer has said nothing."""
        done = self._run("squeue", "-h", *which)
        return not done.stdout.strip() and (done.returncode == 0 or "Invalid job id" in done.stderr)

    def _run(self, *words: object) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **self.env}
        command = [str(word) for word in words]
        return subprocess.run(command, env=environment, text=True, capture_output=True, timeout=60)

    def states(self) -> dict[str, str]:
        """Node -> state, as sinfo says it; nothing while the controller does not answer."""
        rows = self.call("sinfo", "-h", "-N", "-p", "gpu", "-o", "%N %T", check=False).split("\n")
        return dict(row.split() for row in rows if row)

    def processes(self, *nodes: str) -> dict[int, str]:
        """Pid -> command line of what runs on the nodes (all, if none are named), slurmd's own left out."""
        found: dict[int, str] = {}
        for node in nodes or self.nodes:
            found |= processes_of(marker(self.layout, node))
        return {pid: words for pid, words in found.items() if not words.startswith("slurmd ")}

    def node_off(self, node: str, tell: bool = True) -> None:
        """The node's power is lost. `tell`: the controller knows at once, else it finds out by SlurmdTimeout."""
        kill_node(marker(self.layout, node))
        (self.root / f"pid/slurmd.{node}.pid").unlink(missing_ok=True)
        _remove_cgroups(node)
        if tell:
            self.call("scontrol", "update", f"nodename={node}", "state=down", "reason=off")

    def node_on(self, node: str) -> None:
        """The node is back, and jobs may run on it."""
        self._start_slurmd(node)
        self.call("scontrol", "update", f"nodename={node}", "state=resume", check=False)
        self.wait_for(lambda: self.states().get(node) in ("idle", "mixed", "allocated", "completing"))

    def node_freeze(self, node: str) -> None:
        """The node hangs or cannot be reached: its processes stand still, and the controller takes it for dead."""
        self._signal_all(node, signal.SIGSTOP)
        self.call("scontrol", "update", f"nodename={node}", "state=down", "reason=frozen")

    def node_thaw(self, node: str) -> None:
        """It comes back, with everything that was on it."""
        self._signal_all(node, signal.SIGCONT)
        self.call("scontrol", "update", f"nodename={node}", "state=resume", check=False)

    def _signal_all(self, node: str, signum: signal.Signals) -> None:
        for pid in processes_of(marker(self.layout, node)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)

    def controller_stop(self) -> None:
        """As when the controller's machine is rebooted: it saves its state and ends."""
        pid_file = self.root / "pid/slurmctld.pid"
        pid = int(pid_file.read_text())
        self.call("scontrol", "shutdown", "slurmctld")
        self.wait_for(lambda: not Path(f"/proc/{pid}").exists())
        pid_file.unlink(missing_ok=True)

    def controller_start(self) -> None:
        """Start slurmctld, with the state it saved if it has been stopped, and wait until it answers."""
        self._daemon([str(self.root / "bin/slurmctld")], "slurmctld")
        self.wait_for(lambda: "UP" in self.call("scontrol", "ping", check=False))

    def _start_slurmd(self, node: str) -> None:
        hosts = self.root / f"etc/hosts.{node}"
        inside = 'hostname "$1" && mount --bind "$2" /etc/hosts && exec slurmd -N "$1"'
        self._daemon(["unshare", "--uts", "--mount", "sh", "-c", inside, "sh", node, str(hosts)], f"slurmd.{node}")

    def _daemon(self, words: list[str], name: str) -> None:
        """Start what puts itself into the background."""
        environment = {**os.environ, **self.env}
        with (self.root / f"log/{name}.out").open("ab") as output:
            subprocess.run(
                words, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=True, timeout=60
            )

    def wait_for(self, condition: Callable[[], bool], patience: float = 60.0) -> None:
        """Wait until the condition holds. Raises RuntimeError with the ends of all logs."""
        deadline = time.monotonic() + patience
        while not condition():
            if time.monotonic() > deadline:
                logs = [file.read_text(errors="replace")[-2000:] for file in self.root.glob("log/*")]
                raise RuntimeError("\n".join([f"the cluster in {self.root} is not as it should be:", *logs]))
            time.sleep(0.05)


def sweep(folder: Path) -> None:
    """Stop the clusters in `folder`, or one level deeper, whose owner has died."""
    with (folder / ".sweep").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes may begin at once
        for file in [*folder.glob("*/cluster.json"), *folder.glob("*/*/cluster.json")]:
            if not Path(f"/proc/{json.loads(file.read_text())['owner']}").exists():
                Cluster.load(file.parent).down()
                shutil.rmtree(file.parent)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _remove_cgroups(node: str, patience: float = 10.0) -> None:
    """The cgroups that slurmd made. One that does not empty in time stays: the dead count until they are reaped."""
    deadline = time.monotonic() + patience
    for pattern in (f"*/slurm_{node}", f"**/{node}_slurmstepd.scope", f"**/{node}_slurmd.scope"):
        for top in CGROUPS.glob(pattern):
            for folder, _, _ in os.walk(top, topdown=False):
                _remove_cgroup(Path(folder), deadline)


def _remove_cgroup(folder: Path, deadline: float) -> None:
    while folder.exists():
        try:
            folder.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                print(f"left behind: {folder}", file=sys.stderr)
                return
            time.sleep(0.05)


def _answers(folder: Path) -> bool:
    """Whether a cluster is up in `folder`."""
    return (folder / "cluster.json").exists() and "UP" in Cluster.load(folder).call("scontrol", "ping", check=False)


def _welcome(cluster: Cluster) -> str:
    """How to use it."""
    options = cluster.options
    node = f"{options.cpus} cores, {options.memory} MB and {options.gpus} pretended GPUs"
    return f"""# {options.nodes} nodes, each with {node}. Partitions:
#   gpu        the default one                       brief    five minutes at most
#   preempt    requeued by a job in priority         nograce  the same, without a grace time
#   cancel     cancelled by a job in priority        cancelnow  the same, without a grace time
#   priority   preempts the four above
# GPUs are pretended: train with  tmrc-submit -p gpu -G 0 -c 1 CONFIG training.device=cpu
# A job that is requeued waits six seconds; KillWait is {options.kill_wait} s and the grace time {options.grace} s.
# In the shell that shall use it:
export SLURM_CONF={cluster.layout.conf}"""


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.slurm.cluster", description="A private Slurm cluster.")
    parser.add_argument("action", choices=["up", "down", "status", "node-off", "node-on"])
    parser.add_argument("node", nargs="?")
    parser.add_argument("--dir", type=Path, default=DEFAULT)
    for field in dataclasses.fields(Options):
        name = "--" + field.name.replace("_", "-")
        if isinstance(field.default, bool):
            parser.add_argument(name, action="store_true")
        else:
            parser.add_argument(name, type=type(field.default), default=field.default)
    given = parser.parse_intermixed_args(arguments)
    if given.action == "up" and _answers(given.dir):
        print(f"there is a cluster already; `down` ends it and its jobs\n{_welcome(Cluster.load(given.dir))}")
        return 0
    if given.action == "up":
        chosen = {field.name: getattr(given, field.name) for field in dataclasses.fields(Options)}
        cluster = Cluster(given.dir, **chosen).up()
        atexit.unregister(cluster.down)
        print(_welcome(cluster))
        return 0
    if not (given.dir / "cluster.json").exists():
        parser.exit(2, f"no cluster is up in {given.dir}\n")
    if given.action.startswith("node") and not given.node:
        parser.error(f"{given.action}: which node? (see status)")
    cluster = Cluster.load(given.dir)
    if given.action == "down":
        cluster.down()
        shutil.rmtree(given.dir)
    elif given.action == "status":
        print(cluster.call("sinfo", "-N", "-l"), cluster.call("squeue"), sep="\n", end="")
    elif given.action == "node-off":
        cluster.node_off(given.node)
    else:
        cluster.node_on(given.node)
    return 0


if __name__ == "__main__":
    sys.exit(main())
