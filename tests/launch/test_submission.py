"""Submissions, and refusals in Slurm's own words, on a real Slurm with accounts."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.helpers import REAL, ROOT, STANDIN, Done, call, events, steps, wait_for, write_config
from tests.slurm.cluster import Cluster

pytestmark = pytest.mark.slurm
LATER = "launch.sbatch.begin=now+1hour"  # so that nothing is started


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    started = Cluster(tmp_path_factory.mktemp("slurm") / "cluster", nodes=2, accounting=True, enforce=True).up()
    yield started
    started.down()


def submit(cluster: Cluster, tmp_path: Path, *arguments: str) -> Done:
    options = [word for word in arguments if not word.startswith("launch.")]
    overrides = [word for word in arguments if word.startswith("launch.")]
    overrides += ["training.device=auto", "training.batch_size=12"]
    return call("-c", "1", *options, write_config(tmp_path), *overrides, module=REAL, env=cluster.env)


def test_a_dry_run_estimates_the_start_and_leaves_nothing(cluster: Cluster, tmp_path: Path) -> None:
    done = submit(cluster, tmp_path, "--dry-run", "-A", "lab", "-N", "2", "-G", "2")
    assert (done.code, done.err) == (0, "")
    assert re.search(r"\nstart    about 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d if submitted now", done.out)
    assert not (tmp_path / "artifacts").exists() and cluster.call("squeue", "-h") == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("-p nope", r"launch.partition: got 'nope', valid: gpu, brief, preempt, "),
        ("-p brief -t 30", "launch.time: got '30', valid: at most 00:05:00 in partition brief"),
        ("-G 3", "launch.gpus_per_node: got 3, valid: at most 2, what a node of partition gpu has"),
        ("-N 3", "launch.nodes: got 3, valid: at most 2, the nodes of partition gpu"),
        ("-c 9", "launch.cpus_per_task: got 9, valid: at most 8, what a node of partition gpu has"),
        ("--mem 900G", "launch.mem: got '900G', valid: at most 65536M, what a node of partition gpu has"),
        ("-A nope", "sbatch: .*Invalid account or account/partition combination specified"),
        ("-q nope", "sbatch: .*Invalid qos specification"),
        ("-C nope", "sbatch: .*Invalid feature specification"),
    ],
)
def test_refusals(cluster: Cluster, tmp_path: Path, options: str, message: str) -> None:
    words = ["-A", "lab", *options.split()]
    for how in (["--dry-run"], [LATER]):
        done = submit(cluster, tmp_path, *words, *how)
        assert (done.code, done.out) == (2, "") and len(done.err.splitlines()) == 1
        assert re.match(f"error: {message}", done.err), done.err
    artifacts = tmp_path / "artifacts"
    assert not artifacts.exists() or not list(artifacts.iterdir())


def test_a_job_gets_what_is_asked_for_and_nothing_of_the_job_around_it(cluster: Cluster, tmp_path: Path) -> None:
    config = write_config(tmp_path, training={"device": "auto"})
    words = ["-A", "lab", "-c", "3", "--mem", "2G", "-G", "2", str(config), LATER]
    inner = shlex.join([sys.executable, "-m", REAL, "--json", *words])
    users = "SBATCH_NO_REQUEUE=1 SBATCH_SIGNAL=B:TERM@5 SBATCH_MEM_PER_CPU=77 SBATCH_PARTITION=preempt"
    outer = ["srun", "-A", "lab", "-c", "2", "--mem-per-cpu=500", "--gpus-per-node=1", f"--chdir={ROOT}"]
    cluster.call(*outer, "bash", "-c", f"{users} {inner}")
    (run,) = (tmp_path / "artifacts").iterdir()
    (row,) = events(run, "submitted")
    facts = cluster.call("scontrol", "show", "job", "-o", row["job_id"])
    for fact in ("Requeue=1", "Partition=preempt", "MinCPUsNode=3", "MinMemoryNode=2G", "TresPerNode=gres:gpu:2"):
        assert f" {fact} " in facts
    cluster.call("scancel", row["job_id"])


def test_resuming_with_other_resources(cluster: Cluster, tmp_path: Path) -> None:
    first = submit(cluster, tmp_path, "--json", "-A", "lab", LATER).json
    waiting = call("--resume", first["run_dir"], module=REAL, env=cluster.env)
    assert waiting.code == 2 and f"job {first['job_id']} is still pending" in waiting.err
    cluster.call("scancel", first["job_id"])
    options = ["-N", "2", "-p", "preempt", "-t", "30"]
    second = call("--json", "--resume", first["run_dir"], *options, module=REAL, env=cluster.env).json
    assert second["run_id"] == first["run_id"] and second["job_id"] != first["job_id"]
    facts = cluster.call("scontrol", "show", "job", "-o", second["job_id"])
    assert " NumNodes=2" in facts and " Partition=preempt " in facts and " TimeLimit=00:30:00 " in facts
    cluster.call("scancel", second["job_id"])


def test_edits_while_the_job_waits_change_nothing(cluster: Cluster, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for package in ("launch", "tmrc", "tests"):
        shutil.copytree(ROOT / package, checkout / package, ignore=shutil.ignore_patterns("__pycache__"))
    config = write_config(tmp_path, training={"train_steps": 5})
    env = {**cluster.env, "PYTHONPATH": str(checkout)}
    submitted = call("--json", "-A", "lab", "-c", "1", config, LATER, module=STANDIN, env=env, cwd=checkout).json
    for file in [*checkout.glob("tmrc/**/*.py"), *checkout.glob("launch/**/*.py")]:
        file.write_text("raise SystemExit('edited since')\n")
    config.write_text("broken: [")
    cluster.call("scontrol", "update", f"jobid={submitted['job_id']}", "starttime=now")
    run = Path(submitted["run_dir"])
    wait_for(lambda: (run / "attempts/1/job.json").exists(), "the job's end")
    assert json.loads((run / "attempts/1/job.json").read_text())["status"] == "finished"
    assert steps(run) == [1, 2, 3, 4, 5]


def test_a_cluster_in_trouble(cluster: Cluster, tmp_path: Path) -> None:
    run = submit(cluster, tmp_path, "--json", "-A", "lab", LATER).json
    for node in cluster.nodes:
        cluster.call("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")
    done = submit(cluster, tmp_path, "--dry-run", "-A", "lab")
    assert done.code == 0 and "start    unknown: Requested node configuration is not available (2 nodes" in done.out
    cluster.controller_stop()
    done = submit(cluster, tmp_path, "--dry-run", "-A", "lab")
    assert done.code == 0 and "#SBATCH --requeue\n" in done.out
    assert done.err.startswith(
        "waiting for sinfo ...\nnote: the cluster does not answer, so nothing was checked against it: sinfo does not"
    )
    done = call("--resume", run["run_dir"], module=REAL, env=cluster.env)
    assert done.code == 2 and f"cannot tell whether job {run['job_id']} still runs: " in done.err
