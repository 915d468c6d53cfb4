"""Sweeps through the command line: with a stand-in for sbatch, and on this machine in real processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from launch.sweepdir import SweepDir, read_sweep
from tests.launch.fake_slurm import SBATCH, SINFO, install, refusing
from tests.launch.helpers import ROOT, STANDIN, Done, call, events, living, steps, tags, wait_for, write_config
from tmrc.config.load import load_config

LR, DEPTH = "optimizer.lr=1e-4,3e-4", "model.n_layer=range(1,3)"
POINTS = [f"optimizer.lr={lr} model.n_layer={depth}" for lr in ("0.0001", "0.0003") for depth in (1, 2)]
COUNTING = SBATCH.replace('cp "$1"', 'echo x >> "$(dirname "$0")/calls"\ncp "$1"')
SHOWS_LIMIT = "#!/bin/bash\necho 'MaxArraySize            = 3'\n"
QUEUE = '#!/bin/bash\ncat "$(dirname "$0")/queue" 2>/dev/null\ntrue\n'


def slurm(tmp_path: Path, **commands: str) -> dict[str, str]:
    return install(tmp_path / "bin", **{"sbatch": COUNTING, "sinfo": SINFO, "squeue": QUEUE, **commands})


def listing(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def names(jobs: list[dict[str, Any]]) -> list[str]:
    return [" ".join(job["overrides"]) for job in jobs]


def status(target: Path, env: dict[str, str] | None = None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(call("status", target, "--json", module="launch.cli.main", env=env).out)
    return found


def finish(run: Path) -> None:
    """What a run that has finished leaves."""
    folder = run / "attempts/1"
    folder.mkdir(parents=True)
    (folder / "owner.json").write_text(json.dumps({"host": "node1", "pid": 1, "started": None, "job_id": "4242_0"}))
    (folder / "job.json").write_text(json.dumps({"exit_code": 0, "status": "finished", "step": 20}))


# on Slurm, as far as tmrc-submit goes


def test_a_sweep_is_one_array_of_runs_like_everyones(tmp_path: Path) -> None:
    env, config = slurm(tmp_path), write_config(tmp_path, launch={"gpus_per_node": 0})
    done = call("-p", "gpu", "-c", "1", "-m", "--parallel", "3", "--json", config, LR, DEPTH, env=env)
    assert done.code == 0, done.err
    sweep, jobs = Path(done.json["sweep_dir"]), done.json["jobs"]
    assert (tmp_path / "bin/calls").read_text() == "x\n"
    assert names(jobs) == POINTS and done.json["left"] == []
    assert [job["job_id"] for job in jobs] == [f"4242_{n}" for n in range(4)]
    script = (tmp_path / "bin/submitted.sh").read_text()
    assert "#SBATCH --array=0-3%3\n" in script and f"#SBATCH --job-name={sweep.name}\n" in script
    assert (sweep / "submissions/1/runs.txt").read_text().splitlines() == [job["run_dir"] for job in jobs]
    assert (sweep / "submissions/1/submitit").stat().st_mode & 0o777 == 0o700
    for job, lr, depth in zip(jobs, (1e-4, 1e-4, 3e-4, 3e-4), (1, 2, 1, 2), strict=True):
        run = Path(job["run_dir"])
        made = load_config(run / "config.yaml")
        assert run.parent == sweep and job["run_id"] == run.name
        assert (made.optimizer.lr, made.model.n_layer, made.wandb_log.group) == (lr, depth, sweep.name)
        assert (run / "code/launch/supervise.py").is_file() and (run / "submitit").stat().st_mode & 0o777 == 0o700
        about = json.loads((run / "run.json").read_text())
        assert about["id"] == run.name and about["sweep"] == {"id": sweep.name, "overrides": job["overrides"]}
        assert "-m" in about["command"] and about["versions"]["tmrc"]
        (event,) = events(run)
        assert (event["event"], event["job_id"], event["overrides"]) == ("submitted", job["job_id"], job["overrides"])
    assert len({json.loads((Path(job["run_dir"]) / "run.json").read_text())["id"] for job in jobs}) == 4


def test_a_dry_run_lists_the_points_and_what_they_cost_and_touches_nothing(tmp_path: Path) -> None:
    env, config = slurm(tmp_path), write_config(tmp_path, training={"device": "auto"})
    before = listing(tmp_path)
    words = ["--dry-run", "-p", "gpu", "-c", "1", "-G", "2", "-N", "2", "-t", "1:30:00", "-m", "--parallel", "2"]
    done = call(*words, config, LR, DEPTH, "model.flex=false", "model.mask=causal", env=env)
    assert done.code == 0, done.err
    assert listing(tmp_path) == before
    for name in POINTS:
        assert name in done.out
    assert "asked    24 GPU-hours: 4 points x 4 GPUs x 01:30:00, 2 at a time; " in done.out
    assert "#SBATCH --array=0-3%2" in done.out and "start    about 2026-11-22" in done.out
    found = call(*words, "--json", config, LR, DEPTH, "model.flex=false", "model.mask=causal", env=env).json
    assert found["gpu_hours"] == 24 and found["node_hours"] == 12 and names(found["jobs"]) == POINTS
    assert found["jobs"][1]["plan"]["parameters"] > found["jobs"][0]["plan"]["parameters"]
    assert listing(tmp_path) == before


def test_submitting_again_runs_only_what_is_missing_or_failed(tmp_path: Path) -> None:
    env, config = slurm(tmp_path), write_config(tmp_path, launch={"gpus_per_node": 0})

    def submit(*overrides: str) -> dict[str, Any]:
        done = call("-p", "gpu", "-c", "1", "-m", "--json", config, *overrides, env=env)
        assert done.code == 0, done.err
        return done.json

    first = submit(LR, DEPTH)
    runs = [Path(job["run_dir"]) for job in first["jobs"]]
    finish(runs[0])
    rows = [f"4242_{n}|{state}|node1|1|1:00:00|None" for n, state in ((1, "RUNNING"), (2, "PENDING"))]
    (tmp_path / "bin/queue").write_text("\n".join(rows) + "\n")
    second = submit(LR, DEPTH)  # the fourth is lost: nobody knows its job
    assert second["sweep_dir"] == first["sweep_dir"]
    assert [job["run_dir"] for job in second["jobs"]] == [str(runs[3])]
    assert Counter(one["state"] for one in second["left"]) == {"finished": 1, "starting": 1, "pending": 1}
    assert "#SBATCH --array=0-0\n" in (tmp_path / "bin/submitted.sh").read_text()
    assert (runs[3] / "code").resolve().parts[-2:] == ("2", "code")  # without a checkpoint it begins anew

    rows.append("4242_0|PENDING||N/A|1:00:00|Priority")
    (tmp_path / "bin/queue").write_text("\n".join(rows) + "\n")
    more = submit("optimizer.lr=1e-4,3e-4,1e-3", "model.n_layer=1,2")  # more values of the same keys: the same sweep
    assert more["sweep_dir"] == first["sweep_dir"]
    assert names(more["jobs"]) == ["optimizer.lr=0.001 model.n_layer=1", "optimizer.lr=0.001 model.n_layer=2"]
    other = submit(LR, DEPTH, "training.seed=1")  # something else is computed: another sweep
    assert other["sweep_dir"] != first["sweep_dir"] and len(other["jobs"]) == 4


def test_many_points_go_on_though_few_files_may_be_open(tmp_path: Path) -> None:
    env, config = slurm(tmp_path), write_config(tmp_path, launch={"gpus_per_node": 0})
    line = (
        f"ulimit -Sn 64; exec {sys.executable} -m {STANDIN} -p gpu -c 1 -m --json {config} 'training.seed=range(0,80)'"
    )
    for _ in range(2):  # nobody knows the jobs of the first time, so the points are lost
        words = ["bash", "-c", line]
        done = subprocess.run(words, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        assert len(json.loads(done.stdout)["jobs"]) == 80


def test_a_point_that_has_a_checkpoint_goes_on_with_its_own_code(tmp_path: Path) -> None:
    env, config = slurm(tmp_path), write_config(tmp_path, launch={"gpus_per_node": 0})
    first = call("-p", "gpu", "-c", "1", "-m", "--json", config, "training.seed=1,2", env=env).json
    run = Path(first["jobs"][0]["run_dir"])
    (run / "checkpoints/step_00000005").mkdir(parents=True)
    (run / "cancel.json").write_text("{}")
    again = call("-p", "gpu", "-c", "1", "-t", "2:00:00", "-m", "--json", config, "training.seed=1,2", env=env)
    assert again.code == 0 and len(again.json["jobs"]) == 2, again.err
    assert (run / "code").resolve().parts[-2:] == ("1", "code")
    assert load_config(run / "config.yaml").launch.time == "2:00:00" and not (run / "cancel.json").exists()
    changed = events(run, "changed")
    assert changed[0]["changes"]["launch.time"] == [None, "2:00:00"]


def test_nothing_to_do_submits_nothing(tmp_path: Path) -> None:
    env, config = slurm(tmp_path), write_config(tmp_path, launch={"gpus_per_node": 0})
    words = ["-p", "gpu", "-c", "1", "-m", config, "training.seed=1,2"]
    for job in call("--json", *words, env=env).json["jobs"]:
        finish(Path(job["run_dir"]))
    before = listing(tmp_path)
    done = call(*words, env=env)
    assert done.code == 0 and done.out.startswith("nothing to submit\nleft     2 finished\n")
    assert listing(tmp_path) == before
    assert "points   2 finished" in call("--dry-run", *words, env=env).out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model.n_head=1,3"], r"point model.n_head=3: .*model.n_head: got 3, valid: a divisor of d_model 16"),
        (["model.context_length=16,100000"], r"point model.context_length=100000: .*fewer than one batch"),
        (["optimizer.lr=1e-4,x"], r"point optimizer.lr=x: .*optimizer.lr: got 'x', valid: a number above 0"),
        (["optimzer.lr=1e-4,3e-4"], r"unknown key 'optimzer'"),
        (["launch.time=10,20"], r"launch.time: cannot be swept"),
        (["training.artifacts_path=a,b"], r"training.artifacts_path: cannot be swept"),
        (["training.device=cpu,auto"], r"point training.device=auto: asks for 1 GPUs and 1 processes"),
        (["optimizer.lr=1e-4"], r"-m: no key has more than one value"),
        (["training.seed=range(0,4)"], r"-m: the sweep has 4 points to run, valid: at most 3"),
        (["training.batch_size=4,5", "launch.processes_per_node=2"], r"point training.batch_size=5: training.batch"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused_before_anything_is_made(tmp_path: Path, arguments: list[str], message: str) -> None:
    env, config = slurm(tmp_path, scontrol=SHOWS_LIMIT), write_config(tmp_path)
    for words in (["--dry-run"], []):
        done = call(*words, "-p", "gpu", "-c", "1", "-m", config, *arguments, env=env)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done.err
        assert re.search(message, done.err), done.err
        assert not (tmp_path / "bin/calls").exists()
        assert [path.name for path in (tmp_path / "artifacts").glob("*")] == []


@pytest.mark.parametrize("arguments", [["--parallel", "2"], ["-m", "--resume", "x"], ["-m", "--parallel", "0"]])
def test_options_that_contradict_are_refused(tmp_path: Path, arguments: list[str]) -> None:
    done = call(*arguments, write_config(tmp_path), LR)
    assert done.code == 2 and done.err.count("\n") == 1


def test_several_values_without_m_are_explained(tmp_path: Path) -> None:
    for text in (LR, "sweep=lr"):
        done = call("--local", write_config(tmp_path), text)
        assert done.code == 2 and done.err.endswith("(-m makes a sweep of several values)\n")


@pytest.mark.parametrize("existing", [False, True])
def test_a_refused_submission_leaves_all_as_it_was(tmp_path: Path, existing: bool) -> None:
    env, config = slurm(tmp_path), write_config(tmp_path, launch={"gpus_per_node": 0})
    words = ["-p", "gpu", "-c", "1", "-m", config, DEPTH]
    if existing:
        for job in call("--json", *words, "optimizer.lr=1e-4,2e-4", env=env).json["jobs"][:2]:
            finish(Path(job["run_dir"]))
    slurm(tmp_path, sbatch=refusing("sbatch: error: Batch job submission failed: Invalid qos specification"))
    before = {path: path.read_bytes() for path in (tmp_path / "artifacts").rglob("*") if path.is_file()}
    done = call(*words, LR, env=env)
    assert done.code == 2 and "Invalid qos specification" in done.err and done.err.count("\n") == 1
    after = {path: path.read_bytes() for path in (tmp_path / "artifacts").rglob("*") if path.is_file()}
    new = [path for path in after.keys() - before.keys() if path.name not in ("submit.lock",)]
    assert new == [] and {path: after[path] for path in before} == before


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_submission_leaves_no_sweep(tmp_path: Path, signum: signal.Signals) -> None:
    hangs = '#!/bin/bash\necho $$ > "$(dirname "$0")/pid"\nexec sleep 60\n'
    env = {**os.environ, **slurm(tmp_path, sbatch=hangs)}
    config = write_config(tmp_path, launch={"gpus_per_node": 0})
    command = [sys.executable, "-m", STANDIN, "-p", "gpu", "-c", "1", "-m", str(config), LR]
    process = subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
    wait_for((tmp_path / "bin/pid").exists, "sbatch")
    second = call("-p", "gpu", "-c", "1", "-m", config, LR, env=env)
    assert second.code == 2 and "another tmrc-submit is at work on this sweep" in second.err
    process.send_signal(signum)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + signum and "Traceback" not in err
    assert list((tmp_path / "artifacts").iterdir()) == []


def test_a_sweep_file_that_is_not_ours_is_not_written_over(tmp_path: Path) -> None:
    env, config = slurm(tmp_path), write_config(tmp_path, launch={"gpus_per_node": 0})
    sweep = Path(call("-p", "gpu", "-c", "1", "-m", "--json", config, LR, env=env).json["sweep_dir"])
    (sweep / "sweep.json").write_text("[1]\n")
    done = call("-p", "gpu", "-c", "1", "-m", config, LR, env=env)
    assert done.code == 2 and "sweep.json: is damaged" in done.err
    assert (sweep / "sweep.json").read_text() == "[1]\n"


def test_status_and_cancel_take_a_sweep(tmp_path: Path) -> None:
    scancel = '#!/bin/bash\necho "$*" >> "$(dirname "$0")/scancels"\n'
    env, config = slurm(tmp_path, scancel=scancel), write_config(tmp_path, launch={"gpus_per_node": 0})
    done = call("-p", "gpu", "-c", "1", "-m", "--json", config, LR, DEPTH, env=env).json
    sweep, runs = Path(done["sweep_dir"]), [Path(job["run_dir"]) for job in done["jobs"]]
    finish(runs[0])
    rows = [f"4242_{n}|RUNNING|node1|1|1:00:00|None" for n in range(1, 4)]
    (tmp_path / "bin/queue").write_text("\n".join(rows) + "\n")
    assert [one["state"] for one in status(sweep, env)] == ["finished", "starting", "starting", "starting"]
    assert status(tmp_path / "artifacts", env) == status(sweep, env)
    text = call("status", sweep, module="launch.cli.main", env=env).out
    assert "lr=0.0001 n_layer=2" in text
    said = call("cancel", sweep, "--json", module="launch.cli.main", env=env)
    assert said.code == 0, said.err
    assert [one["action"] for one in json.loads(said.out)] == ["none", "asked", "asked", "asked"]
    assert (tmp_path / "bin/scancels").read_text() == "--signal=TERM 4242_1 4242_2 4242_3\n"
    assert [(run / "cancel.json").exists() for run in runs] == [False, True, True, True]
    refused = call("cancel", tmp_path / "artifacts", module="launch.cli.main", env=env)
    assert refused.code == 2 and "is a directory with runs in it" in refused.err


@pytest.mark.parametrize("late", [0.0, 0.03, 0.1])
def test_of_identical_submissions_at_once_one_counts(tmp_path: Path, late: float) -> None:
    env = {**os.environ, **slurm(tmp_path)}
    rows = [f"4242_{n}|PENDING||N/A|1:00:00|Priority\n" for n in range(4)]
    (tmp_path / "bin/queue").write_text("".join(rows))  # as soon as anybody asks
    command = [sys.executable, "-m", STANDIN, "-p", "gpu", "-c", "1", "-m", "--json"]
    command += [str(write_config(tmp_path, launch={"gpus_per_node": 0})), LR, DEPTH]
    started = []
    for _ in range(4):
        started.append(
            subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        time.sleep(late)
    said = [process.communicate(timeout=60) for process in started]
    codes = [process.returncode for process in started]
    done = [json.loads(out) for (out, _), code in zip(said, codes, strict=True) if code == 0]
    assert sum(bool(one["jobs"]) for one in done) == 1, said
    assert all("another tmrc-submit is at work" in err for (_, err), code in zip(said, codes, strict=True) if code)
    assert (tmp_path / "bin/calls").read_text() == "x\n"
    (sweep,) = (tmp_path / "artifacts").iterdir()
    record = read_sweep(SweepDir(sweep))
    assert record is not None and len(record.points) == 4
    assert len(list(sweep.glob("*/run.json"))) == 4
    assert len((sweep / "submissions/1/runs.txt").read_text().splitlines()) == 4
    assert len(list((sweep / "submissions/1/submitit").glob("*_submitted.pkl"))) == 4


def test_points_whose_submission_was_killed_are_found_in_the_queue(tmp_path: Path) -> None:
    kills = COUNTING.replace('echo "Submitted', 'kill -9 $PPID; echo "Submitted')
    queue = """#!/bin/bash
