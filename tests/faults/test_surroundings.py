"""Ports that are taken, names that nobody knows, no network, and a clock that is set under running processes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.rendezvous import Rendezvous, choose_port, port_was_taken
from launch.verdict import why_silent
from tests.launch.helpers import REAL, ROOT, Started, call, events, write_config
from tests.launch.test_status import tmrc
from tests.train.conftest import NewTrial, Trial

# Makes time.time() of a Python process follow a file that says how many seconds the clock is ahead. libfaketime would
# do for all of a process, but breaks clock_nanosleep when the clock is set (EINVAL), and with it time.sleep().
SET_CLOCK = """
import pathlib, time
true = time.time

def told():
    try:
        return true() + float(pathlib.Path({file!r}).read_text())
    except (OSError, ValueError):
        return true()

time.time = told
"""


@contextlib.contextmanager
def listening() -> Iterator[int]:
    """A port that another program has."""
    with socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET) as server:
        server.bind(("", 0))
        server.listen()
        yield int(server.getsockname()[1])


def agents(trial: Trial, meeting: Rendezvous, seconds: float) -> list[tuple[int, str]]:
    """(exit code, what it printed) of the torchrun of each node."""
    started = []
    for node in range(meeting.nodes):
        options = [*meeting.options(node), "--local-addr=127.0.0.1", "--nproc-per-node=1"]
        command = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "tmrc.train", str(trial.run.path)]
        environment = {**os.environ, "TMRC_ATTEMPT": "1", "OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        started.append(subprocess.Popen(command, env=environment, text=True, **pipes))  # type: ignore[call-overload]
    ended = []
    until = time.monotonic() + seconds
    for one in started:
        with contextlib.suppress(subprocess.TimeoutExpired):
            one.wait(max(0.1, until - time.monotonic()))
        code = one.poll()
        one.kill()
        ended.append((code if code is not None else -99, one.communicate()[0]))
    return ended


def test_a_port_that_is_taken_is_the_first_nodes_one_line(new_trial: NewTrial) -> None:
    """The first node serves, and fails at once; the launcher then tries another port."""
    with listening() as port:
        assert choose_port(port - 20_000) != port
        ((code, log),) = agents(new_trial(), Rendezvous("127.0.0.1", port, 1, "key"), 60.0)
    assert code > 0 and port_was_taken(log)
    assert why_silent(code, log, out_of_memory=False) == ("the rendezvous port is taken", "port")


@pytest.mark.campaign
def test_a_host_whose_name_nobody_knows_is_one_line(new_trial: NewTrial) -> None:
    ((code, log),) = agents(new_trial(), Rendezvous("no-such-host.invalid", 20_123, 1, "key"), 200.0)
    assert code > 0
    cause, kind = why_silent(code, log, out_of_memory=False)
    assert "no-such-host.invalid" in cause and "\n" not in cause and kind in ("code_error", "network"), cause


def alone(*command: str) -> list[str]:
    """The command where there is no network but a loopback, and where the host's name cannot be resolved."""
    script = 'ip link set lo up && hostname nobody-knows-me && exec "$@"'
    return ["unshare", "--net", "--uts", "sh", "-c", script, "sh", *command]


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("ip"), reason="needs root")
@pytest.mark.campaign
def test_two_processes_train_without_any_network_and_without_a_name(tmp_path: Path) -> None:
    if subprocess.run(alone("true"), capture_output=True).returncode != 0:
        pytest.skip("namespaces cannot be made here")
    config = write_config(tmp_path, launch={"processes_per_node": 2})
    command = [sys.executable, "-m", REAL, "--local", "--json", str(config)]
    done = subprocess.run(alone(*command), capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    with_network = call("--local", "--json", config, module=REAL)
    assert json.loads(done.stdout)["loss"] == with_network.json["loss"]


@pytest.mark.campaign
def test_the_clock_of_all_processes_is_set_while_they_run(tmp_path: Path) -> None:
    """Every process of a run, torchrun too, sees the wall clock leap ahead by six hours and back by nine."""
    training = {"train_steps": 300, "epochs": 99, "log_interval": 5, "val_interval": 50, "val_batches": 1}
    config = write_config(tmp_path, training={**training, "save_every": 0.5}, launch={"processes_per_node": 2})
    whole = call("--local", "--json", config, module=REAL)
    assert whole.code == 0, whole.err
    stamp, patch = tmp_path / "clock", tmp_path / "patch"
    patch.mkdir()
    (patch / "sitecustomize.py").write_text(SET_CLOCK.format(file=str(stamp)))
    undisturbed = (tmp_path / "artifacts").rename(tmp_path / "before") / Path(whole.json["run_dir"]).name
    started = Started(config, module=REAL, PYTHONPATH=str(patch))
    for rows, hours in ((1, 6), (15, -9), (30, 30), (45, 0)):
        started.wait_for_step(rows)
        stamp.write_text(str(3600 * hours))
    done = started.end()
    assert done.code == 0, done.err
    run = started.run_dir
    losses = [
        [(row["step"], row.get("loss"), row.get("val_loss")) for row in map(json.loads, file.read_text().splitlines())]
        for file in (run / "metrics.jsonl", undisturbed / "metrics.jsonl")
    ]
    assert losses[0] == losses[1]
    assert [row["event"] for row in events(run) if row["event"] != "checkpoint"][-2:] == ["finished", "goodput"]
    times = [row["time"] for row in events(run)]
    assert max(times) - min(times) > 3600, "the clock was not set while it ran"
    spent = tmrc("status", run, "--json").json["goodput"]["seconds"]
    assert all(seconds >= 0 for seconds in spent.values()) and spent["step"] < 600
