from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launch import follow as follower
from launch.follow import Reader
from launch.logs import Segment, beginning, chosen, segments
from tests.launch.fake_queue import FakeSlurm, HandMade
from tests.launch.helpers import Done, Started, call, tags, write_config
from tmrc.config.rundir import RunDir

ROOT = Path(__file__).parents[2]


def logs(run: HandMade, *arguments: object) -> Done:
    return call("logs", run.path, *arguments, module="launch.cli.main")


@pytest.fixture
def run(tmp_path: Path) -> HandMade:
    """Attempts 1 and 2 of job 7, which was requeued, and attempt 3 of job 8."""
    made = HandMade(tmp_path / "artifacts").submitted("7")
    first, second = made.path / "submitit/7_0_log.out", made.path / "submitit/8_0_log.out"
    before = "modules loaded\none\ntwo\n"
    first.write_text(before + "three\nfour\n")
    (made.path / "submitit/7_1_log.out").write_text("other node\n")
    second.write_text("five\nsix")
    both = [str(first), str(made.path / "submitit/7_1_log.out")]
    made.began(1, "7", logs=both, log_offset=len("modules loaded\n")).ended(1, "stopped", action="requeued")
    made.began(2, "7", logs=both, log_offset=len(before)).ended(2, "stopped", action="requeued")
    return made.submitted("8").began(3, "8", logs=[str(second)]).ended(3)


def test_all_attempts_in_order_each_under_its_heading(run: HandMade) -> None:
    done = logs(run)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    headings = [line for line in lines if line.startswith("==> ")]
    assert [line.split(",")[:2] for line in headings] == [
        ["==> attempt 1", " job 7"], ["==> attempt 2", " job 7"], ["==> attempt 3", " job 8"],
    ]  # fmt: skip
    assert "on node1,node2" in headings[0]
    printed = [line for line in lines if line and not line.startswith("==> ")]
    assert printed == ["modules loaded", "one", "two", "three", "four", "five", "six"]
    assert done.out.endswith("six")  # a pipe gets every byte and no other


@pytest.mark.parametrize(
    ("lines", "printed"),
    [
        (0, []), (1, ["six"]), (2, ["five", "six"]), (3, ["four", "five", "six"]),
        (5, ["two", "three", "four", "five", "six"]),
        (99, ["modules loaded", "one", "two", "three", "four", "five", "six"]),
    ],
)  # fmt: skip
def test_the_last_lines(run: HandMade, lines: int, printed: list[str]) -> None:
    shown = [line for line in logs(run, "-n", lines).out.splitlines() if line and not line.startswith("==> ")]
    assert shown == printed


def test_one_attempt_and_another_node(run: HandMade) -> None:
    assert logs(run, "--attempt", 2).out.splitlines()[1:] == ["three", "four"]
    assert logs(run, "--node", 1).out.splitlines()[1:] == ["other node"]
    for wrong in (["--attempt", 4], ["--attempt", 0], ["--node", 2], ["--node", -1]):
        done = logs(run, *wrong)
        assert done.code == 2 and "valid: " in done.err and len(done.err.splitlines()) == 1


def test_a_job_whose_set_up_failed_has_its_log_shown_where_it_belongs(run: HandMade) -> None:
    early = run.path / "submitit/5_0_log.out"
    early.write_text("module: command not found\n")
    os.utime(early, (1, 1))
    (run.path / "submitit/9_0_log.out").write_text("late\n")
    headings = [part.heading.split(",")[0] for part in segments(RunDir(run.path))]
    assert headings == ["5_0_log.out", "attempt 1", "attempt 2", "attempt 3", "9_0_log.out"]


def test_a_sweeps_task_has_its_log_beside_the_runs(tmp_path: Path) -> None:
    run = HandMade(tmp_path / "sweep").submitted("12_3")
    beside = tmp_path / "sweep/submissions/1/submitit"
    beside.mkdir(parents=True)
    (beside / "12_3_0_log.out").write_text("mine\n")
    (beside / "12_4_0_log.out").write_text("another's\n")
    assert logs(run).out.splitlines()[1:] == ["mine"]