here=$(dirname "$0")
case "$*" in *" -n "*) format=1;; *) format=2;; esac
for n in 0 1; do
  if ((format == 1)); then echo "4242_$n|$(cat "$here/script")"; else echo "4242_$n|PENDING||N/A|1:00:00|Priority"; fi
done
"""
    env, config = slurm(tmp_path, sbatch=kills, squeue=queue), write_config(tmp_path, launch={"gpus_per_node": 0})
    words = ["-p", "gpu", "-c", "1", "-m", "--json", config, LR]
    assert call(*words, env=env).code == -signal.SIGKILL
    (sweep,) = (tmp_path / "artifacts").iterdir()
    (tmp_path / "bin/script").write_text(str(sweep / "submissions/1/submitit/.submission_file_x.sh"))
    slurm(tmp_path, squeue=queue)
    again = call(*words, env=env)
    assert again.code == 0, again.err
    assert again.json["jobs"] == [] and {one["state"] for one in again.json["left"]} == {"pending"}
    assert (tmp_path / "bin/calls").read_text() == "x\n"
    for one in again.json["left"]:
        assert [row["event"] for row in events(Path(one["run_dir"]))] == ["submitted"]


@pytest.mark.parametrize("text", ["../../victim", "/etc", ".hidden", "a/b", 3])
def test_a_point_is_never_looked_for_outside_of_its_sweep(tmp_path: Path, text: object) -> None:
    env, config = slurm(tmp_path), write_config(tmp_path, launch={"gpus_per_node": 0})
    sweep = Path(call("-p", "gpu", "-c", "1", "-m", "--json", config, LR, env=env).json["sweep_dir"])
    record = json.loads((sweep / "sweep.json").read_text())
    record["points"][0]["run_id"] = text
    (sweep / "sweep.json").write_text(json.dumps(record))
    assert "sweep.json: is damaged" in call("-p", "gpu", "-c", "1", "-m", config, LR, env=env).err
    (sweep / "sweep.json").unlink()
    assert "sweep.json: is missing" in call("-p", "gpu", "-c", "1", "-m", config, LR, env=env).err


def test_a_pipe_in_place_of_a_named_sweep_is_not_waited_for(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    (tmp_path / "sweep").mkdir()
    os.mkfifo(tmp_path / "sweep/mine.yaml")
    done = call("--local", "--dry-run", "-m", config, "sweep=mine")
    assert done.code == 2 and "mine.yaml: is not a file" in done.err


# on this machine


def local(tmp_path: Path, *arguments: object, **sections: dict[str, Any]) -> Done:
    return call("--local", "-m", *arguments, "--json", write_config(tmp_path, **sections), LR, DEPTH)


def test_a_sweep_runs_here_and_again_only_what_failed(tmp_path: Path) -> None:
    done = local(tmp_path, "--parallel", 2, training={"train_steps": 4})
    assert done.code == 0, done.err
    assert names(done.json["jobs"]) == POINTS
    assert {job["exit_code"] for job in done.json["jobs"]} == {0}
    for job in done.json["jobs"]:
        assert steps(Path(job["run_dir"])) == [1, 2, 3, 4] and job["loss"] == 2.5
        environment = json.loads(next(Path(job["run_dir"]).glob("attempts/1/rank_0.env")).read_text())
        assert environment["OMP_NUM_THREADS"] == str(max(1, (os.cpu_count() or 1) // 2))
        assert "TORCHINDUCTOR_CACHE_DIR" not in environment  # torch's own, which all runs on this machine share
    again = local(tmp_path, "--parallel", 2, training={"train_steps": 4})
    assert again.code == 0 and again.json["jobs"] == [] and len(again.json["left"]) == 4


def test_points_that_fail_are_named_and_run_again(tmp_path: Path) -> None:
    words = ["--local", "-m", "--json", write_config(tmp_path, training={"train_steps": 4}), "optimizer.lr=1e-4,3e-4"]
    broken = call(*words, tags(error="the data are wrong"))
    assert broken.code == 2
    assert [job["message"] for job in broken.json["jobs"]] == ["the data are wrong"] * 2
    mended = call(*words)  # wandb_log is no part of what a point computes
    assert mended.code == 0 and mended.json["sweep_dir"] == broken.json["sweep_dir"]
    assert [job["run_dir"] for job in mended.json["jobs"]] == [job["run_dir"] for job in broken.json["jobs"]]


def test_ctrl_c_saves_all_that_run_and_the_same_command_goes_on(tmp_path: Path) -> None:
    config = write_config(tmp_path, wandb_log={"tags": ["step_seconds=0.1"]}, training={"train_steps": 40})
    command = [sys.executable, "-m", STANDIN, "--local", "-m", "--parallel", "2", str(config), LR, DEPTH]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)

    def at_work() -> list[Path]:
        return [file.parent for file in (tmp_path / "artifacts").glob("*/*/metrics.jsonl")]

    wait_for(lambda: len(at_work()) == 2, "two points that run")
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75 and "saving and stopping" in err
    (sweep,) = (tmp_path / "artifacts").iterdir()
    record = read_sweep(SweepDir(sweep))
    assert record is not None and len(record.points) == 4
    assert Counter(one["state"] for one in status(sweep)) == {"stopped": 2, "created": 2}
    assert all(living(run) == [] for run in at_work())
    again = call("--local", "-m", "--parallel", "4", "--json", config, LR, DEPTH, tags(step_seconds=0))
    assert again.code == 0, again.err
    assert {one["state"] for one in status(sweep)} == {"finished"}
    assert all(steps(run) == list(range(1, 41)) for run in at_work())


def test_ctrl_c_before_a_point_listens_waits_until_it_does(tmp_path: Path) -> None:
    config = write_config(tmp_path, wandb_log={"tags": ["step_seconds=0.1"]}, training={"train_steps": 400})
    command = [sys.executable, "-m", STANDIN, "--local", "-m", str(config), LR]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)

    def started() -> bool:
        with contextlib.suppress(OSError):  # other children come and go
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            return any(b"launch.point" in Path(f"/proc/{child}/cmdline").read_bytes() for child in children)
        return False

    wait_for(started, "the first point's process")
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75 and "failed" not in err and "KeyboardInterrupt" not in err, err


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-", ">&-", ">/dev/full", "2>&1 >&- <&-"])
def test_a_sweep_runs_whoever_listens(tmp_path: Path, redirection: str) -> None:
    config = write_config(tmp_path, training={"train_steps": 2})
    line = f"exec {sys.executable} -m {STANDIN} --local -m {config} {LR} {redirection}"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert "Traceback" not in done.stderr, done.stderr
    assert {one["state"] for one in status(next((tmp_path / "artifacts").iterdir()))} == {"finished"}


def test_points_save_and_stop_when_the_sweep_is_killed(tmp_path: Path) -> None:
    config = write_config(tmp_path, wandb_log={"tags": ["step_seconds=0.1"]}, training={"train_steps": 400})
    command = [sys.executable, "-m", STANDIN, "--local", "-m", str(config), LR]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    wait_for(lambda: list((tmp_path / "artifacts").glob("*/*/metrics.jsonl")), "a point that runs")
    (run,) = [file.parent for file in (tmp_path / "artifacts").glob("*/*/metrics.jsonl")]
    process.kill()
    process.wait()
    wait_for(lambda: (run / "attempts/1/job.json").exists(), "the end of the point")
    assert json.loads((run / "attempts/1/job.json").read_text())["status"] == "stopped"
    wait_for(lambda: living(run) == [], "the end of its processes")


def test_each_point_has_gpus_of_its_own(tmp_path: Path) -> None:
    config = write_config(
        tmp_path, training={"device": "auto", "train_steps": 2}, model={"flex": False, "mask": "causal"}
    )
    env = {"CUDA_VISIBLE_DEVICES": "3,5,6,7"}
    done = call("--local", "-m", "--parallel", "2", "--json", config, LR, env=env)
    assert done.code == 0, done.err
    files = [next(Path(job["run_dir"]).glob("attempts/1/rank_*.env")) for job in done.json["jobs"]]
    seen = sorted(json.loads(file.read_text())["CUDA_VISIBLE_DEVICES"] for file in files)
    assert seen == ["3,5", "6,7"]
    refused = call("--local", "-m", "--parallel", "5", config, "optimizer.lr=1,2", env=env)
    assert refused.code == 2 and "--parallel: got 5, valid: at most 4" in refused.err
