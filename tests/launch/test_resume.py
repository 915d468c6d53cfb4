"""Refusing to continue what is damaged, and to begin where a run cannot work, in one line each."""

from __future__ import annotations

import getpass
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.rundirs import create_run, provenance
from launch.templates import load_template
from tests.launch.helpers import REAL, call, write_config
from tmrc.config.errors import UserError
from tmrc.config.load import load_config


def events_is_a_directory(run: Path) -> None:
    (run / "events.jsonl").mkdir()


def events_have_wrong_types(run: Path) -> None:
    (run / "events.jsonl").write_text('{"event": "finished", "step": [1]}\n')


def attempts_is_a_file(run: Path) -> None:
    (run / "attempts").write_text("")


def owner_has_no_pid(run: Path) -> None:
    (run / "attempts/1").mkdir(parents=True)
    (run / "attempts/1/owner.json").write_text(json.dumps({"host": "here", "started": 1}))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (events_is_a_directory, "events.jsonl"),
        (events_have_wrong_types, "events.jsonl"),
        (attempts_is_a_file, "attempts"),
        (owner_has_no_pid, "owner.json"),
    ],
)
@pytest.mark.parametrize("how", ["--local", "--dry-run"])
def test_a_damaged_run_is_one_line(tmp_path: Path, damage: Callable[[Path], None], named: str, how: str) -> None:
    run = create_run(load_config(write_config(tmp_path)), "toy", []).path
    damage(run)
    done = call(how, "--resume", run)
    assert done.code == 2 and named in done.err and len(done.err.splitlines()) == 1, done.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_the_run_of_another_user_is_one_line(tmp_path: Path) -> None:
    run = create_run(load_config(write_config(tmp_path)), "toy", []).path
    run.chmod(0o500)
    done = call("--local", "--resume", run)
    run.chmod(0o700)
    assert done.code == 2 and f"{run}/attempts: Permission denied" in done.err and len(done.err.splitlines()) == 1


@pytest.mark.parametrize("sign", [":", "%"])
@pytest.mark.parametrize("how", [["--local"], ["--dry-run"], ["--dry-run", "--local"]])
def test_paths_that_the_launcher_cannot_pass_on_are_refused(tmp_path: Path, how: list[str], sign: str) -> None:
    config = write_config(tmp_path, training={"artifacts_path": str(tmp_path / f"a{sign}j")})
    done = call(*how, config, module=REAL)
    assert done.code == 2 and "training.artifacts_path" in done.err and len(done.err.splitlines()) == 1
    assert not (tmp_path / f"a{sign}j").exists()


def test_what_was_made_of_a_run_is_removed_when_it_cannot_be_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(write_config(tmp_path))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("launch.rundirs.write_json", full)
    with pytest.raises(UserError, match="No space left"):
        create_run(config, "toy", [])
    assert list((tmp_path / "artifacts").iterdir()) == []


def test_a_user_without_a_name_or_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found")

    def homeless(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(getpass, "getuser", nameless)
    assert provenance("toy", [])["user"] == str(os.getuid())
    monkeypatch.setattr(Path, "expanduser", homeless)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    assert load_template("generic", tmp_path)["gpus_per_node"] == 1


@pytest.mark.parametrize("lost", ["tmrc", "launch/job.py"])
def test_a_run_whose_code_is_not_whole_does_not_go_on_with_other_code(tmp_path: Path, lost: str) -> None:
    run = create_run(load_config(write_config(tmp_path)), "toy", [])
    path = run.code / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    done = call("--local", "--resume", run.path)
    assert done.code == 2 and len(done.err.splitlines()) == 1, done.err
    assert f"{run.code}: {lost}" in done.err and "missing, so the run cannot go on with the code" in done.err


def test_code_that_was_edited_is_told(tmp_path: Path) -> None:
    run = create_run(load_config(write_config(tmp_path)), "toy", [])
    assert "edited" not in call("--dry-run", "--local", "--resume", run.path).err
    with (run.code / "tmrc/__init__.py").open("a") as file:
        file.write("# mended\n")
    done = call("--dry-run", "--local", "--resume", run.path)
    assert done.code == 0, done.err
    assert f"{run.code}: tmrc/__init__.py has been edited or added since the run began" in done.err + done.out