def test_logs_that_are_gone_and_runs_that_have_none(run: HandMade, tmp_path: Path) -> None:
    (run.path / "submitit/7_0_log.out").unlink()
    assert logs(run).out.splitlines()[1:] == ["five", "six"]
    done = logs(HandMade(tmp_path, "new").submitted("7"))
    assert done.code == 0 and done.out == "" and "nothing has been logged yet" in done.err


def test_large_logs_are_read_from_their_end(tmp_path: Path) -> None:
    run = HandMade(tmp_path).began(1, "7")
    (run.path / "submitit/7_0_log.out").write_text("".join(f"line {n}\n" for n in range(100_000)))
    (part,) = segments(RunDir(run.path))
    first, position = beginning([part], 30_000)
    assert first == 0 and part.read(position).startswith(b"line 70000\n")


def test_a_terminal_gets_no_control_characters(tmp_path: Path) -> None:
    run = HandMade(tmp_path).began(1, "7")
    (run.path / "submitit/7_0_log.out").write_bytes(b"\x1b[31mred\x1b[0m \x1b]0;title\x07 10%\r20%\n\xff\x9b2J ok")
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "launch.cli.main", "logs", str(run.path)]
    process = subprocess.Popen(command, stdout=slave, cwd=ROOT)
    os.close(slave)
    shown = b""
    while True:
        try:
            shown += os.read(master, 65536)
        except OSError:
            break
    assert process.wait(10) == 0
    assert b"\x1b" not in shown and b"\x07" not in shown and b"red ^[]0;title^G 10%\r\n20%\r\n" in shown
    assert shown.endswith(b"ok\r\n")
    assert b"\x1b[31mred" in subprocess.run(command, capture_output=True, cwd=ROOT, check=True).stdout


def follow(run: Path, *arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "launch.cli.main", "logs", "-f", str(run), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, **(env or {})})


def test_following_goes_on_from_attempt_to_attempt_until_the_run_is_over(tmp_path: Path) -> None:
    slurm = FakeSlurm(tmp_path / "bin")
    slurm.queue("7|RUNNING|n|1|1:00|None")
    run = HandMade(tmp_path / "artifacts").submitted("7")
    log = run.path / "submitit/7_0_log.out"
    log.write_text("one\n")
    run.began(1, "7", logs=[str(log)])
    process = follow(run.path, env=slurm.env)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)][1] == "one\n"
    with log.open("a") as file:
        file.write("two\n")
    assert process.stdout.readline() == "two\n"
    run.ended(1, "stopped", action="requeued").event("requeued", attempt=1, action="requeued", job_id="7")
    with log.open("a") as file:  # the next attempt's set-up lines come before it says that it has begun
        file.write("three\n")
    assert process.stdout.readline() == "three\n"
    run.began(2, "7", logs=[str(log)], log_offset=len("one\ntwo\n"))
    with log.open("a") as file:
        file.write("four\n")
    assert [process.stdout.readline() for _ in range(3)][1].startswith("==> attempt 2, job 7")
    run.ended(2)
    with log.open("a") as file:
        file.write("last words\n")
    assert process.stdout.read() == "last words\n"
    assert process.wait(10) == 0


def test_following_ends_at_ctrl_c_and_for_a_run_that_is_over(tmp_path: Path, run: HandMade) -> None:
    process = follow(run.path, "-n", "1")
    assert process.stdout is not None and process.stdout.read().endswith("six") and process.wait(10) == 0
    going = HandMade(tmp_path, "going").submitted("1", "local", attempt=1).began(1, None)
    (going.path / "submitit/1_0_log.out").write_text("hello\n")
    process = follow(going.path)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)][1] == "hello\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0


