"""Whatever the files of a run hold, its account adds up; and it is that of the story where they tell one."""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.config.made import Made, T
from tmrc.config.goodput import BUCKETS

NUMBERS = st.one_of(
    st.floats(0, 2000).map(lambda value: T + value), st.floats(), st.integers(-3, 3), st.just(10**400), st.none(),
    st.booleans(), st.text(max_size=3),
)  # fmt: skip
SMALL = st.one_of(st.floats(0, 500), st.floats(), st.integers(0, 900), st.text(max_size=2))
SPENT = st.dictionaries(st.sampled_from([*BUCKETS, "other"]), SMALL, max_size=9)
EVENT = st.fixed_dictionaries(
    {"event": st.sampled_from(
        ["submitted", "started", "resumed", "checkpoint", "requeued", "cancelled", "held", "failed", "finished"]
    ), "time": NUMBERS},
    optional={
        "attempt": st.integers(0, 5) | SMALL, "step": st.integers(0, 90) | SMALL, "seconds": SMALL,
        "spent": SPENT | SMALL, "job_id": st.just("7") | SMALL,
    },
)  # fmt: skip
OWNER = st.fixed_dictionaries({}, optional={"began": NUMBERS, "job_id": st.just("7"), "executor": st.just("slurm")})
ENDING = st.fixed_dictionaries(
    {}, optional={
        "ended": NUMBERS, "status": st.sampled_from(["finished", "stopped", "failed"]) | SMALL,
        "action": st.sampled_from(["none", "requeued", "held"]) | SMALL,
    },
)  # fmt: skip
SUMS = st.fixed_dictionaries(
    {}, optional={
        "began": NUMBERS, "at": NUMBERS, "phase": st.sampled_from(BUCKETS) | SMALL, "step": SMALL,
        "seconds": SPENT | SMALL,
    },
)  # fmt: skip
FILES = st.fixed_dictionaries({}, optional={"owner.json": OWNER, "job.json": ENDING, "spent.json": SUMS})
DAMAGE = st.sampled_from(["", "", "", "cut", "bytes", "deep", "folder"])


def write(path: Path, text: str, damage: str) -> None:
    if damage == "folder":
        path.mkdir()
    elif damage == "bytes":
        path.write_bytes(b"\xff\x00" + text.encode("utf8", "replace"))
    else:
        deep = '{"a": ' + "[" * 50_000 + "\n"
        path.write_text({"cut": text[: len(text) // 2], "deep": deep + text}.get(damage, text), "utf8", "replace")


@settings(max_examples=300, deadline=None)
@given(
    events=st.lists(EVENT, max_size=12),
    attempts=st.dictionaries(st.integers(1, 5), FILES, max_size=4),
    cancel=st.none() | NUMBERS,
    damages=st.lists(DAMAGE, min_size=14, max_size=14),
    now=st.floats(0, 5000),
    place=st.sampled_from([None, None, "running", "queued", "over"]),
)
def test_whatever_the_files_hold_the_buckets_add_up(
    events: list[dict[str, Any]], attempts: dict[int, dict[str, Any]], cancel: Any, damages: list[str], now: float,
    place: Any,
) -> None:  # fmt: skip
    harm = iter(damages)
    with tempfile.TemporaryDirectory() as folder:
        made = Made(Path(folder) / "run")
        write(made.run.events, "".join(json.dumps(row) + "\n" for row in events), next(harm))
        if cancel is not None:
            made.run.cancel.write_text(json.dumps({"time": cancel}))
        for number, files in attempts.items():
            made.run.attempt(number).mkdir(parents=True)
            for name, content in files.items():
                write(made.run.attempt(number) / name, json.dumps(content), next(harm))
        made.account(now, place=place)


def a_history(random_: random.Random) -> tuple[list[tuple[str, float, dict[str, Any]]], list[dict[str, Any]], float]:
    """(events, attempts, seconds in the queue) of a run that nothing but the story itself knows."""
    events: list[tuple[str, float, dict[str, Any]]] = [("submitted", 0.0, {"attempt": 1})]
    attempts: list[dict[str, Any]] = []
    at, queued = 0.0, 0.0
    for number in range(1, random_.randint(2, 6)):
        wait, length = random_.uniform(0, 50), random_.uniform(1, 400)
        requeued = random_.random() < 0.6
        attempts.append({"number": number, "began": at + wait, "ended": at + wait + length, "requeued": requeued})
        queued, at = queued + wait, at + wait + length
        if requeued:
            events.append(("requeued", at + 0.1, {"attempt": number}))
            continue
        at += random_.uniform(0, 1e6)  # nobody wants it
        events.append(("submitted", at, {"attempt": number + 1} if random_.random() < 0.5 else {}))
    return events, attempts, queued


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_wall_time_is_that_of_the_story(seed: int) -> None:
    events, attempts, queued = a_history(random.Random(seed))
    with tempfile.TemporaryDirectory() as folder:
        made = Made(Path(folder) / "run")
        for event, at, fields in events:
            made.event(event, at, **fields)
        for one in attempts:
            made.began(one["number"], one["began"])
            action = "requeued" if one["requeued"] else "none"
            made.ended(one["number"], one["ended"], "stopped", action=action)
        last = max(events[-1][1], attempts[-1]["ended"])
        found = made.account(last)
        tail = last - attempts[-1]["ended"] if attempts[-1]["requeued"] else 0.0
    assert found.seconds["queue"] == pytest.approx(queued + tail, abs=0.01)
    assert found.wall == pytest.approx(queued + tail + sum(one["ended"] - one["began"] for one in attempts), abs=0.01)
