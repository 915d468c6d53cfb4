"""`tmrc drill` as a command, mostly with the stand-in trainer, which forgets a killed attempt's rows nowhere."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launch.drill.processes import MARK
from tests.launch.helpers import ROOT, Done, call, events, tags, wait_for, write_config

STANDIN = "tests.launch.standin.drill"
SLOW = tags(step_seconds=0.05)
KILLED = 4


def drill(*arguments: object, module: str = STANDIN) -> Done:
    return call(*arguments, module=module, env={"PYTHONPATH": str(ROOT)})


def marked(folder: Path) -> list[str]:
    """Command lines of the processes that carry the mark of a trial below `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={folder}/".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("default", "--faults", "kill,trem"), "got 'trem', valid: all, kill, node, term"),
        (("default", "--faults", "requeue"), "got 'requeue', valid: all, kill"),
        (("default", "--slurm", "--faults", "hup"), "got 'hup', valid: all, "),
        (("default", "--faults", "resize"), "training.exact_reduction"),
        (("default", "-p", "gpu"), "--slurm"),
        (("default", "two"), "one CONFIG"),
        (("default", "training.nothing=1"), "training.nothing"),
        (("--trials", "3"), "CONFIG is missing"),
        (("--reference", "nowhere"), "'nowhere'"),
        (("default", "--reference", "nowhere"), "--reference: its configuration is what is tried; CONFIG"),
        (("--processes", "2", "--reference", "nowhere"), "--processes"),
        (("default", "--faults", ""), "got '', valid: all, kill"),
        (("default", "--faults", ","), "got '', valid: all, kill"),
        (("default", "--json", "/dev/null"), "/dev/null: is no ordinary file"),
        (("default", "--json", "-", "--markdown", "-"), "cannot both be -"),
    ],
)
def test_a_mistake_is_one_line(arguments: tuple[str, ...], words: str) -> None:
    done = drill(*arguments)
    assert done.code == 2 and done.out == ""
    assert words in done.err and len(done.err.splitlines()) == 1, done.err


def test_a_file_of_somebody_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"mine": 1}')
    for option in ("--json", "--markdown"):
        done = drill("default", option, tmp_path / "mine.json")
        assert done.code == 2 and "mine.json" in done.err and len(done.err.splitlines()) == 1
    assert (tmp_path / "mine.json").read_text() == '{"mine": 1}'


def test_trials_that_are_equal_and_one_that_differs(tmp_path: Path) -> None:
    """The stand-in saves when it is asked to stop, and when it is killed it writes its rows a second time."""
    config, found = write_config(tmp_path), tmp_path / "found.json"
    # Trial 4 of seed 0 is one fault at a third of the steps.
    term = ("--faults", "term", "--only", 4)
    done = drill(
        config, SLOW, "training.train_steps=40", *term, "--keep", "--json", found, "--markdown", tmp_path / "m"
    )
    assert done.code == 0, done.err
    said = json.loads(found.read_text())
    (trial,) = said["trials"]
    assert said["equal"] and trial["equal"] and trial["number"] == 4 and trial["plan"]["hits"][0]["fault"] == "term"
    assert SLOW in shlex.split(said["drill"]["command"])
    assert said["drill"]["seed"] == 0 and "torch" in said["drill"]["versions"]
    assert "1 of 1 trial ended as the uninterrupted run did" in done.out
    assert "| term | 1 | 1 |" in (tmp_path / "m").read_text()
    reference, run = Path(said["reference"]["run_dir"]), Path(trial["directory"])
    assert [row["event"] for row in events(reference)].count("submitted") == 1
    assert trial["attempts"] == len(events(run, "submitted")) == 2 and trial["steps_lost"] == 0

    done = drill("--reference", reference, "--faults", "node", "--only", KILLED, "--json", "-")
    assert done.code == 1, done.err
    said = json.loads(done.out)
    (trial,) = said["trials"]
    assert not said["equal"] and trial["difference"]["field"] == "training row stands there twice"
    assert trial["difference"]["step"] == 1 and Path(trial["directory"]).is_dir()
    assert f"again: --faults node --seed 0 --only {KILLED}\n" in done.err and "DIFFERENT" in done.err
    assert f"drill     {Path(trial['directory']).parents[1]}\n" in done.err and "estimate  1 trial in " in done.err
    assert marked(tmp_path) == []
    assert "shorten" not in done.err and Path(said["drill"]["directory"]).is_dir()
    assert f"at {trial['blows'][0]['moment']}: " in done.err

    file = reference / "metrics.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    there = sorted((tmp_path / "artifacts").iterdir())
    done = drill("--reference", reference, "--only", 1)
    assert done.code == 2 and done.out == "" and "Traceback" not in done.err
    assert "the reference is damaged: " in done.err and "ends at step 39" in done.err.splitlines()[-1]
    assert sorted((tmp_path / "artifacts").iterdir()) == there


def test_ctrl_c_ends_what_was_begun(tmp_path: Path) -> None:
    config, found = write_config(tmp_path), tmp_path / "found.json"
    words = [tags(step_seconds=0.05, child=1), "--faults", "term", "--only", "4", "--json", str(found)]
    process = subprocess.Popen(
        [sys.executable, "-m", STANDIN, str(config), *words], cwd=ROOT, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    wait_for(
        lambda: any(tmp_path.glob("artifacts/drill-*/trial-0004/*/attempts/1/rank_0.pid")), "the trial", patience=100.0
    )
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert marked(tmp_path) == []
    assert json.loads(found.read_text())["trials"] == []
    said, kept, again = out.splitlines()
    assert said == "interrupted: no trial was done" and kept.startswith("kept: ") and "Traceback" not in err
    words = shlex.split(again)
    assert (Path(words[words.index("--reference") + 1]) / "metrics.jsonl").is_file(), again


def test_a_trial_does_not_outlive_the_drill(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    words = [tags(step_seconds=0.05), "training.train_steps=4000"]
    process = subprocess.Popen(
        [sys.executable, "-m", STANDIN, str(config), *words], cwd=ROOT, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    pattern = "artifacts/drill-*/reference/*/attempts/1/rank_0.pid"
    wait_for(lambda: any(tmp_path.glob(pattern)), "the reference", patience=100.0)
    process.kill()
    process.wait()
    wait_for(lambda: not marked(tmp_path), "the end of what was begun", patience=60.0)


def test_what_tmrc_submit_refuses_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    done = drill(config, "training.batch_size=5", "launch.processes_per_node=2")
    assert done.code == 2 and "batch_size" in done.err.splitlines()[-1], done.err
    assert "Traceback" not in done.err and list((tmp_path / "artifacts").iterdir()) == []


@pytest.mark.campaign
def test_a_real_drill_of_all_faults(tmp_path: Path) -> None:
    training = {"train_steps": 60, "save_every": 0.2, "val_interval": 10, "val_batches": 1}
    config = write_config(
        tmp_path, training=training, datasets={"val_split_size": 0.1}, launch={"processes_per_node": 2}
    )
    found = tmp_path / "found.json"
    words = ["drill", str(config), "--trials", "12", "--json", str(found)]
    subprocess.run([sys.executable, "-m", "launch.cli.main", *words], cwd=ROOT, timeout=1800)
    said = json.loads(found.read_text())
    assert said["equal"], [one for one in said["trials"] if not one["equal"]]
