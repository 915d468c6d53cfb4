from __future__ import annotations

from pathlib import Path

import pytest

from tests.launch.fake_queue import FakeSlurm, HandMade


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """Slurm's commands as the test tells them to answer, first on PATH."""
    fake = FakeSlurm(tmp_path / "bin")
    for name, value in fake.env.items():
        monkeypatch.setenv(name, value)
    return fake


@pytest.fixture
def run(tmp_path: Path) -> HandMade:
    """A run directory whose files the test writes."""
    return HandMade(tmp_path / "artifacts")
