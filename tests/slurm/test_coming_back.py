"""Each kind of interruption once: the run comes back by itself and ends as if nothing had been, bit for bit.

Relatives of others are left to `make drill`; `make slurm-matrix` runs every kind in every setting.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from tests.slurm.batch import Batch, Job
from tests.slurm.cases import CASES, Setting
from tests.slurm.live import Live, configuration, write_data
from tests.slurm.pool import Pool
from tests.slurm.settings import cgroup_version

CGROUP = "cgroup" if cgroup_version() else "linuxproc"
# Where an interruption is not tried on one node, as a job of its own, with cgroups
SETTINGS = {
    "preempted, grace": Setting(2, proctrack=CGROUP),
    "preempted, no grace": Setting(array=True, proctrack="pgid"),
    "preempted, CANCEL": Setting(array=True, proctrack=CGROUP),
    "time limit": Setting(2, array=True, proctrack="linuxproc"),
    "scontrol requeue": Setting(array=True, proctrack="linuxproc"),
    "scancel --signal=TERM": Setting(2, proctrack="linuxproc"),
    "scancel": Setting(array=True, proctrack=CGROUP),
    "at start-up": Setting(proctrack="linuxproc"),
    "in a checkpoint": Setting(2, proctrack="pgid"),
    "a second signal": Setting(proctrack="pgid"),
    "SIGKILL of a worker": Setting(2, proctrack="pgid"),
    "SIGKILL of torchrun": Setting(proctrack="pgid"),
    "SIGKILL of the step": Setting(proctrack="pgid"),
    "SIGKILL in a checkpoint": Setting(2, proctrack="pgid"),
    "last node off": Setting(2, proctrack=CGROUP),
    "slurmctld down": Setting(array=True, proctrack=CGROUP),
}
# What takes the way of another kind, or long
RELATIVES = {
    "preempted, user signal", "preempted, user signal, no grace", "preempted, CANCEL, no grace",
    "time limit, no warning", "at compilation", "in validation", "a second signal", "SIGKILL in a checkpoint",
    "first node off", "slurmctld down",
}  # fmt: skip
JOBS = {case.name: Job(case, SETTINGS.get(case.name, Setting(proctrack=CGROUP))) for case in CASES}


@pytest.fixture(scope="module")
def batch(pool: Pool, slurm_data: Path) -> Iterator[Batch]:
    """Works on cases in the background."""
    batch = Batch(pool, slurm_data)
    yield batch
    batch.close()


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest, batch: Batch) -> dict[Job, Future[str]]:
    """All cases that this session has chosen, started at the same time."""
    chosen = {item.callspec.params.get("name") for item in request.session.items if hasattr(item, "callspec")}
    return batch.start(job for name, job in JOBS.items() if name in chosen)


@pytest.mark.usefixtures("results")  # which are worked on meanwhile
def test_error_in_the_data_is_not_tried_again(pool: Pool) -> None:
    data = write_data(pool.root / "bad-data", beyond=True)
    with pool.lease(1, proctrack=CGROUP) as (cluster, nodes):
        values = configuration(pool.root / "bad", data, {"sbatch": {"nodelist": nodes[0]}})
        live = Live.submit(cluster, nodes, pool.root / "bad", values, array=False)
        live.wait(lambda: live.ended(1), "the end of the attempt")
        live.wait_until_empty()
    ended = live.ended(1) or {}
    assert (ended["exit_code"], ended["kind"], ended["action"]) == (2, "data", "none"), live.story()
    assert [row["kind"] for row in live.events("failed", "requeued", "held")] == ["data"]
    assert live.log.rstrip().splitlines()[-1].startswith("tmrc: failed (exit code 2)")


@pytest.mark.campaign
@pytest.mark.usefixtures("results")
def test_three_crashes_without_progress_are_held(pool: Pool) -> None:
    with pool.lease(1, proctrack="linuxproc") as (cluster, nodes):
        folder = pool.root / "crashes"
        values = configuration(
            folder, pool.root / "data", {"sbatch": {"nodelist": nodes[0]}}, tags=["crash=2"], val_interval=0
        )
        live = Live.submit(cluster, nodes, folder, values, array=False)
        live.wait(lambda: live.events("held"), "the run to be held", 240.0)
        live.wait_until_empty()
    assert live.attempts == 3
    assert [row["kind"] for row in live.events("requeued", "held")] == ["code_error"] * 3
    assert "a crash that was asked for" in live.events("held")[0]["cause"]
    assert "held" in live.log.rstrip().splitlines()[-1]


@pytest.mark.usefixtures("results")
@pytest.mark.skipif(CGROUP != "cgroup", reason="nothing limits a job's memory here")
def test_job_that_takes_too_much_memory_is_told_apart(pool: Pool) -> None:
    with pool.lease(1, proctrack=CGROUP) as (cluster, nodes):
        folder = pool.root / "memory"
        launch = {"sbatch": {"nodelist": nodes[0]}, "mem": "900M"}
        values = configuration(folder, pool.root / "data", launch, tags=["eat=2"])
        live = Live.submit(cluster, nodes, folder, values, array=False)
        live.wait(lambda: live.ended(1), "the end of the attempt")
        live.abandon()
        live.wait_until_empty()
    ended = live.ended(1) or {}
    assert (ended["kind"], ended["action"]) == ("out_of_memory", "requeued"), live.story()


@pytest.mark.campaign
def test_processes_of_a_lost_node_that_come_back_change_nothing(
    pool: Pool, batch: Batch, slurm_data: Path, results: dict[Job, Future[str]]
) -> None:
    with pool.lease(2, proctrack="linuxproc") as (cluster, nodes):
        others = ",".join(node for node in cluster.nodes if node not in nodes)
        folder = pool.root / "lost"
        values = configuration(folder, slurm_data, {"exclude": others}, save_every=0.4, tags=["step_seconds=0.2"])
        live = Live.submit(cluster, nodes, folder, values, array=False)
        live.wait_for_step(6)
        lost = live.show()["NodeList"]
        cluster.node_freeze(lost)
        live.wait(lambda: live.events("finished"), "the end of the run on the other node")
        rows, tensors, events = live.exact_rows, live.tensors, live.events("finished", "checkpoint")
        cluster.node_thaw(lost)
        live.wait_until_empty()
        assert (live.exact_rows, live.tensors) == (rows, tensors), live.story()
        assert live.events("finished", "checkpoint") == events, live.story()
    if JOBS["scancel --signal=USR2"] in results:
        assert (rows, tensors) == (batch.reference(1).rows, batch.reference(1).tensors)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.campaign] if name in RELATIVES else []) for name in JOBS]
)
def test_interrupted_run_ends_as_an_uninterrupted_one(name: str, results: dict[Job, Future[str]]) -> None:
    assert results[JOBS[name]].result()
