from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from launch.cluster import Partition, clock, partitions, seconds
from tests.launch.fake_slurm import JOB, REFUSING, SBATCH, SINFO, SRUN, install
from tests.launch.helpers import (
    REAL,
    ROOT,
    STANDIN,
    call,
    events,
    living,
    processes_of,
    steps,
    tags,
    wait_for,
    write_config,
)

HOSTILE = ["a\nb", "a'b", 'a"b', "$(touch /tmp/x)", "a;b", "a`b`", "\x07", "a" * 100_000]


def listing(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_dry_run_prints_script_and_plan_and_touches_nothing(tmp_path: Path) -> None:
    env = install(tmp_path / "bin", sbatch=SBATCH, sinfo=SINFO)
    config = write_config(tmp_path, launch={"sbatch": {"mail-type": "FAIL"}, "setup": ["module load cuda"]})
    before = listing(tmp_path)
    options = ["-p", "gpu", "-A", "lab", "-q", "high", "-c", "8", "--mem", "64G", "-t", "1-00:00:00"]
    options += ["-C", "h100", "-x", "node[1-3]", "-J", "my.job"]
    done = call("--dry-run", *options, config, module=REAL, env=env)
    assert done.code == 0, done.err
    assert listing(tmp_path) == before
    for line in (
        "#SBATCH --partition=gpu", "#SBATCH --account=lab", "#SBATCH --qos=high", "#SBATCH --cpus-per-task=8",
        "#SBATCH --mem=64G", "#SBATCH --time=1-00:00:00", "#SBATCH --constraint=h100", "#SBATCH --exclude='node[1-3]'",
        "#SBATCH --nodes=1", "#SBATCH --ntasks-per-node=1", "#SBATCH --signal=USR2@120", "#SBATCH --requeue",
        "#SBATCH --open-mode=append", "#SBATCH --mail-type=FAIL", "module load cuda",
    ):  # fmt: skip
        assert line in done.out.splitlines()
    assert "#SBATCH --job-name=my.job-" in done.out and "--gpus-per-node" not in done.out
    assert "srun --unbuffered" in done.out and "--cpus-per-task=8" in done.out.splitlines()[-1]
    assert "20 (ends by training.train_steps; an epoch has 64)" in done.out


def test_the_script_is_the_one_that_is_submitted(tmp_path: Path) -> None:
    env = install(tmp_path / "bin", sbatch=SBATCH)
    config = write_config(tmp_path)
    planned = call("--dry-run", "--json", config, module=REAL, env=env).json
    done = call("--json", config, module=REAL, env=env)
    assert done.code == 0, done.err
    assert done.json["job_id"] == "4242" and planned["job_id"] is None
    assert {"run_id", "run_dir", "job_id"} <= set(done.json)
    submitted = (tmp_path / "bin/submitted.sh").read_text()
    assert submitted == planned["script"].replace(planned["run_id"], done.json["run_id"])
    assert planned["plan"]["steps"] == 20 and planned["plan"]["sequences_per_rank"] == 4
    run = Path(done.json["run_dir"])
    assert [(row["event"], row["job_id"]) for row in events(run)] == [("submitted", "4242")]
    assert stat.S_IMODE((run / "submitit").stat().st_mode) == 0o700


def test_a_submitted_run_uses_the_code_it_was_submitted_with(tmp_path: Path) -> None:
    env = install(tmp_path / "bin", sbatch=SBATCH, srun=SRUN)
    checkout = tmp_path / "checkout"
    for package in ("launch", "tmrc", "tests"):
        shutil.copytree(ROOT / package, checkout / package, ignore=shutil.ignore_patterns("__pycache__"))
    config = write_config(tmp_path)
    done = call("--json", config, module=STANDIN, env={**env, "PYTHONPATH": str(checkout)}, cwd=checkout)
    assert done.code == 0, done.err
    run = Path(done.json["run_dir"])
    for file in [*checkout.glob("tmrc/**/*.py"), *checkout.glob("launch/**/*.py")]:
        file.write_text("raise SystemExit('edited since')\n")
    config.write_text("broken: [")
    script = ["bash", str(tmp_path / "bin/submitted.sh")]
    # as on a cluster: the working directory is the one of the submission, the environment is Slurm's
    job = subprocess.run(script, env={**os.environ, **env, **JOB}, cwd=checkout, timeout=60)
    log = (run / "submitit/4242_0_log.out").read_text()
    assert job.returncode == 0, log
    assert steps(run) == list(range(1, 21))
    assert json.loads((run / "attempts/1/owner.json").read_text())["job_id"] == "4242"


def test_a_failed_run_fails_the_batch_job(tmp_path: Path) -> None:
    env = install(tmp_path / "bin", sbatch=SBATCH, srun=SRUN)
    done = call("--json", write_config(tmp_path), 'wandb_log.tags=["crash=boom"]', env=env)
    job = subprocess.run(["bash", str(tmp_path / "bin/submitted.sh")], env={**os.environ, **env, **JOB}, timeout=60)
    assert job.returncode == 1
    log = Path(done.json["run_dir"]) / "submitit/4242_0_log.out"
    assert log.read_text().splitlines()[-1] == "tmrc: failed (exit code 1): boom"


def test_a_signal_to_every_process_of_the_step_saves_and_stops(tmp_path: Path) -> None:
    """As Slurm delivers it where it tracks processes by their parents, torchrun included."""
    env = install(tmp_path / "bin", sbatch=SBATCH, srun=SRUN)
    config = write_config(tmp_path, training={"train_steps": 2000}, launch={"processes_per_node": 2})
    run = Path(call("--json", config, tags(step_seconds=0.02), env=env).json["run_dir"])
    job = subprocess.Popen(["bash", str(tmp_path / "bin/submitted.sh")], env={**os.environ, **env, **JOB})
    wait_for(lambda: (run / "metrics.jsonl").exists(), "the first step")
    wait_for(lambda: (run / "attempts/1/rank_1.pid").exists(), "the second rank")
    step = {pid: line for pid, line in processes_of(run).items() if pid != job.pid}
    assert len(step) >= 4  # the job, torchrun, two ranks
    for pid in step:
        os.kill(pid, signal.SIGUSR2)
    assert job.wait(timeout=60) == 75
    assert living(run) == []


def test_no_sbatch_says_to_use_local(tmp_path: Path) -> None:
    empty = install(tmp_path / "bin")["PATH"].split(os.pathsep)[0]
    done = call(write_config(tmp_path), module=REAL, env={"PATH": empty})
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: no sbatch on PATH, so there is no Slurm here; use --local to run on this machine\n"
    assert not (tmp_path / "artifacts").exists()


def test_what_sbatch_says_reaches_the_user_and_nothing_is_left(tmp_path: Path) -> None:
    env = install(tmp_path / "bin", sbatch=REFUSING)
    done = call(write_config(tmp_path), module=REAL, env=env)
    assert done.code == 2 and "Invalid account" in done.err and len(done.err.splitlines()) == 1
    assert list((tmp_path / "artifacts").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "gpuu"], "launch.partition: got 'gpuu', valid: gpu, test, long; did you mean 'gpu'?"),
        (
            ["-p", "gpu", "-t", "4-00:00:00"],
            "launch.time: got '4-00:00:00', valid: at most 3-00:00:00 in partition gpu",
        ),
        (["-p", "long", "-G", "3"], "launch.gpus_per_node: got 3, valid: at most 2"),
        (["-G", "9"], "launch.gpus_per_node: got 9, valid: at most 8, what a node of partition gpu has"),
        (["-t", "2"], "valid: more than 4 minutes"),
        (["-N", "2"], "launch.nodes: got 2, valid: 1"),
        (["-G", "-1"], "launch.gpus_per_node: got -1, valid: an integer of at least 0"),
        (["-J", "a b"], "launch.name: got 'a b'"),
        (["--resume", "nowhere"], "--resume: 'nowhere' is no run directory"),
    ],
)
def test_what_the_cluster_cannot_give_is_refused(tmp_path: Path, arguments: list[str], message: str) -> None:
    env = install(tmp_path / "bin", sbatch=SBATCH, sinfo=SINFO)
    done = call(
        *arguments, write_config(tmp_path), "training.device=auto", "training.batch_size=72", module=REAL, env=env
    )
    assert done.code == 2 and message in done.err and len(done.err.splitlines()) == 1
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_on_the_command_line(tmp_path: Path, text: str) -> None:
    config = write_config(tmp_path)
    keys = ("-p", "-A", "-q", "--mem", "-t", "-C", "-x", "-J", "--template", "--resume")
    done = call("--dry-run", *[word for key in keys[:-1] for word in (key, text)], config, module=REAL)
    assert (done.code, done.out) == (2, "") and len(done.err.splitlines()) == 1 and len(done.err) < 1000
    for arguments in (
        [config, f"launch.name={text}"],
        [config, f"training.artifacts_path={json.dumps(str(tmp_path / 'x') + text)}"],
        [config, text],
        [text],
        ["--resume", text, config],
    ):
        done = call("--dry-run", *arguments, module=REAL)
        assert (done.code, done.out) == (2, ""), arguments
        assert len(done.err.splitlines()) == 1 and len(done.err) < 1000


