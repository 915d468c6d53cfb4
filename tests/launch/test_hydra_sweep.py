"""Searches through Hydra on this machine, with a trainer whose validation loss is its learning rate."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.sweep import split_config
from tests.launch.fake_slurm import SBATCH, SINFO, install
from tests.launch.helpers import ROOT, Done, call, events, tags, wait_for, write_config
from tmrc.config.errors import UserError

SEARCH = "tests.launch.standin.search"
HERE = ["hydra/launcher=tmrc_local", "hydra.launcher.parallel=2"]


def config(tmp_path: Path, **training: Any) -> Path:
    usual = {"train_steps": 2, "val_interval": 2}
    return write_config(tmp_path, training=usual | training, wandb_log={"tags": ["val=1"]})


def search(*arguments: object) -> Done:
    return call(*arguments, module=SEARCH)


def runs(tmp_path: Path) -> list[Path]:
    return sorted(file.parent for file in (tmp_path / "artifacts").glob("*/*/run.json"))


def test_the_basic_sweeper_runs_points_like_everyones(tmp_path: Path) -> None:
    words = [config(tmp_path), "--multirun", *HERE, "optimizer.lr=0.1,0.2", "training.seed=7", "model.d_model=32"]
    done = search(*words)
    assert done.code == 0, done.out + done.err
    found = runs(tmp_path)
    made = [yaml.safe_load((run / "config.yaml").read_text()) for run in found]
    assert sorted(values["optimizer"]["lr"] for values in made) == [0.1, 0.2]
    assert all(values["training"]["seed"] == 7 and values["model"]["d_model"] == 32 for values in made)
    for run in found:
        assert json.loads((run / "run.json").read_text())["sweep"]["overrides"][0].startswith("optimizer.lr=")
    assert "2 finished" in done.err
    again = search(*words)
    assert again.code == 0 and runs(tmp_path) == found  # what has finished is not run again


def test_optuna_is_told_the_validation_losses(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    words = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=2"]
    done = search(config(tmp_path), "-m", *HERE, *words, "optimizer.lr=interval(0.1,0.9)")
    assert done.code == 0, done.out + done.err
    rates = [yaml.safe_load((run / "config.yaml").read_text())["optimizer"]["lr"] for run in runs(tmp_path)]
    (results,) = (tmp_path / "artifacts/searches").glob("*/optimization_results.yaml")
    best = yaml.safe_load(results.read_text())
    assert len(rates) == 4 and best["best_value"] == min(rates) == best["best_params"]["optimizer.lr"]
    assert len({run.parent for run in runs(tmp_path)}) == 1  # both batches are one sweep


def test_a_file_with_a_defaults_list(tmp_path: Path) -> None:
    base = config(tmp_path)
    (tmp_path / "more.yaml").write_text(f"defaults: [{base.stem}, _self_]\ntraining: {{seed: 5}}\n")
    done = search(tmp_path / "more.yaml", "--multirun", *HERE, "optimizer.lr=0.1,0.2")
    assert done.code == 0, done.out + done.err
    made = [yaml.safe_load((run / "config.yaml").read_text()) for run in runs(tmp_path)]
    assert sorted(values["optimizer"]["lr"] for values in made) == [0.1, 0.2]
    assert {values["training"]["seed"] for values in made} == {5}


def test_a_named_sweep(tmp_path: Path) -> None:
    done = search(config(tmp_path), "--multirun", *HERE, "sweep=seeds", "training.seed=1,2")
    assert done.code == 0, done.out + done.err
    assert len(runs(tmp_path)) == 2


def test_a_point_that_fails_ends_the_search_and_says_which(tmp_path: Path) -> None:
    done = search(config(tmp_path), "--multirun", *HERE, "optimizer.lr=0.1,0.2", tags(val=1, error="wrong data"))
    assert done.code == 1 and ": failed: wrong data\n" in done.err and "Traceback" not in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer.lr=0.1,0.2"], "--multirun is missing"),
        (["--multirun", "optimizer.lr=0.1,0.2", "training.val_interval=0"], "has no validation"),
        (["--multirun", "model.n_head=1,3"], "point model.n_head=3: "),
        (["--multirun", "sweep=nothing"], "sweep: got 'nothing'"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, words: list[str], message: str) -> None:
    done = search(config(tmp_path), *HERE, *words)
    assert done.code == 2 and message in done.err and done.err.count("\n") == 1, done.out + done.err
    assert runs(tmp_path) == []


def test_settings_by_the_names_of_hydra_submitit_launcher_reach_the_script(tmp_path: Path) -> None:
    squeue = "#!/bin/bash\ntrue\n"  # every job is gone at once, so that nobody waits
    env = install(tmp_path / "bin", sbatch=SBATCH, sinfo=SINFO, squeue=squeue)
    settings = {
        "partition": "gpu", "account": "lab", "qos": "high", "nodes": 2, "gpus_per_node": 0, "cpus_per_task": 3,
        "mem_gb": 9, "timeout_min": 50, "constraint": "h100", "exclude": "node7", "signal_delay_s": 77,
        "array_parallelism": 1, "name": "mine",
    }  # fmt: skip
    words = [f"hydra.launcher.{name}={value}" for name, value in settings.items()]
    words += ["hydra.launcher.setup=[module load x]", "+hydra.launcher.additional_parameters.comment=hello"]
    call(config(tmp_path), "--multirun", *words, "optimizer.lr=0.1,0.2", module=SEARCH, env=env)
    script = (tmp_path / "bin/submitted.sh").read_text()
    for line in (
        "--partition=gpu", "--account=lab", "--qos=high", "--nodes=2", "--cpus-per-task=3", "--mem=9G", "--time=50",
        "--constraint=h100", "--exclude=node7", "--signal=USR2@77", "--array=0-1%1", "--comment=hello",
    ):  # fmt: skip
        assert f"#SBATCH {line}\n" in script
    assert "\nmodule load x\n" in script and "#SBATCH --job-name=mine-" in script


def test_config_is_the_first_word_that_is_neither_option_nor_override() -> None:
    words = ["--multirun", "--cfg", "job", "x.yaml", "a=1"]
    assert split_config(words) == ("x.yaml", ["--multirun", "--cfg", "job", "a=1"])
    with pytest.raises(UserError, match="CONFIG is missing"):
        split_config(["-m", "a=1", "+b=2", "~c"])


def test_ctrl_c_leaves_the_jobs_and_ends_in_one_line(tmp_path: Path) -> None:
    squeue = '#!/bin/bash\nfor n in 0 1; do echo "4242_$n|RUNNING|node1|1|1:00:00|None"; done\n'
    env = {**os.environ, **install(tmp_path / "bin", sbatch=SBATCH, sinfo=SINFO, squeue=squeue)}
    words = [str(config(tmp_path)), "--multirun", "optimizer.lr=0.1,0.2", "launch.gpus_per_node=0"]
    process = subprocess.Popen(
        [sys.executable, "-m", SEARCH, *words], cwd=ROOT, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    wait_for(lambda: any(events(run, "submitted") for run in runs(tmp_path) if (run / "events.jsonl").exists()), "jobs")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in err
    (sweep,) = {run.parent for run in runs(tmp_path)}
    assert f"interrupted; jobs stay in the queue: tmrc cancel {sweep} ends them" in err


def test_a_launcher_that_is_not_ours_and_no_points_at_a_time_are_refused(tmp_path: Path) -> None:
    done = search(config(tmp_path), "--multirun", "hydra/launcher=basic", "optimizer.lr=0.1,0.2")
    assert done.code == 1 and "error: hydra/launcher: valid: tmrc_slurm, tmrc_local" in done.err
    done = search(config(tmp_path), "--multirun", *HERE, "hydra.launcher.parallel=0", "optimizer.lr=0.1,0.2")
    assert done.code == 2 and done.err == "error: hydra.launcher: got 0 points at a time, valid: 1 or more\n"
