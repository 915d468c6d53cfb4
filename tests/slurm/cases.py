"""The ways in which a job can be interrupted, and what must come of each."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.slurm.cluster import Cluster
from tests.slurm.live import STEPS, Live, configuration
from tests.slurm.pool import Pool

Interrupt = Callable[[Live], None]
MOMENT = 4  # step at which a run is interrupted, where it does not matter
COMPILED = {"compile": True}
SAVING = {"save_every": 0.4}  # for interruptions that leave no time to save


@dataclass(frozen=True)
class Case:
    """One interruption of one run.

    `kinds` are the words that may say why in events.jsonl; `lost` how many steps may have to be done again (None: as
    many as there were since the last checkpoint); `hold` where the trainer stands still when it happens.
    """

    name: str
    interrupt: Interrupt
    kinds: tuple[str, ...]
    partition: str = "gpu"
    lost: int | None = 1
    hold: str = ""
    waits: bool = True  # until the trainer is held
    actions: tuple[str, ...] = ("requeued",)
    training: dict[str, Any] = field(default_factory=dict)
    launch: dict[str, Any] = field(default_factory=dict)
    cluster: dict[str, Any] = field(default_factory=dict)
    alone: bool = False
    multi_node_only: bool = False


@dataclass(frozen=True)
class Reference:
    """An uninterrupted run's result."""

    rows: list[dict[str, Any]]
    tensors: dict[str, bytes]


@dataclass(frozen=True)
class Setting:
    """Where a case is run."""

    nodes: int = 1
    array: bool = False
    proctrack: str = "cgroup"

    @property
    def name(self) -> str:
        return f"{self.proctrack}-{self.nodes}-{'array' if self.array else 'single'}"


def run_case(case: Case, setting: Setting, pool: Pool, data: Path, reference: Callable[[], Reference]) -> str:
    """Run it; returns how many steps had to be repeated, in words. Raises AssertionError for what is not as it must."""
    folder = pool.root / f"{setting.name}-{case.name.replace(' ', '-').replace('/', '-')}"
    with pool.lease(setting.nodes, case.alone, proctrack=setting.proctrack, **case.cluster) as (cluster, nodes):
        live = submit(case, setting, cluster, nodes, folder, data)
        try:
            if case.hold and case.waits:
                live.wait_until_held()
            else:
                live.wait_for_step(MOMENT)
            if case.lost is None and not case.hold:
                live.wait(lambda: live.run.checkpoints.exists() and any(live.run.checkpoints.glob("step_*")), "a save")
            case.interrupt(live)
            if "cancelled" in case.actions:
                _resume_cancelled(live)
            return check(case, live, reference())
        finally:
            live.abandon()


def submit(case: Case, setting: Setting, cluster: Cluster, nodes: tuple[str, ...], folder: Path, data: Path) -> Live:
    """The case's run, on just these nodes."""
    tags = ["step_seconds=0.15", *([f"hold={case.hold}"] if case.hold else [])]
    launch = {"nodes": setting.nodes, "partition": case.partition, **case.launch}
    if not setting.array:
        launch["sbatch"] = {"nodelist": ",".join(nodes)}
    else:
        launch["exclude"] = ",".join(node for node in cluster.nodes if node not in nodes) or None
    values = configuration(folder, data, launch, tags=tags, **case.training)
    return Live.submit(cluster, nodes, folder, values, setting.array)


def check(case: Case, live: Live, reference: Reference) -> str:
    """Whether the interrupted run ended as the uninterrupted one did."""
    live.wait(lambda: live.events("finished", "held"), "the run's end")
    story = live.story()
    assert not live.events("held"), story
    live.wait_until_empty()
    assert live.exact_rows == reference.rows, f"other numbers than the uninterrupted run's\n{story}"
    assert live.tensors == reference.tensors, f"other weights than the uninterrupted run's\n{story}"
    lost = live.repeated_steps
    assert case.lost is None or lost <= case.lost, f"{lost} steps were lost\n{story}"
    assert live.attempts == 2, f"{live.attempts} attempts\n{story}"
    back = live.events("requeued", "cancelled")
    said = [(row["event"] if row["event"] == "cancelled" else row["action"], row["kind"]) for row in back]
    assert len(said) == 1 and said[0][0] in case.actions and said[0][1] in case.kinds, f"{said}\n{story}"
    rubbish = [*live.run.checkpoints.glob(".[!a]*"), *live.run.checkpoints.glob(".attempt_*/*")]
    assert not rubbish, f"{rubbish}\n{story}"
    return f"{lost} lost" if lost else "ok"


def _resume_cancelled(live: Live) -> None:
    """A cancelled run does not come back by itself; a person can continue it."""
    live.wait(lambda: live.events("cancelled", "requeued", "finished"), "the event")
    assert not live.events("requeued", "finished"), live.story()
    live.wait_until_empty()
    live.resume()


# What is done to a run.


def preempt(live: Live) -> None:
    nodes = ",".join(live.nodes)
    words = [
        "-p",
        "priority",
        "-w",
        nodes,
        "-N",
        len(live.nodes),
        "--exclusive",
        "-o",
        "/dev/null",
        "--wrap",
        "sleep 1",
    ]
    live.cluster.call("sbatch", *words)


def time_limit(live: Live) -> None:
    _end_in(live, 60)


def short_time_limit(live: Live) -> None:
    _end_in(live, 1)


def _end_in(live: Live, seconds: int) -> None:
    """Slurm rounds the new limit to minutes, so it is put back for the next attempt."""
    live.cluster.call("scontrol", "update", f"jobid={live.job_id}", f"EndTime=now+{seconds}")
    live.wait(lambda: live.ended(1), "the end of the attempt")
    live.cluster.call("scontrol", "update", f"jobid={live.job_id}", "TimeLimit=10", check=False)


