"""The facts of each run as a table has them: for the page, CSV, JSON and text alike."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from launch.facts import word
from launch.plaintext import one_line
from launch.report.collect import Collection
from launch.report.labels import names, short_labels
from launch.report.life import Life
from launch.report.settings import differing
from launch.status import RunStatus

TROUBLED = ("failed", "held", "lost")  # states whose cause a reader wants at once


@dataclass(frozen=True)
class Entry:
    """One run. Losses in nats a token, times in seconds, None is not known."""

    run_id: str
    directory: str
    label: str  # its id, without what all ids share
    name: str  # what charts call it: a sweep's point by what sets it apart
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

    @property
    def trouble(self) -> str:
        """Why it failed, is held, or is lost, on one line; empty for other runs, and where nothing more is known."""
        cause = one_line(self.cause) if self.state in TROUBLED else ""
        return "" if cause == self.state else cause


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
    sweeps = [str(life.run.path.parent) for life in found.lives]
    called = zip(labels, names(labels, [one.point for one in found.statuses], sweeps), strict=True)
    pairs = [
        (_entry(life, one, label, name, keys), life)
        for life, one, (label, name) in zip(found.lives, found.statuses, called, strict=True)
    ]
    pairs.sort(key=lambda pair: (_rank(pair[0].val_loss), _rank(pair[0].loss), pair[0].run_id))
    return Facts(tuple(entry for entry, _ in pairs), tuple(life for _, life in pairs), tuple(keys), _unit(found))


def command_typed(about: dict[str, Any]) -> str:
    """The command of run.json as it would be typed in a shell; empty when there is none."""
    words = about.get("command")
    if not isinstance(words, list) or not all(isinstance(one, str) for one in words) or not words:
        return ""
    program = os.path.basename(words[0])  # noqa: PTH119  text from a file, no path of this machine
    first = "tmrc-submit" if program in ("tmrc-submit", "submit.py") else words[0]
    return shlex.join([first, *words[1:]])


def _entry(life: Life, one: RunStatus, label: str, name: str, keys: Sequence[str]) -> Entry:
    git = life.about.get("git")
    local = "--local " if one.executor == "local" else ""
    step = max((step for step in (life.losses.step, one.step) if step is not None), default=None)
    return Entry(
        run_id=life.run.path.name,
        directory=str(life.run.path),
        label=label,
        name=name,
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


def _unit(found: Collection) -> str:
    """By the devices that runs are known to have had; where nothing has started, by what they ask Slurm for."""
    devices = {span.device for life in found.lives for span in life.spans} - {""}
    pairs = zip(found.lives, found.statuses, strict=True)
    devices = devices or {"cuda" if _asks_for_gpus(life, one) else "cpu" for life, one in pairs}
    if "cuda" not in devices:
        return "process-hours"
    return "GPU-hours" if "cpu" not in devices else "GPU- or process-hours"


def _asks_for_gpus(life: Life, one: RunStatus) -> bool:
    wanted = life.settings.get("launch.gpus_per_node") != 0 and life.settings.get("training.device") != "cpu"
    return one.executor == "slurm" and wanted
