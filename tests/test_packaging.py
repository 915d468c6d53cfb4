"""The wheel works without a checkout beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("tmrc-*.whl"))


def test_the_wheel_holds_configurations_and_templates(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"tmrc/configs/train/default.yaml", "tmrc/configs/train/quickstart.yaml"} <= names
    assert "launch/slurm_templates/generic.yaml" in names
    assert not [name for name in names if name.startswith(("tests/", "docs/"))]


def test_installed_commands_find_them(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}
    code = "import tmrc.config.load as load; print(*load.packaged_configs().values(), sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, text=True, capture_output=True, check=True
    )
    files = done.stdout.split()
    assert f"{site}/tmrc/configs/train/quickstart.yaml" in files
    assert all(file.startswith(str(site)) for file in files)
    script = [sys.executable, "-m", "launch.cli.submit", "--dry-run", "--template", "generic", "default"]
    refused = subprocess.run(script, env=environment, cwd=tmp_path, text=True, capture_output=True)
    assert refused.returncode == 2
    assert "/path/to/data" in refused.stderr  # it got as far as looking for the data
