"""The same on a real Slurm: no text becomes a command or an option of a job, and no secret stands in its files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.calls import CANARY, QUICK, ROOT
from tests.faults.test_canary import CANARIES, WORDS, forget_environments, found
from tests.launch.helpers import call, events, wait_for, write_config
from tests.slurm.cluster import Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.campaign]
COMMENT = "a & b | c * [x] (y)"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="tmrc-hostile-") as folder:
        one = Cluster(Path(folder) / "cluster", nodes=1).up()
        try:
            yield one
        finally:
            one.down()


def test_jobs(cluster: Cluster, tmp_path: Path) -> None:
    launch = {"gpus_per_node": 0, "cpus_per_task": 1, "mem": "1G", "time": "10", "sbatch": {"comment": COMMENT}}
    config = write_config(tmp_path, launch=launch, training={"train_steps": 4})
    secrets = {name: value for name, value in CANARIES.items() if name != "SLURM_JWT"}  # Slurm would use it
    environment = {**cluster.env, **secrets, "LOGNAME": QUICK["shell"], "USER_TEXT": QUICK["directive"]}
    before = cluster.call("squeue", "-h", "-a", "-o", "%i")
    for option in ("--partition", "--account", "--qos", "--constraint", "--exclude", "--mem", "--time", "--name"):
        for label in ("directive", "shell", "terminal", "option"):
            done = call(f"{option}={QUICK[label]}", config, env=environment)
            assert done.code == 2 and len(done.err.splitlines()) == 1, (option, label, done)
    assert cluster.call("squeue", "-h", "-a", "-o", "%i") == before
    done = call("--json", config, env=environment)
    assert done.code == 0, done.err
    run = Path(done.json["run_dir"])
    wait_for((run / "attempts/1/job.json").exists, "the end of the job", 120)
    shown = cluster.call("scontrol", "show", "job", done.json["job_id"])
    script = cluster.call("scontrol", "write", "batch_script", done.json["job_id"], "-")
    assert f"Comment={COMMENT}" in shown and events(run, "finished")
    forget_environments(tmp_path)
    (tmp_path / "said").write_text(done.out + done.err + shown + script)
    assert found(tmp_path) == [] and len(WORDS) == len(CANARIES)
    assert not any((folder / CANARY).exists() for folder in (ROOT, tmp_path, Path.home(), run))
