"""Sweeps on a real Slurm: points that are interrupted come back one by one; a search by Hydra's sweepers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.slurm.cluster import Cluster
from tests.slurm.live import EXACT, PATIENCE, ROOT, configuration, submit_command
from tests.slurm.pool import Pool
from tests.slurm.settings import cgroup_version
from tmrc.config.rundir import read_jsonl

SETTING = {"proctrack": "cgroup" if cgroup_version() else "linuxproc"}
SEEDS = "training.seed=3,4,5"


def write(folder: Path, data: Path, nodes: tuple[str, ...], cluster: Cluster, **training: Any) -> Path:
    """A configuration whose jobs use just these nodes."""
    folder.mkdir(parents=True, exist_ok=True)
    others = ",".join(node for node in cluster.nodes if node not in nodes) or None
    values = configuration(folder, data, {"partition": "preempt", "exclude": others, "mem": "1G"}, **training)
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def wait(condition: Any, what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.2)


def exact(run: Path) -> list[dict[str, Any]]:
    return [{name: row[name] for name in EXACT if name in row} for row in read_jsonl(run / "metrics.jsonl")]


def said(run: Path, *names: str) -> list[dict[str, Any]]:
    return [row for row in read_jsonl(run / "events.jsonl") if row["event"] in names]


def submit(cluster: Cluster, file: Path, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(submit_command(cluster, "--json", "-m", *words, str(file), SEEDS))
    return found


@pytest.fixture(scope="module")
def tried(pool: Pool, slurm_data: Path) -> tuple[list[Path], list[Path], dict[str, Any]]:
    """The runs of an interrupted and of an uninterrupted sweep, and what a second submission of the first did."""
    with pool.lease(2, **SETTING) as (cluster, nodes):
        calm = submit(cluster, write(pool.root / "calm", slurm_data, nodes, cluster, tags=["step_seconds=0.02"]))
        file = write(pool.root / "rough", slurm_data, nodes, cluster, save_every=0.4, tags=["step_seconds=0.2"])
        rough = submit(cluster, file, "--parallel", "2")
        runs = [Path(job["run_dir"]) for job in rough["jobs"]]
        ids = [str(job["job_id"]) for job in rough["jobs"]]
        wait(lambda: len(exact(runs[0])) >= 4, "steps of the first point")
        cluster.call("scancel", "--signal=TERM", ids[0])  # saves, goes back to the queue
        wait(lambda: len(exact(runs[1])) >= 4 or said(runs[1], "finished"), "steps of the second point")
        cluster.call("scontrol", "requeue", ids[1], check=False)
        again = submit(cluster, file)  # while points run and wait: nothing is to be done
        wait(lambda: all(said(run, "finished", "held") for run in runs), "the end of the points")
        other = [Path(job["run_dir"]) for job in calm["jobs"]]
        wait(lambda: all(said(run, "finished", "held") for run in other), "the end of the uninterrupted points")
        running = ("-t", "CF,R,CG", "-j", ids[0])  # its jobs have their last words to write
        wait(lambda: cluster.has_no_job(*running), "the end of the first point's job")
        cluster.call("scancel", ids[0].partition("_")[0], check=False)
    return runs, other, again


def test_interrupted_points_end_as_uninterrupted_ones(
    tried: tuple[list[Path], list[Path], dict[str, Any]],
) -> None:
    runs, calm, _ = tried
    assert [exact(run) for run in runs] == [exact(run) for run in calm]
    assert len({json.dumps(exact(run)) for run in runs}) == 3  # three seeds, three runs
    for run in runs[:1]:
        assert [row["action"] for row in said(run, "requeued")] == ["requeued"]
        assert len(list((run / "attempts").glob("[0-9]*"))) == 2
    assert not said(runs[2], "requeued")  # a point at a time


def test_no_point_is_submitted_twice(tried: tuple[list[Path], list[Path], dict[str, Any]]) -> None:
    runs, _, again = tried
    assert again["jobs"] == [] and len(again["left"]) == 3
    assert all(len(said(run, "submitted")) == 1 for run in runs)


def test_logs_of_a_point_are_found_in_its_sweep(tried: tuple[list[Path], list[Path], dict[str, Any]]) -> None:
    run = tried[0][0]
    command = [sys.executable, "-m", "launch.cli.main", "logs", str(run)]
    text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    assert text.count("==> attempt ") == 2 and "tmrc: finished (exit code 0)" in text


@pytest.mark.campaign
def test_a_search_by_hydra_drives_jobs_and_gets_their_losses(pool: Pool, slurm_data: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    folder = pool.root / "search"
    with pool.lease(2, **SETTING) as (cluster, nodes):
        file = write(folder, slurm_data, nodes, cluster, train_steps=8, tags=["step_seconds=0.2"])
        words = [str(file), "--multirun", "hydra/sweeper=optuna", "hydra.launcher.poll_seconds=0.5"]
        words += ["hydra.launcher.partition=preempt", "hydra.launcher.timeout_min=12", "hydra.sweeper.sampler.seed=1"]
        words += ["hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=2", "optimizer.lr=tag(log,interval(1e-3,1e-1))"]
        search = subprocess.Popen(
            [sys.executable, "-m", "tests.slurm.search", *words],
            cwd=ROOT, env={**os.environ, **cluster.env, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

        def runs() -> list[Path]:
            return [run.parent for run in sorted((folder / "runs").glob("*/*/run.json"))]

        wait(lambda: any(len(exact(run)) >= 2 for run in runs()) or search.poll() is not None, "a point that trains")
        first = next(run for run in runs() if exact(run))
        cluster.call("scancel", "--signal=TERM", str(said(first, "submitted")[-1]["job_id"]))
        text, _ = search.communicate(timeout=PATIENCE)
    assert search.returncode == 0, text
    losses = [[row["val_loss"] for row in exact(run) if "val_loss" in row][-1] for run in runs()]
    assert len(losses) == 3
    assert len(list((first / "attempts").glob("[0-9]*"))) == 2, text
    config = yaml.safe_load((first / "config.yaml").read_text())
    assert config["launch"]["time"] == "12" and config["launch"]["partition"] == "preempt"
    (results,) = (folder / "runs/searches").glob("*/optimization_results.yaml")
    assert yaml.safe_load(results.read_text())["best_value"] == min(losses)
