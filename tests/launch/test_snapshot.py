"""A run's own copy of the code: whole, of one moment, or not there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import launch.code
from launch.code import copy_code
from launch.rundirs import create_run
from tests.launch.helpers import ROOT, wait_for, write_config
from tmrc.config.errors import UserError
from tmrc.config.load import load_config


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two small packages in place of ours."""
    for name in ("tmrc", "launch"):
        (tmp_path / "src" / name / "__pycache__").mkdir(parents=True)
        (tmp_path / "src" / name / "__init__.py").write_text("x = 1\n")
    monkeypatch.setattr(launch.code, "PACKAGES", (tmp_path / "src/tmrc", tmp_path / "src/launch"))
    return tmp_path / "src"


def meanwhile(monkeypatch: pytest.MonkeyPatch, what: Callable[[], object], times: int) -> None:
    """Have `what` happen in the middle of the next `times` copies."""
    copytree, left = shutil.copytree, [times]

    def copy(*arguments: Any, **options: Any) -> Any:
        if left[0] > 0:
            left[0] -= 1
            what()
        return copytree(*arguments, **options)

    monkeypatch.setattr(shutil, "copytree", copy)


def test_code_that_is_edited_while_it_is_copied_is_copied_again(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meanwhile(monkeypatch, lambda: (packages / "launch/__init__.py").write_text("x = 23\n"), times=1)
    copy_code(tmp_path / "code")
    assert (tmp_path / "code/launch/__init__.py").read_text() == "x = 23\n"
    assert sorted(str(file.relative_to(tmp_path / "code")) for file in (tmp_path / "code").rglob("*.py")) == [
        "launch/__init__.py", "tmrc/__init__.py",
    ]  # fmt: skip


def test_code_that_does_not_keep_still_is_refused(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = packages / "tmrc/__init__.py"
    meanwhile(monkeypatch, lambda: file.write_text(file.read_text() + "#"), times=100)
    with pytest.raises(UserError, match="the code changes while it is copied"):
        create_run(load_config(write_config(tmp_path)), "toy", [])
    assert list((tmp_path / "artifacts").iterdir()) == []


def test_a_submission_that_is_killed_leaves_no_run(tmp_path: Path) -> None:
    code = (
        "import sys, launch.rundirs as r, tmrc.config.load as l, time\n"
        "r.provenance = lambda *_: {'id': 'toy'}\n"
        "r.write_config = lambda *_: time.sleep(60)\n"
        "r.create_run(l.load_config(sys.argv[1]), 'toy', [])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(write_config(tmp_path))], cwd=ROOT)
    wait_for((tmp_path / "artifacts/.toy/code/launch/script.py").exists, "the copy")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert [file.name for file in (tmp_path / "artifacts").iterdir()] == [".toy"]
    run = create_run(load_config(write_config(tmp_path)), "toy-2", [])
    about = json.loads(run.run_json.read_text())
    assert about["id"] == "toy-2" and about["git"]["diff_is_whole"] in (True, False)
