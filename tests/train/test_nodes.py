"""More than one node: two torchrun agents that find each other through c10d, as on a cluster."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.train.conftest import NewTrial, Trial
from tests.train.test_resume import pid_of, wait_for_step

LONG = [
    "training.train_steps=80",
    "training.log_interval=7",
    "training.val_interval=50",
    "training.micro_batch_size=2",
    "model.dropout_p=0.2",
]
THREADS = {"a": "1", "b": "2"}  # the nodes have different numbers of cores

Agents = dict[str, subprocess.Popen[str]]
StartAgents = Callable[..., Agents]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def start() -> Iterator[StartAgents]:
    """`start(trial, "ab")`: an agent for each letter, in this order, of `processes` ranks each."""
    started: list[subprocess.Popen[str]] = []

    def agents(trial: Trial, order: str = "ab", processes: int = 1) -> Agents:
        endpoint = f"127.0.0.1:{free_port()}"
        options = [f"--nnodes={len(order)}", f"--nproc-per-node={processes}", "--rdzv-backend=c10d"]
        options += [f"--rdzv-endpoint={endpoint}", f"--rdzv-id={trial.run.path.name}", "--local-addr=127.0.0.1"]
        command = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "tmrc.train", str(trial.run.path)]
        number = str(len(list(trial.run.path.glob("attempts/*"))) + 1)
        found: Agents = {}
        for name in order:
            environment = {**os.environ, "OMP_NUM_THREADS": THREADS[name], "TMRC_ATTEMPT": number}
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            found[name] = subprocess.Popen(command, env=environment, text=True, **pipes)  # type: ignore[call-overload]
            started.append(found[name])
        return found

    yield agents
    for process in started:
        process.kill()  # its ranks stop with it
        process.communicate()


def finish(agents: Agents) -> str:
    errors = [agent.communicate(timeout=180)[1] for agent in agents.values()]
    assert [agent.returncode for agent in agents.values()] == [0] * len(agents), errors
    return "".join(errors)


def node_of(trial: Trial, attempt: int, rank: int, agents: Agents) -> str:
    """The agent under which a rank runs."""
    parent = int(Path(f"/proc/{pid_of(trial, attempt, rank)}/stat").read_text().rpartition(")")[2].split()[1])
    return next(name for name, agent in agents.items() if agent.pid == parent)


def test_two_nodes_stop_together_and_go_on_the_same_whichever_is_first(new_trial: NewTrial, start: StartAgents) -> None:
    whole, cut = new_trial(*LONG), new_trial(*LONG)
    finish(start(whole, processes=2))
    agents = start(cut, processes=2)
    wait_for_step(cut, 20)
    leaders = [node_of(cut, 1, 0, agents)]
    os.kill(pid_of(cut, 1, 3), signal.SIGUSR2)
    finish(agents)
    said = [json.loads((cut.run.attempt(1) / f"rank_{rank}.json").read_text()) for rank in range(4)]
    assert [(one["exit_code"], one["step"]) for one in said] == [(75, cut.saved_steps()[-1])] * 4
    agents = start(cut, "ba", processes=2)
    wait_for_step(cut, said[0]["step"] + 7)
    leaders.append(node_of(cut, 2, 0, agents))
    assert "sums may round differently" not in finish(agents)
    assert leaders == ["a", "b"]
    assert cut.events("resumed")[0]["world_size"] == 4
    assert cut.events("resumed")[0]["threads"] == 1
    assert cut.exact_rows == whole.exact_rows
    assert cut.tensor_files() == whole.tensor_files()


def test_one_node_of_two_ranks_and_two_nodes_of_one_learn_the_same(new_trial: NewTrial, start: StartAgents) -> None:
    one, two = new_trial(*LONG, "training.train_steps=20"), new_trial(*LONG, "training.train_steps=20")
    finish(start(one, "a", processes=2))
    finish(start(two, "ab", processes=1))
    assert one.exact_rows == two.exact_rows
    assert one.tensor_files() == two.tensor_files()
