from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from launch import queue as module
from launch.queue import AccountRow, QueueRow, QueueUnknown, accounting, queue
from launch.words import how_ended, why_waiting
from tests.launch.fake_queue import FakeSlurm


def test_one_call_for_many_jobs(slurm: FakeSlurm) -> None:
    slurm.queue("7|RUNNING|node[1-2]|1795358970|1-02:03:04|None", "8|PENDING||N/A|UNLIMITED|Priority")
    found = queue(["7", "8", "9"])
    assert found == {
        "7": QueueRow("RUNNING", "", "node[1-2]", 1795358970.0, 93784),
        "8": QueueRow("PENDING", "Priority"),
    }
    assert len(slurm.calls) == 1 and slurm.calls[0].endswith("-j 7,8,9")


def test_nothing_is_asked_about_nothing(slurm: FakeSlurm) -> None:
    assert queue([]) == {} and accounting([]) == {} and queue(["no job", "1;2", "--me"]) == {}
    assert slurm.calls == []


@pytest.mark.parametrize(
    ("listed", "inside", "outside"),
    [
        ("[0-9]", ["12_0", "12_9"], ["12_10", "1_3", "12"]),
        ("[2,5-9%4]", ["12_2", "12_7"], ["12_3", "12_4"]),
        ("[1-9:4]", ["12_1", "12_5", "12_9"], ["12_2", "12_4"]),
        ("[0-3,40...]", ["12_3", "12_900"], []),
        ("[0-3,40,...]", ["12_3", "12_41"], []),
    ],
)
def test_waiting_arrays(slurm: FakeSlurm, listed: str, inside: list[str], outside: list[str]) -> None:
    slurm.queue(f"12_{listed}|PENDING||N/A|1:00:00|Resources", "12_4|RUNNING|n|1|1:00|None")
    found = queue([*inside, *outside])
    assert {job for job in found if found[job].state == "PENDING"} == set(inside)


def test_a_task_is_asked_for_by_its_array(slurm: FakeSlurm) -> None:
    slurm.queue("12_4|RUNNING|n1|1|59:57|None", "12_5|COMPLETING|n1|1|0:00|None")
    assert queue(["12_4"]) == {"12_4": QueueRow("RUNNING", "", "n1", 1.0, 3597)}
    assert slurm.calls[-1].endswith("-j 12")


def test_the_users_own_settings_hide_no_job(slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SQUEUE_PARTITION", "SQUEUE_FORMAT", "SQUEUE_STATES", "SACCT_FORMAT"):
        monkeypatch.setenv(name, "x")
    queue(["7"])
    assert (slurm.folder / "leaked").read_text() == ""


def test_a_job_that_slurm_has_forgotten_is_no_error(slurm: FakeSlurm) -> None:
    slurm.fails("squeue", "slurm_load_jobs error: Invalid job id specified")
    assert queue(["7"]) == {}


def test_a_controller_that_is_down_is_said(slurm: FakeSlurm) -> None:
    slurm.fails("squeue", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    with pytest.raises(QueueUnknown, match="Unable to contact slurm controller"):
        queue(["7"])


def test_no_squeue_and_one_that_hangs_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(QueueUnknown, match="no squeue on PATH"):
        queue(["7"])
    assert accounting(["7"]) == {}
    (tmp_path / "squeue").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    with pytest.raises(QueueUnknown, match="does not answer"):
        queue(["7"])


@pytest.mark.parametrize("line", ["", "|", "||||||||", "CLUSTER: lab", "7", "7|RUNNING", "x|y|z|a|b|c|d|e", "\x00|1"])
def test_odd_lines_are_passed_over(slurm: FakeSlurm, line: str) -> None:
    slurm.queue(line, "7|RUNNING|n1|2026-11-22T14:49:30|bad|with spaces | and bars", line)
    (row,) = queue(["7"]).values()
    assert row.state == "RUNNING" and row.reason == "with spaces | and bars" and row.time_left is None
    assert row.start == time.mktime((2026, 11, 22, 14, 49, 30, 0, 0, -1))


def test_accounts(slurm: FakeSlurm) -> None:
    slurm.accounts(
        "7|TIMEOUT|0:0|node1|1795358973", "8|CANCELLED by 0|0:0|None assigned|Unknown", "9|FAILED|3:0|n|1",
        "12_4|OUT_OF_MEMORY|0:125|n|1", "12_[5-6]|PENDING|0:0||", "odd", "77|FAILED|0:0|n|1",
    )  # fmt: skip
    found = accounting(["7", "8", "9", "12_4", "12_5"])
    assert found["7"] == AccountRow("TIMEOUT", None, 0, 0, "node1", 1795358973.0)
    assert found["8"] == AccountRow("CANCELLED", "root")
    assert found["9"].exit_code == 3 and found["12_4"].signal == 125
    assert set(found) == {"7", "8", "9", "12_4"}


def test_where_nobody_keeps_accounts_nothing_is_said(slurm: FakeSlurm, capfd: pytest.CaptureFixture[str]) -> None:
    slurm.fails("sacct", "Slurm accounting storage is disabled")
    assert accounting(["7"]) == {}
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Priority", "behind jobs of higher priority"),
        ("Resources", "next in line"),
        ("QOSMaxGRESPerUser", "a limit of its QOS is reached (QOSMaxGRESPerUser)"),
        ("AssocGrpGRES", "a limit of its account or user is reached (AssocGrpGRES)"),
        ("ReqNodeNotAvail,_UnavailableNodes:n[1-3]", "drained or reserved, for maintenance or for jobs in"),
        (
            "Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved_for_jobs_in_higher_priority_partitions",
            "in use by or reserved for jobs in partitions of higher priority, or down or drained",
        ),
        ("launch_failed_requeued_held", "scontrol release"),
        ("SomethingNew", "SomethingNew"),
        ("", "not looked at yet"),
    ],
)
def test_why_a_job_waits_in_plain_words(reason: str, words: str) -> None:
    assert words in why_waiting(QueueRow("PENDING", reason))
    soon = why_waiting(QueueRow("PENDING", reason, start=time.time() + 3600))
    assert words in soon and soon.startswith("starts about ")


def test_a_time_that_is_near_is_told_to_the_second() -> None:
    def waits(reason: str, seconds: float) -> str:
        return why_waiting(QueueRow("PENDING", reason, start=time.time() + seconds))

    assert re.fullmatch(r"not before (\w+ \d+ )?\d\d:\d\d:\d\d", waits("BeginTime", 20))
    assert re.match(r"starts about (\w+ \d+ )?\d\d:\d\d:\d\d; ", waits("Priority", 20))
    assert re.fullmatch(r"not before (\w+ \d+ )?\d\d:\d\d", waits("BeginTime", 7200))
    assert waits("BeginTime", -5) == "its begin time has come; Slurm looks at it again soon"


@pytest.mark.parametrize(
    ("account", "words"),
    [
        (AccountRow("TIMEOUT"), "ran into its time limit (TIMEOUT)"),
        (AccountRow("CANCELLED", "anna"), "was cancelled by anna with scancel"),
        (AccountRow("FAILED", None, 3), "exit code 3"),
        (AccountRow("FAILED", None, 0, 9), "signal 9"),
        (AccountRow("NEW_WORD"), "has ended (NEW_WORD)"),
        (AccountRow("RUNNING"), "has left no word"),
        (None, "has left no word"),
    ],
)
def test_how_a_job_ended(account: AccountRow | None, words: str) -> None:
    assert words in how_ended("7", None, account)
