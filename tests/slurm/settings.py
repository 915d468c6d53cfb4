"""What a private cluster looks like, and the Slurm files that say so."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

CGROUPS = Path("/sys/fs/cgroup")

Proctrack = Literal["auto", "cgroup", "linuxproc", "pgid"]


@dataclass(frozen=True)
class Options:
    """Seconds wherever a time is meant. `enforce` (with `accounting`) makes sbatch refuse unknown accounts and QoS."""

    proctrack: Proctrack = "auto"
    preempt_user_signal: bool = False
    accounting: bool = False
    enforce: bool = False
    nodes: int = 4
    gpus: int = 2
    cpus: int = 8
    memory: int = 65536
    kill_wait: int = 15
    grace: int = 8
    cred_expire: int = 5  # Slurm takes no less
    slurmd_timeout: int = 10


@dataclass(frozen=True)
class Layout:
    """A cluster's directory and the numbers that keep it apart from its neighbours."""

    root: Path
    name: str
    controller: int
    database: int
    sql: int
    slurmd: tuple[int, ...]

    @property
    def conf(self) -> Path:
        return self.root / "etc/slurm.conf"

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(f"{self.name}n{number}" for number in range(1, len(self.slurmd) + 1))

    def address(self, number: int) -> str:
        """Every node has an address of its own, as real ones have: all of 127/8 is this machine."""
        return f"127.{self.controller % 200 + 1}.{self.controller % 251}.{number}"


def cgroup_version() -> int:
    """1 or 2 where Slurm could make its cgroups here, else 0."""
    if os.access(CGROUPS / "freezer/tasks", os.W_OK):
        return 1
    return 2 if os.access(CGROUPS / "cgroup.subtree_control", os.W_OK) else 0


def proctrack(options: Options) -> str:
    """The process tracking in use. Raises RuntimeError for cgroups where there are none."""
    if options.proctrack == "cgroup" and not cgroup_version():
        raise RuntimeError(f"proctrack/cgroup: no cgroup hierarchy under {CGROUPS} can be written here")
    if options.proctrack != "auto":
        return options.proctrack
    return "cgroup" if cgroup_version() else "linuxproc"


def write_files(layout: Layout, options: Options) -> None:
    """slurm.conf and what it refers to, the node's /etc/hosts, and the fake GPUs."""
    etc = layout.root / "etc"
    for folder in ("etc", "state", "spool", "log", "pid", "dev", "bin"):
        (layout.root / folder).mkdir(parents=True, exist_ok=True)
    layout.conf.write_text(_slurm_conf(layout, options))
    (etc / "cgroup.conf").write_text(_cgroup_conf())
    devices = layout.root / "dev"
    for gpu in range(options.gpus):
        if not (devices / f"nvidia{gpu}").exists():
            os.mknod(devices / f"nvidia{gpu}", 0o20666, os.makedev(240, gpu))  # 240: local use, no driver behind it
    gres = f"NodeName={','.join(layout.nodes)} Name=gpu File={devices}/nvidia[0-{options.gpus - 1}]\n"
    (etc / "gres.conf").write_text(gres if options.gpus else "")
    names = "".join(f"{layout.address(n)} {name}\n" for n, name in enumerate(layout.nodes, 1))
    for node in layout.nodes:
        (etc / f"hosts.{node}").write_text(f"{marker(layout, node)}\n{names}{Path('/etc/hosts').read_text()}")


def marker(layout: Layout, node: str) -> str:
    """First line of a node's /etc/hosts: processes that see it belong to this node."""
    return f"# {node} of {layout.root}"


def _cgroup_conf() -> str:
    version = cgroup_version() or 1
    systemd = "IgnoreSystemd=yes\n" if version == 2 else ""
    limits = "ConstrainCores=no\nConstrainDevices=yes\nConstrainRAMSpace=yes\nConstrainSwapSpace=no\n"
    return f"CgroupPlugin=cgroup/v{version}\nCgroupMountpoint={CGROUPS}\nCgroupAutomount=no\n{systemd}{limits}"