def test_partitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", install(tmp_path / "bin", sinfo=SINFO)["PATH"])
    assert partitions() == {
        "gpu": Partition("gpu", True, 3 * 86400, 12, 8),
        "test": Partition("test", False, 3600, 2, 0),
        "long": Partition("long", False, None, 4, 2),
    }
    monkeypatch.setenv("PATH", install(tmp_path / "bin", sinfo="#!/bin/bash\nexit 1\n")["PATH"])
    assert partitions() == {}


@pytest.mark.parametrize(
    ("text", "value"),
    [("30", 1800), ("30:15", 1815), ("1:00:00", 3600), ("2-0", 172800), ("1-12:30", 131400), ("0-00:00:09", 9)],
)
def test_times(text: str, value: int) -> None:
    assert seconds(text) == value
    assert seconds(clock(value)) == value


def test_a_queued_job_is_not_submitted_again(tmp_path: Path) -> None:
    squeue = "#!/bin/bash\necho PENDING\n"
    env = install(tmp_path / "bin", sbatch=SBATCH, squeue=squeue)
    run_dir = call("--json", write_config(tmp_path), env=env).json["run_dir"]
    done = call("--resume", run_dir, env=env)
    assert (done.code, done.out) == (2, "") and "job 4242 is still pending" in done.err
    env = install(tmp_path / "bin", squeue="#!/bin/bash\nexit 1\n")
    done = call("--resume", run_dir, "--json", "-t", "60", env=env)
    assert done.code == 0 and done.json["run_dir"] == run_dir
    assert "#SBATCH --time=60" in (tmp_path / "bin/submitted.sh").read_text()
    assert [row["job_id"] for row in events(Path(run_dir))] == ["4242", "4242"]


def test_dry_run_of_a_local_run_has_no_script(tmp_path: Path) -> None:
    done = call("--dry-run", "--local", "--json", write_config(tmp_path), "launch.processes_per_node=2", module=REAL)
    assert done.code == 0 and done.json["script"] is None
    assert done.json["plan"]["processes"] == 2 and done.json["plan"]["sequences_per_rank"] == 2
    assert not (tmp_path / "artifacts").exists()
