"""The facts of each run as a table has them: for the page, CSV, JSON and text alike."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from launch.facts import word
from launch.report.collect import Collection
from launch.report.life import Life
from launch.report.settings import differing
from launch.status import RunStatus


@dataclass(frozen=True)
class Entry:
    """One run. Losses in nats a token, times in seconds, None is not known."""

    run_id: str
    directory: str
    label: str  # what tells the run from the others on the page
    state: str
    sure: bool  # False: by its files alone
    step: int | None
    total_steps: int | None
    loss: float | None
    val_loss: float | None
    best_val_loss: float | None
    best_val_step: int | None
    tokens: float | None
    device_hours: float
    goodput: float | None
    wall: float
    seconds: dict[str, float]  # of the wall time, by where it went (tmrc.config.goodput.BUCKETS)
    attempts: int
    interruptions: int
    differs: dict[str, Any]  # the settings in which the runs differ
    command: str  # as it was typed; empty when nothing tells
    reproduce: str  # starts the same run again, whatever has become of the file it was started from
    cause: str
    commit: str
    rows: int
    damaged_rows: int
    no_number: tuple[int, int] | None  # rows whose loss is no number, and the first such step


@dataclass(frozen=True)
class Facts:
    """All runs, the best validation loss first and runs without one last, each with its life."""

    entries: tuple[Entry, ...]
    lives: tuple[Life, ...]
    keys: tuple[str, ...]  # the settings in which they differ
    hours_unit: str  # GPU-hours, or process-hours where runs are trained on CPUs


def make_facts(found: Collection) -> Facts:
    """What was collected, in the order of the table."""
    keys = differing([life.settings for life in found.lives]) if len(found.lives) > 1 else []
    labels = short_labels([life.run.path.name for life in found.lives])
    pairs = [
        (_entry(life, one, label, keys), life)
        for life, one, label in zip(found.lives, found.statuses, labels, strict=True)
    ]
    pairs.sort(key=lambda pair: (_rank(pair[0].val_loss), _rank(pair[0].loss), pair[0].run_id))
    devices = {span.device for life in found.lives for span in life.spans} - {""}
    return Facts(tuple(entry for entry, _ in pairs), tuple(life for _, life in pairs), tuple(keys), _unit(devices))


def short_labels(ids: Sequence[str]) -> list[str]:
    """The ids without the beginning that all of them share, cut at a dash; one id stays whole."""
    if len(set(ids)) < 2:
        return list(ids)
    first, last = min(ids), max(ids)
    same = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    shared = first[:same].rpartition("-")[0]
    return [name[len(shared) :].removeprefix("-") or name for name in ids]


def command_typed(about: dict[str, Any]) -> str:
    """The command of run.json as it would be typed in a shell; empty when there is none."""
    words = about.get("command")
    if not isinstance(words, list) or not all(isinstance(one, str) for one in words) or not words:
        return ""
    program = os.path.basename(words[0])  # noqa: PTH119  text from a file, no path of this machine
    first = "tmrc-submit" if program in ("tmrc-submit", "submit.py") else words[0]
    return shlex.join([first, *words[1:]])


def _entry(life: Life, one: RunStatus, label: str, keys: Sequence[str]) -> Entry:
    git = life.about.get("git")
    local = "--local " if one.executor == "local" else ""
    step = max((step for step in (life.losses.step, one.step) if step is not None), default=None)
    return Entry(
        run_id=life.run.path.name,
        directory=str(life.run.path),
        label=label,
        state=one.state,
        sure=one.sure,
        step=step,
        total_steps=one.total_steps,
        loss=life.losses.last,
        val_loss=life.losses.val_last,
        best_val_loss=life.losses.val_best,
        best_val_step=life.losses.val_best_step,
        tokens=life.losses.tokens,
        device_hours=life.hours,
        goodput=life.account.goodput,
        wall=life.account.wall,
        seconds=dict(life.account.seconds),
        attempts=len(life.spans),
        interruptions=life.account.interruptions,
        differs={key: life.settings.get(key) for key in keys},
        command=command_typed(life.about),
        reproduce=f"tmrc-submit {local}{shlex.quote(str(life.run.config))}",
        cause=one.cause or "",
        commit=word(git, "commit") if isinstance(git, dict) else "",
        rows=life.rows,
        damaged_rows=life.damaged,
        no_number=life.losses.no_number,
    )


def _rank(loss: float | None) -> float:
    return math.inf if loss is None else loss


def _unit(devices: set[str]) -> str:
    if devices == {"cpu"}:
        return "process-hours"
    return "GPU-hours" if "cpu" not in devices else "GPU- or process-hours"
