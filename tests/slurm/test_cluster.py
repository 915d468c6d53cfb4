"""The private cluster: several at once, and nothing left of them, whatever ends the process that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.slurm.cluster import Cluster, sweep
from tests.slurm.live import ROOT
from tests.slurm.processes import processes_of
from tests.slurm.settings import CGROUPS, marker, proctrack


def left_of(cluster: Cluster) -> list[str]:
    """Processes and cgroups that name the cluster or belong to one of its nodes."""
    found = [
        f"{pid} {words}" for node in cluster.nodes for pid, words in processes_of(marker(cluster.layout, node)).items()
    ]
    for file in Path("/proc").glob("[0-9]*/environ"):
        try:
            if str(cluster.layout.conf).encode() in file.read_bytes():
                found.append(str(file))
        except OSError:
            continue
    return found + [str(path) for node in cluster.nodes for path in CGROUPS.glob(f"*/*{node}*")]


def test_two_clusters_at_once_and_nothing_left_of_them(slurm_folder: Path) -> None:
    hosts = Path("/etc/hosts").read_bytes()
    mounts = len(Path("/proc/self/mounts").read_text().splitlines())
    clusters = [Cluster(slurm_folder / name, nodes=2).up() for name in ("one", "two")]
    try:
        for cluster in clusters:
            script = "hostname; getent hosts $(hostname); echo $CUDA_VISIBLE_DEVICES"
            said = cluster.call("srun", "-N1", "--gpus=2", "bash", "-c", script).split()
            assert said[0] == said[2] in cluster.nodes and said[3] == "0,1"
        ids = [
            int(cluster.call("sbatch", "--parsable", "-o", "/dev/null", "--wrap", "setsid -f sleep 600; sleep 600"))
            for cluster in clusters
        ]
        assert abs(ids[0] - ids[1]) > 500
    finally:
        for cluster in clusters:
            cluster.down()
    assert [left for cluster in clusters for left in left_of(cluster)] == []
    assert Path("/etc/hosts").read_bytes() == hosts
    assert len(Path("/proc/self/mounts").read_text().splitlines()) == mounts


def test_cluster_of_a_killed_process_is_stopped_by_the_next(slurm_folder: Path) -> None:
    folder = slurm_folder / "killed"
    program = f"""
from tests.slurm.cluster import Cluster
cluster = Cluster({str(folder / "cluster")!r}, nodes=1).up()
cluster.call("sbatch", "-o", "/dev/null", "--wrap", "setsid -f sleep 600; sleep 600")
print("up", flush=True)
input()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "up\n"
    cluster = Cluster.load(folder / "cluster")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert left_of(cluster)
    sweep(folder)
    assert left_of(cluster) == [] and not (folder / "cluster").exists()


def test_node_without_power_takes_its_processes_along(slurm_folder: Path) -> None:
    cluster = Cluster(slurm_folder / "power", nodes=2, slurmd_timeout=5).up()
    try:
        job = cluster.call(
            "sbatch", "--parsable", "--requeue", "-o", "/dev/null", "--wrap", "setsid -f sleep 600; sleep 600"
        ).strip()
        node = cluster.nodes[0]
        cluster.wait_for(lambda: "JobState=RUNNING" in cluster.call("scontrol", "show", "job", job))
        cluster.node_off(node, tell=False)
        assert not cluster.processes(node)
        cluster.wait_for(lambda: cluster.states().get(node, "").startswith("down"))
        cluster.wait_for(lambda: "Restarts=1" in cluster.call("scontrol", "show", "job", job))
        cluster.node_on(node)
    finally:
        cluster.down()


def test_command_line(slurm_folder: Path) -> None:
    folder = slurm_folder / "typed"

    def call(*words: str) -> str:
        command = [sys.executable, "-m", "tests.slurm.cluster", *words, "--dir", str(folder)]
        return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True, timeout=60).stdout

    said = call("up", "--nodes", "1", "--gpus", "4")
    assert said.endswith(f"\nexport SLURM_CONF={folder}/etc/slurm.conf\n") and "4 pretended GPUs" in said
    cluster = Cluster.load(folder)
    assert "already" in call("up") and Cluster.load(folder).layout == cluster.layout
    assert proctrack(cluster.options) in (folder / "etc/slurm.conf").read_text()
    call("node-off", cluster.nodes[0])
    assert "down" in call("status")
    call("node-on", cluster.nodes[0])
    assert "idle" in call("status")
    call("down")
    assert not folder.exists() and left_of(cluster) == []
