"""Tables at every width, and damaged runs in them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launch.detail import as_object, page
from launch.facts import read_facts
from launch.queue import QueueRow
from launch.standing import Slurm
from launch.status import judge, statuses
from launch.table import columns_of, cut, table
from tests.launch.fake_queue import HandMade
from tmrc.config.rundir import RunDir


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[RunDir]:
    monkeypatch.setenv("PATH", str(tmp_path))  # no Slurm
    made = [
        HandMade(tmp_path / "a", "gpt2-124m-20261122-122806-50d0")
        .began(1, None)
        .trains(1, 0, 1500, 1_234_567)
        .saved(1000),
        HandMade(tmp_path / "a", "x").submitted("7"),
        HandMade(tmp_path / "a", "ünï-字-1")
        .began(1, "8")
        .trains()
        .ended(1, "failed", message="rank 3 was killed " * 9),
        HandMade(tmp_path / "a", "lost").began(1, None, pid=2**30).trains(),
        HandMade(tmp_path / "a", "odd\x1b[2J\nname").began().ended(1, "held", message="\x1b]0;x\x07 two\nlines"),
    ]
    return [RunDir(one.path) for one in made]


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100, 120, 160, 200, 300])
def test_no_line_is_wider_than_the_terminal_and_no_number_is_cut(runs: list[RunDir], width: int) -> None:
    found, _ = statuses(runs)
    lines = table(found, width, colour=False)
    assert max(map(columns_of, lines)) <= max(width, 45)
    text = "\n".join(lines)
    assert "1,500/1,234,567" in text and "10/100" in text
    assert "\x1b" not in text and not [line for line in lines if re.match(r" .*\d…", line)]
    assert width < 160 or ("12.3k" in text and "ATT" in text)


def test_a_pipe_gets_everything(runs: list[RunDir]) -> None:
    found, _ = statuses(runs)
    text = "\n".join(table(found, None, colour=False))
    assert ("rank 3 was killed " * 9).strip() in text and "…" not in text


def test_colours_only_where_wished_and_of_no_width(runs: list[RunDir]) -> None:
    found, _ = statuses(runs)
    plain, coloured = table(found, 120, colour=False), table(found, 120, colour=True)
    assert plain != coloured
    assert [re.sub(r"\x1b\[\d+m", "", line) for line in coloured] == plain


def test_runs_that_are_active_come_last(runs: list[RunDir]) -> None:
    found, _ = statuses(runs)
    states = [line.split()[1].rstrip("?") for line in table(found, None, colour=False)[1:6]]
    assert set(states[-2:]) == {"running", "pending"}


@pytest.mark.parametrize(
    ("room", "text"), [(30, "one two 345,678"), (13, "one two …"), (5, "one …"), (4, "…"), (0, "…")]
)
def test_text_is_cut_between_words(room: int, text: str) -> None:
    assert cut("one two 345,678", room) == text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from(["slurm", "local", "submitted", "started", "requeued", "held", "finished", "7", "9_1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
KEYS = (
    "event", "attempt", "step", "time", "job_id", "executor", "total_steps", "loss", "val_loss", "tokens", "host",
    "pid", "tokens_per_s", "started", "nodes", "logs", "log_offset", "began", "ended", "status", "message", "kind",
    "action",
)  # fmt: skip
OBJECTS = st.dictionaries(st.sampled_from(KEYS), JSON, max_size=8).map(lambda row: json.dumps(row).encode())
CONTENT = st.binary(max_size=60) | OBJECTS | st.lists(OBJECTS, max_size=6).map(lambda rows: b"\n".join(rows) + b"\n")
FILES = ("events.jsonl", "metrics.jsonl", "attempts/1/owner.json", "attempts/1/job.json", "run.json", "cancel.json")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.dictionaries(st.sampled_from(FILES), CONTENT), state=st.sampled_from(["", "PENDING", "RUNNING", "X"]))
def test_damaged_files_never_stop_it(tmp_path: Path, files: dict[str, bytes], state: str) -> None:
    run = RunDir(tmp_path / "run")
    (run.path / "attempts/1").mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (run.path / name).unlink(missing_ok=True)
    for name, content in files.items():
        (run.path / name).write_bytes(content)
    rows = {job: QueueRow(state, "Priority", "n", 1.0, 2.0) for job in ("7", "9_1")} if state else {}
    one = judge(read_facts(run), Slurm(rows))
    for width in (20, 80, None):
        lines = table([one, one], width, colour=False)
        assert all("\n" not in line and "\x1b" not in line for line in lines)
        page(one, run, width, colour=False)
    json.dumps(as_object(one, run), allow_nan=False)


def break_it(run: HandMade, how: str) -> None:
    deep = "[" * 100_000
    for name in ("events.jsonl", "metrics.jsonl", "attempts/1/owner.json", "attempts/1/job.json", "checkpoints"):
        path = run.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if how == "directory":
            path.mkdir()
        elif how == "loop":
            path.symlink_to(path)
        elif how == "pipe":
            os.mkfifo(path)
        else:
            path.write_text({"deep": f'{{"event": {deep}\n', "digits": '{"step": ' + "9" * 5000 + "}\n"}[how])


@pytest.mark.parametrize("how", ["directory", "loop", "pipe", "deep", "digits"])
def test_files_of_a_wrong_kind_never_stop_it(tmp_path: Path, how: str) -> None:
    run = HandMade(tmp_path)
    break_it(run, how)
    (one,), _ = statuses([RunDir(run.path)])
    table([one], 80, colour=False)
    page(one, RunDir(run.path), 80, colour=False)


def test_attempt_directories_of_a_wrong_name_are_passed_over(tmp_path: Path) -> None:
    run = HandMade(tmp_path).began(1, None).trains()
    for name in ("²", "x", "0001x", "99999999999"):
        (run.path / "attempts" / name).mkdir()
    (one,), _ = statuses([RunDir(run.path)])
    assert one.attempts == 1


def test_what_a_resume_keeps_of_the_time_before_is_no_attempt(tmp_path: Path) -> None:
    run = HandMade(tmp_path).submitted("7").event("cancelled", attempt=0)
    (run.path / "attempts/0").mkdir(parents=True)
    (run.path / "attempts/0/config.yaml").write_text("{}\n")
    run.submitted("8", attempt=1)
    (one,), _ = statuses([RunDir(run.path)])
    assert one.attempts == 0 and as_object(one, RunDir(run.path))["history"] == []
    assert not [line for line in page(one, RunDir(run.path), None, colour=False) if line.startswith("attempts")]


def test_many_attempts_are_listed_from_the_last(tmp_path: Path) -> None:
    run = HandMade(tmp_path)
    for number in range(1, 31):
        run.began(number, None).ended(number, "stopped", kind="preempted", action="requeued")
    (one,), _ = statuses([RunDir(run.path)])
    lines = page(one, RunDir(run.path), None, colour=False)
    assert "attempts    the last 20 of 30" in lines
    history: list[Any] = as_object(one, RunDir(run.path))["history"]
    assert len(history) == 30
