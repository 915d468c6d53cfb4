"""`tmrc verify` as a command: its lines, its JSON, its exit code, and files with anything in them."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launch.cli.verify import lines_of
from tests.faults.verify.helpers import flip
from tmrc.config.load import load_config, write_config
from tmrc.config.rundir import RunDir
from tmrc.verify.run import verify_run


def test_the_command(run: RunDir, finished: Path) -> None:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "launch.cli.main", "verify", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    good = call(str(finished / "run"))
    assert (good.returncode, good.stderr) == (0, "")
    assert "24 records, the chain holds" in good.stdout and "FAULT" not in good.stdout
    what = "24 steps, 2 checkpoints and 11 metrics rows; the run has finished at step 24"
    assert good.stdout.splitlines()[-1] == f"  sound: no fault in {what}"
    (run.checkpoints / "step_00000024" / "trainer.json").unlink()
    bad = call(str(finished / "run"), str(run.path), "--json", "--no-data")
    first, second = json.loads(bad.stdout)
    assert (bad.returncode, first["good"], second["good"]) == (1, True, False)
    by_name = {check["name"]: check for check in second["checks"]}
    assert by_name["checkpoints"]["faults"] == ["step_00000024: trainer.json is missing"]
    assert by_name["tokens"]["verdict"] == "-"
    assert second["faults"] == 1
    assert second["conclusion"] == f"NOT SOUND: 1 fault (checkpoints 1) in {what}; not checked: tokens"
    nothing = call(str(finished / "data"))
    assert nothing.returncode == 2 and len(nothing.stderr.splitlines()) == 1


def test_no_torch_is_loaded() -> None:
    code = "import sys, tmrc.verify.run, launch.compare.against; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("width", [60, 100])
def test_long_lines_are_broken_between_words_on_a_terminal(run: RunDir, width: int) -> None:
    (run.checkpoints / "step_00000024" / "trainer.json").unlink()
    write_config(load_config(run.config, ["optimizer.lr=0.02", "training.warmup_steps=1"]), run.config)
    verified = verify_run(run, read_data=False)
    whole, narrow = lines_of(verified, None, colour=False), lines_of(verified, width, colour=False)
    assert max(map(len, whole)) > 100 >= width >= max(map(len, narrow[1:]))
    assert " ".join(" ".join(narrow).split()) == " ".join(" ".join(whole).split())
    columns = whole[1].index(verified.checks[0].faults[0])
    body = narrow[1 : next(n for n, line in enumerate(narrow) if line.startswith("  NOT SOUND"))]
    starts = [line[columns:].index(line[columns:].split()[0]) for line in body]
    assert {*starts} == {0, 2} and all(line[columns - 1] == " " for line in body)
    assert [click.unstyle(line) for line in lines_of(verified, width, colour=True)] == narrow


def test_many_faults_are_counted_and_some_are_listed(run: RunDir) -> None:
    with run.metrics.open("a") as file:
        file.write("rubbish\n" * 50)
    verified = verify_run(run, read_data=False)
    listed = next(check["faults"] for check in verified.as_object()["checks"] if check["faults"])
    assert verified.faults == 50 and (len(listed), listed[-1]) == (21, "and 30 more")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6))
def test_whatever_is_in_the_files_there_is_no_traceback(finished: Path, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    folder = tmp_path / str(seed)
    shutil.rmtree(folder, ignore_errors=True)
    run = RunDir(Path(shutil.copytree(finished / "run", folder)))
    files = sorted(path for path in run.path.rglob("*") if path.is_file())
    for path in chance.sample(files, chance.randint(1, 4)):
        damage(path, chance)
    verified = verify_run(run)
    assert not any(
        "cannot be checked: " in fault and "Error" in fault for one in verified.checks for fault in one.faults
    )
    assert json.dumps(verified.as_object())
    shutil.rmtree(folder)


def damage(path: Path, chance: random.Random) -> None:
    """Do to a file what disks, people and attackers do."""
    content = path.read_bytes()
    kind = chance.randrange(6)
    if kind == 0 and content:
        flip(path, chance.randrange(len(content)))
    elif kind == 1:
        path.write_bytes(content[: chance.randint(0, len(content))])
    elif kind == 2:
        path.unlink()
        path.mkdir()
    elif kind == 3:
        path.write_bytes(chance.choice([b"", b"[]", b"{}\n" * 3, b"null\n", b"[" * 5000, b"\xff\xfe\x00" * 9]))
    elif kind == 4:
        words = [b"true", b"-1", b"1e999", b'"x"', b"[1]", b"9" * 40, b"null"]
        path.write_bytes(content.replace(str(chance.randrange(30)).encode(), chance.choice(words)))
    else:
        path.unlink()
