"""`tmrc drill --slurm` on a real Slurm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.slurm.live import PATIENCE, ROOT, configuration
from tests.slurm.pool import Pool

JOB = ("-p", "gpu", "-G", "0", "-c", "1", "--mem", "2G", "-t", "10")


@pytest.mark.campaign
@pytest.mark.parametrize("fault", ["usr2", "cancel", "corrupt"])
def test_a_job_that_is_disturbed_equals_one_that_is_not(
    pool: Pool, slurm_data: Path, tmp_path: Path, fault: str
) -> None:
    config, found = tmp_path / "tiny.yaml", tmp_path / "found.json"
    values = configuration(pool.root / f"drill-{fault}", slurm_data, {}, tags=[], train_steps=400, save_every=0.5)
    config.write_text(yaml.safe_dump(values))
    with pool.lease(1) as (cluster, _):
        words = ["drill", str(config), "--slurm", *JOB, "--faults", fault, "--only", "4", "--json", str(found)]
        done = subprocess.run(
            [sys.executable, "-m", "launch.cli.main", *words], cwd=ROOT, text=True, capture_output=True,
            env={**os.environ, **cluster.env, "OMP_NUM_THREADS": "1"}, timeout=2 * PATIENCE,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (trial,) = json.loads(found.read_text())["trials"]
    assert trial["equal"] and trial["attempts"] == 2 and trial["blows"][0]["reached"], trial
