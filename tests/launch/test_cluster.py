"""What the cluster cannot give is refused when it is asked for, in one line, with nothing written."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from launch.cluster import Cluster, NodeKind, Partition, ask_cluster, check_times, megabytes
from launch.forecast import Forecast, sbatch_words
from launch.gpus import Resources
from launch.times import clock, duration, seconds
from tests.launch.fake_slurm import REFUSING, SBATCH, SINFO, SLOW, install, refusing
from tests.launch.helpers import REAL, Done, call, write_config
from tmrc.config.errors import ConfigError
from tmrc.config.schema import LaunchConfig

GPU = ["training.device=auto", "training.batch_size=72"]


def submit(tmp_path: Path, *arguments: str, launch: dict[str, object] | None = None, **commands: str) -> Done:
    env = install(tmp_path / "bin", **{"sbatch": SBATCH, "sinfo": SINFO, **commands})
    done = call(*arguments, write_config(tmp_path, launch=launch or {}), *GPU, module=REAL, env=env)
    assert done.code == 0 or not (tmp_path / "artifacts").exists() or not list((tmp_path / "artifacts").iterdir())
    return done


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "gpuu"], "launch.partition: got 'gpuu', valid: gpu, test, long, brief; did you mean 'gpu'?"),
        (["-p", "gpu,lang"], "launch.partition: got 'lang', valid: gpu, test, long, brief; did you mean 'long'?"),
        (["-t", "4-0"], "launch.time: got '4-0', valid: at most 3-00:00:00 in partition gpu"),
        (["-p", "long", "-G", "3"], "launch.gpus_per_node: got 3, valid: at most 2, what a node of partition long"),
        (["-G", "9"], "launch.gpus_per_node: got 9, valid: at most 8, what a node of partition gpu has"),
        (["-c", "97"], "launch.cpus_per_task: got 97, valid: at most 96, what a node of partition gpu has"),
        (["--mem", "2T"], "launch.mem: got '2T', valid: at most 1440000M, what a node of partition gpu has"),
        (["-N", "13", "training.batch_size=78"], "launch.nodes: got 13, valid: at most 12, the nodes of partition gpu"),
        (["-N", "3", "-G", "8"], "valid: at most 2, the nodes of partition gpu that have 8 GPUs"),
        (["-G", "8", "-c", "96"], "launch.nodes: got 1, valid: at most 0, the nodes of partition gpu that have 8 GPUs"),
        (["-t", "2"], "launch.time: got '2', valid: more than 00:02:31, the 120 seconds of launch.warning and what a"),
        (["-p", "brief"], "launch.time: not given, which means 00:02:00 in partition brief; valid: more than 00:02:31"),
        (["launch.warning=20"], "launch.warning: got 20, valid: auto or at least 31, the seconds that a checkpoint"),
        (["-N", "5"], "training.batch_size: got 72 over 5 processes, valid: a multiple of 5, such as 70 or 75"),
        (["-N", "2", "training.micro_batch_size=72"], "valid: auto or a divisor of 36, the sequences of each of 2"),
        (["-G", "-1"], "launch.gpus_per_node: got -1, valid: an integer of at least 0"),
        (["-J", "a b"], "launch.name: got 'a b'"),
        (["launch.python='sh -c $(id)'"], "launch.python: got 'sh -c $(id)', valid: words of letters, digits"),
        (["--resume", "nowhere"], "--resume: 'nowhere' is no run directory"),
    ],
)
def test_refusals(tmp_path: Path, arguments: list[str], message: str) -> None:
    options = [word for word in arguments if not word.startswith(("launch.", "training."))]
    overrides = [word for word in arguments if word.startswith(("launch.", "training."))]
    env = install(tmp_path / "bin", sbatch=SBATCH, sinfo=SINFO)
    done = call(*options, write_config(tmp_path), *GPU, *overrides, module=REAL, env=env)
    assert (done.code, done.out) == (2, "") and message in done.err, done.err
    assert len(done.err.splitlines()) == 1 and not (tmp_path / "artifacts").exists()


def test_one_partition_of_several_is_enough(tmp_path: Path) -> None:
    assert submit(tmp_path, "--dry-run", "-p", "long,gpu", "-G", "8").code == 0
    assert "at most 2" in submit(tmp_path, "--dry-run", "-p", "long,brief", "-G", "8", "-t", "60").err


def test_the_users_own_default_partition_is_the_one_that_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "long")
    assert "at most 2, what a node of partition long" in submit(tmp_path, "-G", "8").err
    done = submit(tmp_path, "--dry-run", "-c", "8")
    assert done.err == "note: SBATCH_PARTITION=long in your environment decides what the script leaves open\n"
    monkeypatch.setenv("SBATCH_PARTITION", "gone")
    assert "SBATCH_PARTITION: got 'gone'" in submit(tmp_path).err


def test_a_time_limit_from_the_environment_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "brief")
    monkeypatch.setenv("SBATCH_TIMELIMIT", "60")
    words = "SBATCH_TIMELIMIT: got '60', valid: at most 00:02:00 in partition brief"
    assert submit(tmp_path, "--dry-run").err == f"error: {words}\n"
    assert "launch.time: got '30', valid: at most" in submit(tmp_path, "--dry-run", "-t", "30").err
    monkeypatch.setenv("SBATCH_TIMELIMIT", "2")
    assert "SBATCH_TIMELIMIT: got '2', valid: more than 00:02:31" in submit(tmp_path, "--dry-run").err


def test_a_large_checkpoint_wants_more_warning() -> None:
    launch = LaunchConfig(time="15")
    check_times(launch, Resources(4, 4, warning=414), save=413.1)
    with pytest.raises(ConfigError, match=r"launch.warning: got 300, valid: auto or at least 414, the seconds that a"):
        check_times(launch, Resources(4, 4, warning=300), save=413.1)
    with pytest.raises(ConfigError, match=r"launch.time: got '15', valid: more than 00:16:54, the 600 seconds"):
        check_times(launch, Resources(4, 4, warning=600), save=413.1)


def test_the_plan_says_when_slurm_would_start_it(tmp_path: Path) -> None:
    done = submit(tmp_path, "--dry-run", "-N", "2", "-G", "2")
    assert "start    about 2026-11-22 14:48:38 if submitted now, as Slurm sees it\n" in done.out
    assert "machine  2 nodes, 2 GPUs each, 4 training processes\n" in done.out
    planned = json.loads(submit(tmp_path, "--dry-run", "--json").out)
    assert planned["start_estimate"] == "2026-11-22T14:48:38"


# sbatch --test-only of Slurm 22.05.8
@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            "allocation failure: Invalid account or account/partition combination specified",
            "Invalid account or account/partition combination specified",
        ),
        ("allocation failure: Invalid qos specification", "Invalid qos specification"),
        ("allocation failure: Invalid feature specification", "Invalid feature specification"),
        (
            "sbatch: error: AssocMaxSubmitJobLimit\nallocation failure: Job violates accounting/QOS policy (job submit "
            "limit, user's size and/or time limits)",
            "AssocMaxSubmitJobLimit; Job violates accounting/QOS policy (job submit limit, user's size and/or time "
            "limits)",
        ),
        (
            "allocation failure: Required partition not available (inactive or drain)",
            "Required partition not available (inactive or drain)",
        ),
        (
            "allocation failure: Requested node configuration is not available",
            "Requested node configuration is not available",
        ),
    ],
)
def test_what_sbatch_would_refuse_is_refused_by_a_dry_run(tmp_path: Path, said: str, shown: str) -> None:
    done = submit(tmp_path, "--dry-run", sbatch=refusing(said))
    assert (done.code, done.out, done.err) == (2, "", f"error: sbatch: {shown}\n")


@pytest.mark.parametrize(
    ("partition", "said", "why"),
    [
        ("gpu", "allocation failure: Unable to contact slurm controller (connect failure)", "Unable to contact"),
        ("gpu", "allocation failure: Socket timed out on send/recv operation", "Socket timed out"),
        ("long", "allocation failure: Requested node configuration is not available", "2 nodes of the partition are"),
    ],
)
def test_what_may_pass_is_no_refusal(tmp_path: Path, partition: str, said: str, why: str) -> None:
    done = submit(tmp_path, "--dry-run", "-p", partition, "-c", "2", sbatch=refusing(said))
    assert done.code == 0 and "start    unknown: " in done.out and why in done.out and done.err == ""


def test_what_sbatch_says_to_a_submission_reaches_the_user_and_nothing_is_left(tmp_path: Path) -> None:
    done = submit(tmp_path, sbatch=REFUSING)
    assert done.code == 2 and len(done.err.splitlines()) == 1
    assert "Invalid account or account/partition combination specified" in done.err
    assert list((tmp_path / "artifacts").iterdir()) == []


def test_a_cluster_that_does_not_answer_does_not_hold_up_a_dry_run(tmp_path: Path) -> None:
    began = time.monotonic()
    done = submit(tmp_path, "--dry-run", "-c", "2", sinfo=SLOW, sbatch=SLOW)
    assert done.code == 0 and "#SBATCH --requeue" in done.out and "\nstart " not in done.out
    assert done.err.startswith(
        "waiting for sinfo ...\nnote: the cluster does not answer, so nothing was checked against it: sinfo does not"
    )
    assert len(done.err.splitlines()) == 2
    assert time.monotonic() - began < 30  # not the minute that they sleep
    down = refusing("slurm_load_partitions: Unable to contact slurm controller (connect failure)")
    assert "it: slurm_load_partitions: Unable to" in submit(tmp_path, "--dry-run", "-c", "2", sinfo=down).err


def test_no_sbatch_says_to_use_local(tmp_path: Path) -> None:
    empty = {"PATH": str(tmp_path / "nothing")}
    done = call(write_config(tmp_path), module=REAL, env=empty)
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: no sbatch on PATH, so there is no Slurm here; use --local to run on this machine\n"
    assert not (tmp_path / "artifacts").exists()
    done = call("--dry-run", "-c", "2", write_config(tmp_path), module=REAL, env=empty)
    assert done.code == 0 and "so nothing was checked against a cluster; --local runs" in done.err


def test_cores_that_nobody_asked_for_are_spoken_of(tmp_path: Path) -> None:
    assert "note: launch.cpus_per_task is not set" in submit(tmp_path, "--dry-run").err
    for launch in ({"cpus_per_task": 2}, {"sbatch": {"cpus-per-gpu": "8"}}):
        assert submit(tmp_path, "--dry-run", launch=launch).err == ""


def test_partitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", install(tmp_path / "bin", sinfo=SINFO)["PATH"])
    big, small = NodeKind(10, 4, 96, 1440000), NodeKind(2, 8, 64, 512000)
    found = ask_cluster()
    assert found.silence == "" and list(found.partitions) == ["gpu", "test", "long", "brief"]
    assert found.partitions["gpu"] == Partition("gpu", True, 3 * 86400, 86400, (big, small))
    assert found.partitions["test"] == Partition("test", False, 3600, None, (NodeKind(2, 0, 64, 512000),))
    assert found.partitions["long"] == Partition("long", False, None, None, (NodeKind(4, 2, 64, 512000),), out=2)
    garbage = "#!/bin/bash\necho 'a|b'; echo; echo 'gpu*|x|y|1/2/3|z|many|some'\n"
    monkeypatch.setenv("PATH", install(tmp_path / "bin", sinfo=garbage)["PATH"])
    assert ask_cluster() == Cluster({})


def test_a_dry_run_refuses_the_same(tmp_path: Path) -> None:
    assert submit(tmp_path, "--dry-run", "-G", "9").err == submit(tmp_path, "-G", "9").err != ""


@pytest.mark.parametrize(
    ("text", "value"),
    [("30", 1800), ("30:15", 1815), ("1:00:00", 3600), ("2-0", 172800), ("1-12:30", 131400), ("0-00:00:09", 9)],
)
def test_times(text: str, value: int) -> None:
    assert seconds(text) == duration(text) == value
    assert seconds(clock(value)) == value


def test_what_is_no_time_and_sizes() -> None:
    assert [duration(text) for text in ("infinite", "n/a", "", "::", "1-")] == [None] * 5
    assert [megabytes(text) for text in ("0", "100", "2048K", "3M", "2g", "1T")] == [0, 100, 2, 3, 2048, 1048576]
    assert sbatch_words("") == "failed without a word"
    assert Forecast(None, "x").shown() == "unknown: x"