def _slurm_conf(layout: Layout, options: Options) -> str:
    root, tracking = layout.root, proctrack(options)
    settings = {
        "ClusterName": layout.name,
        "SlurmctldHost": "localhost(127.0.0.1)",
        "SlurmctldPort": layout.controller,
        "AuthType": "auth/none",
        "CredType": "cred/none",
        "AuthInfo": f"cred_expire={options.cred_expire}",  # a requeued job waits this long, and one second
        "SlurmUser": "root",
        "SlurmdUser": "root",
        "StateSaveLocation": root / "state",
        "SlurmdSpoolDir": root / "spool/%n",
        "SlurmctldPidFile": root / "pid/slurmctld.pid",
        "SlurmdPidFile": root / "pid/slurmd.%n.pid",
        "SlurmctldLogFile": root / "log/slurmctld.log",
        "SlurmdLogFile": root / "log/slurmd.%n.log",
        "SlurmctldDebug": "verbose",
        "SlurmdDebug": "verbose",
        "MailProg": "/bin/true",
        "ProctrackType": f"proctrack/{tracking}",
        "TaskPlugin": "task/cgroup" if tracking == "cgroup" else "task/none",
        "SwitchType": "switch/none",
        "MpiDefault": "none",
        "JobAcctGatherType": "jobacct_gather/none",
        "ReturnToService": 1,
        "SlurmdParameters": "config_overrides",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core_Memory",
        "DefMemPerCPU": 1000,
        "SchedulerType": "sched/backfill",
        "SchedulerParameters": "batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1",
        "PriorityType": "priority/basic",
        "EpilogMsgTime": 0,
        "KillWait": options.kill_wait,
        "MinJobAge": 3600,  # seconds for which an ended job can still be shown
        "SlurmctldTimeout": 30,
        "SlurmdTimeout": options.slurmd_timeout,
        "FirstJobId": layout.controller * 1000 + 1,  # a thousand ids for each port: no two clusters share one
        "JobRequeue": 1,
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "REQUEUE",
        "GresTypes": "gpu",
        **_accounting(layout, options),
    }
    if options.preempt_user_signal:
        settings["SlurmctldParameters"] = "preempt_send_user_signal"
    lines = [f"{name}={value}" for name, value in settings.items()]
    return "\n".join([*lines, *_nodes(layout, options), *_partitions(options)]) + "\n"


def _accounting(layout: Layout, options: Options) -> dict[str, object]:
    if not options.accounting:
        return {"AccountingStorageType": "accounting_storage/none"}
    return {
        "AccountingStorageType": "accounting_storage/slurmdbd",
        "AccountingStorageHost": "127.0.0.1",
        "AccountingStoragePort": layout.database,
        "AccountingStorageTRES": "gres/gpu",
        **({"AccountingStorageEnforce": "associations,limits,qos"} if options.enforce else {}),
    }


def _nodes(layout: Layout, options: Options) -> list[str]:
    gpus = f" Gres=gpu:{options.gpus}" if options.gpus else ""
    return [
        f"NodeName={name} NodeHostname={name} NodeAddr={layout.address(number)} Port={port} CPUs={options.cpus} "
        f"RealMemory={options.memory}{gpus} State=UNKNOWN"
        for number, (name, port) in enumerate(zip(layout.nodes, layout.slurmd, strict=True), 1)
    ]


def _partitions(options: Options) -> list[str]:
    """`priority` takes nodes from jobs of every partition below it whose PreemptMode allows it."""
    usual = "Nodes=ALL State=UP DefaultTime=60"
    grace = f"GraceTime={options.grace}"
    return [
        f"PartitionName=gpu {usual} Default=YES MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF",
        f"PartitionName=brief {usual} MaxTime=5 PriorityTier=10 PreemptMode=OFF",
        f"PartitionName=preempt {usual} MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE {grace}",
        f"PartitionName=nograce {usual} MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=0",
        f"PartitionName=cancel {usual} MaxTime=INFINITE PriorityTier=1 PreemptMode=CANCEL {grace}",
        f"PartitionName=cancelnow {usual} MaxTime=INFINITE PriorityTier=1 PreemptMode=CANCEL GraceTime=0",
        f"PartitionName=priority {usual} MaxTime=INFINITE PriorityTier=20 PreemptMode=OFF",
    ]