def requeue(live: Live) -> None:
    live.cluster.call("scontrol", "requeue", live.job_id)


def cancel(live: Live) -> None:
    live.cluster.call("scancel", live.job_id)


def send(name: str, then: float = 1.0) -> Interrupt:
    """`scancel --signal`; a held run is let go `then` seconds later."""

    def interrupt(live: Live) -> None:
        live.cluster.call("scancel", f"--signal={name}", live.job_id)
        time.sleep(then if list(live.run.path.glob("held_*")) else 0)
        (live.run.path / "go").touch()

    return interrupt


def signal_twice(live: Live) -> None:
    """The second one comes while the first one's checkpoint is being written."""
    live.cluster.call("scancel", "--signal=USR2", live.job_id)
    live.wait_until_held()
    send("USR2")(live)


def kill_worker(live: Live) -> None:
    os.kill(live.rank(len(live.nodes) - 1), signal.SIGKILL)


def kill_torchrun(live: Live) -> None:
    worker = live.rank(len(live.nodes) - 1)
    os.kill(int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)


def kill_step(live: Live) -> None:
    live.cluster.call("scancel", "--signal=KILL", f"{live.job_id}.0")


def stand_still(live: Live) -> None:
    """Nothing need be done: a rank that is held makes no steps."""


def first_node_off(live: Live) -> None:
    _power_cycle(live, live.nodes[0])


def last_node_off(live: Live) -> None:
    _power_cycle(live, live.nodes[-1])


def _power_cycle(live: Live, node: str) -> None:
    live.cluster.node_off(node)
    live.wait(lambda: live.show().get("JobState") in ("PENDING", "COMPLETING"), "Slurm to notice")
    if node != live.nodes[0]:  # else nobody is left to say anything
        live.wait(lambda: live.ended(1), "the end of the attempt")
    live.cluster.node_on(node)


def controller_down(live: Live) -> None:
    """The request for the queue comes while nobody answers."""
    live.cluster.controller_stop()
    for pid in live.tasks():
        os.kill(pid, signal.SIGUSR2)
    live.wait(lambda: (live.run.attempt(1) / "rank_0.json").exists(), "the checkpoint")
    time.sleep(3.0)
    live.cluster.controller_start()


# Without accounting, nobody can know why a try ended that left no word; what is left of it was ended by Slurm.
LOST = ("node_failure", "lost", "requeued")
USER_SIGNAL = {"preempt_user_signal": True}
CASES = (
    Case("preempted, grace", preempt, ("preempted",), "preempt"),
    Case("preempted, no grace", preempt, ("requeued", "preempted"), "nograce"),
    Case("preempted, user signal", preempt, ("preempted",), "preempt", cluster=USER_SIGNAL),
    Case("preempted, user signal, no grace", preempt, ("requeued", "preempted"), "nograce", cluster=USER_SIGNAL),
    Case("preempted, CANCEL", preempt, ("preempted",), "cancel"),
    Case("preempted, CANCEL, no grace", preempt, ("preempted",), "cancelnow"),
    Case("time limit", time_limit, ("time_limit",), launch={"warning": 100}),
    Case("time limit, no warning", short_time_limit, ("time_limit",), launch={"warning": 31}),
    Case("scontrol requeue", requeue, ("requeued",)),
    Case("scancel --signal=USR2", send("USR2"), ("signal",)),
    Case("scancel --signal=TERM", send("TERM"), ("signal",)),
    Case("scancel", cancel, ("cancelled",), actions=("cancelled",)),
    Case("at start-up", send("USR2"), ("signal",), hold="start"),
    Case("at compilation", send("TERM"), ("signal",), hold="compilation", training=COMPILED),
    Case("in validation", send("USR2"), ("signal",), hold="validation"),
    Case("in a checkpoint", send("TERM"), ("signal",), hold="checkpoint", training=SAVING),
    Case("a second signal", signal_twice, ("signal",), hold="checkpoint", waits=False),
    Case("SIGKILL of a worker", kill_worker, ("killed",), lost=None, training=SAVING),
    Case("SIGKILL of torchrun", kill_torchrun, ("killed",), lost=None, training=SAVING),
    Case("SIGKILL of the step", kill_step, ("killed",), lost=None, training=SAVING),
    Case("SIGKILL in a checkpoint", kill_step, ("killed",), lost=None, hold="checkpoint", training=SAVING),
    Case("hang", stand_still, ("hang",), lost=None, hold="checkpoint", training=SAVING | {"hang_timeout": 90}),
    Case("first node off", first_node_off, LOST, lost=None, training=SAVING),
    Case("last node off", last_node_off, ("node_failure",), lost=None, training=SAVING, multi_node_only=True),
    Case("slurmctld down", controller_down, ("signal",), alone=True),
)


def reference_run(nodes: int, compiled: bool, pool: Pool, data: Path, proctrack: str) -> Reference:
    """A run of so many nodes that nothing interrupts."""
    case = Case("uninterrupted", lambda live: None, (), training=COMPILED if compiled else {})
    folder = pool.root / f"reference-{nodes}-{'compiled' if compiled else 'eager'}"
    with pool.lease(nodes, proctrack=proctrack) as (cluster, names):
        live = submit(case, Setting(nodes, proctrack=proctrack), cluster, names, folder, data)
        live.wait(lambda: live.events("finished", "held"), "the run's end")
        live.wait_until_empty()
        assert live.repeated_steps == 0 and live.attempts == 1, live.story()
        assert live.steps_done == STEPS and live.tensors, live.story()
        return Reference(live.exact_rows, live.tensors)