def test_following_a_real_run(tmp_path: Path) -> None:
    started = Started(write_config(tmp_path), tags(step_seconds=0.05), "training.train_steps=60")
    process = follow(started.run_dir)
    assert started.end().code == 0
    assert process.stdout is not None and "tmrc: finished (exit code 0)" in process.stdout.read()
    assert process.wait(10) == 0


@pytest.mark.parametrize("look", [1, 2])
def test_an_attempt_that_begins_while_the_files_are_read_has_its_own_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: int
) -> None:
    run = HandMade(tmp_path).submitted("7")
    log = run.path / "submitit/7_0_log.out"
    log.write_text("one\n")
    run.began(1, "7", logs=[str(log)])
    looks = []

    def chosen_before(*arguments: Any) -> list[Segment]:
        found = chosen(*arguments)
        looks.append(found)
        if len(looks) == look:
            run.ended(1, "stopped").began(2, "7", logs=[str(log)], log_offset=len("one\n"))
            log.write_text("one\ntwo\n")
        return found

    monkeypatch.setattr(follower, "chosen", chosen_before)
    reader = Reader(RunDir(run.path))
    read = [(part.attempt, block) for _ in range(2) for part, block in reader.new()]
    assert read == [(1, b"one\n"), (2, b"two\n")]


def test_what_has_been_read_is_not_read_again(run: HandMade) -> None:
    reader = Reader(RunDir(run.path))
    assert b"".join(block for _, block in reader.new()).endswith(b"six")
    assert list(reader.new()) == []
    with (run.path / "submitit/8_0_log.out").open("a") as file:
        file.write("!")
    assert [block for _, block in reader.new()] == [b"!"]


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_json_has_an_object_a_line(run: HandMade) -> None:
    done = logs(run, "--json", "-n", 3)
    assert done.code == 0 and done.err == ""
    assert objects(done.out) == [
        {"attempt": 2, "job": "7", "node": 0, "host": "node1", "line": "four"},
        {"attempt": 3, "job": "8", "node": 0, "host": "node1", "line": "five"},
        {"attempt": 3, "job": "8", "node": 0, "host": "node1", "line": "six"},
    ]
    (other, *_) = objects(logs(run, "--json", "--node", 1).out)
    assert (other["node"], other["host"], other["line"]) == (1, "node2", "other node")
    wrong = logs(run, "--json", "--attempt", 9)
    assert wrong.code == 2 and wrong.out == "" and len(wrong.err.splitlines()) == 1


def test_json_of_odd_lines(run: HandMade) -> None:
    (run.path / "submitit/5_0_log.out").write_bytes(
        b"\n\xff\x1b[2J\ttab\n" + "ü\u2028".encode() + b"\n" + b"x" * 3_000_000
    )
    os.utime(run.path / "submitit/5_0_log.out", (1, 1))
    found = objects(logs(run, "--json").out)
    early = [one["line"] for one in found if one["attempt"] is None]
    assert early[:3] == ["", "\ufffd\x1b[2J\ttab", "ü\u2028"] and found[0]["job"] == "5"
    assert "".join(early[3:]) == "x" * 3_000_000 and len(early) > 4  # in parts, so that none is of any length
    assert [one["line"] for one in found if one["attempt"]] == [
        "modules loaded",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
    ]


def test_json_of_what_comes_has_whole_lines_only(tmp_path: Path) -> None:
    slurm = FakeSlurm(tmp_path / "bin")
    slurm.queue("7|RUNNING|n|1|1:00|None")
    run = HandMade(tmp_path / "artifacts").submitted("7")
    log = run.path / "submitit/7_0_log.out"
    log.write_text("one\ntw")
    run.began(1, "7", logs=[str(log)])
    process = follow(run.path, "--json", env=slurm.env)
    assert process.stdout is not None and json.loads(process.stdout.readline())["line"] == "one"
    with log.open("a") as file:
        file.write("o\nthree")
    assert json.loads(process.stdout.readline())["line"] == "two"
    run.ended(1)
    assert [one["line"] for one in objects(process.stdout.read())] == ["three"]
    assert process.wait(10) == 0
