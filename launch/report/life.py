"""All that a page tells of one run, read from its files at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from launch.detail import ALL_EVENTS, first_steps, history
from launch.facts import Attempt, read_events, read_object
from launch.report.hours import Span, attempt_spans, device_hours, waits
from launch.report.metrics import Metrics, read_metrics
from launch.report.settings import read_settings
from launch.report.thin import smooth, thin
from tmrc.config.goodput import Place, RunAccount, account
from tmrc.config.rundir import RunDir

CURVES = ("loss", "val_loss", "lr", "grad_norm", "tokens_per_s")
# curves that are noisy -> the key under which their means are
MEANS = {"loss": "smooth", "grad_norm": "smooth_grad_norm", "tokens_per_s": "smooth_tokens_per_s"}
SMOOTHED = 100  # rows from which on such a curve is smoothed
SPARKS = 60  # points of the curve in text


@dataclass(frozen=True)
class Curve:
    """A thinned curve: a value for each step, with the tokens and device hours until then."""

    steps: NDArray[np.float64]
    tokens: NDArray[np.float64]
    hours: NDArray[np.float64]
    values: NDArray[np.float64]
    rows: int  # before it was thinned


@dataclass(frozen=True)
class Losses:
    """What the rows come to; None is not known. Losses in nats a token."""

    step: int | None = None
    tokens: float | None = None
    last: float | None = None
    val_last: float | None = None
    val_best: float | None = None
    val_best_step: int | None = None
    no_number: tuple[int, int] | None = None  # rows whose loss is no finite number, and the first such step


@dataclass(frozen=True)
class Life:
    """One run: its settings, curves, attempts and accounts."""

    run: RunDir
    about: dict[str, Any]  # run.json
    settings: dict[str, Any]
    attempts: tuple[Attempt, ...]
    first: dict[int, int]  # attempt -> the step it went on from
    spans: tuple[Span, ...]
    waits: tuple[Span, ...]
    hours: float
    account: RunAccount
    curves: dict[str, Curve]  # those of CURVES that have values, and their MEANS
    losses: Losses
    rows: int
    damaged: int


@dataclass(frozen=True)
class Wanted:
    """Which run is to be read, where it is (None: nobody could be asked), the time, and points for each curve."""

    run: RunDir
    place: Place | None
    now: float
    points: dict[str, int]


def read_life(wanted: Wanted) -> Life:
    """Read everything. Never raises for what is in the files."""
    run = wanted.run
    metrics = read_metrics(run.metrics)
    spent = account(run, wanted.now, wanted.place)
    spans = attempt_spans(spent, read_events(run, ALL_EVENTS))
    hours = device_hours(spans, metrics.columns["time"])
    return Life(
        run=run,
        about=read_object(run.run_json),
        settings=read_settings(run.config),
        attempts=tuple(history(run)),
        first=dict(first_steps(run)),
        spans=tuple(spans),
        waits=tuple(waits(spent, wanted.now)),
        hours=sum(span.devices * (span.ended - span.began) for span in spans) / 3600,
        account=spent,
        curves=_curves(metrics, hours, wanted.points),
        losses=_losses(metrics),
        rows=metrics.rows,
        damaged=metrics.damaged,
    )


def _curves(metrics: Metrics, hours: NDArray[np.float64], points: dict[str, int]) -> dict[str, Curve]:
    tokens = _tokens(metrics)
    found = {}
    for key in CURVES:
        rows = metrics.having(key)
        values = _finite(metrics.columns[key][rows])
        if len(rows) and np.isfinite(values).any():
            found[key] = _thinned(metrics, tokens, hours, rows, values, points[key])
            mean = MEANS.get(key)
            if mean and len(rows) > SMOOTHED:
                found[mean] = _thinned(metrics, tokens, hours, rows, smooth(values), points[mean])
    return found


def _thinned(
    metrics: Metrics,
    tokens: NDArray[np.float64],
    hours: NDArray[np.float64],
    rows: NDArray[np.intp],
    values: NDArray[np.float64],
    points: int,
) -> Curve:
    kept = thin(values, points)
    rows = rows[kept]
    return Curve(metrics.columns["step"][rows], tokens[rows], hours[rows], values[kept], len(values))


def _tokens(metrics: Metrics) -> NDArray[np.float64]:
    """Tokens until each row. Validations do not say how many: as many as the last training row before them says."""
    tokens = metrics.columns["tokens"]
    known = np.flatnonzero(np.isfinite(tokens))
    if not len(known):
        return np.full(len(tokens), np.nan)
    steps, values = metrics.columns["step"], tokens[known]
    steps_known = np.concatenate([[min(0.0, steps[0])], steps[known]])
    return np.asarray(np.interp(steps, steps_known, np.concatenate([[0.0], values])), np.float64)


def _losses(metrics: Metrics) -> Losses:
    steps = metrics.columns["step"]
    loss_rows, val_rows = metrics.having("loss"), metrics.having("val_loss")
    losses, validations = metrics.columns["loss"][loss_rows], metrics.columns["val_loss"][val_rows]
    odd = loss_rows[~np.isfinite(losses)]
    usable = np.isfinite(validations)
    best = int(np.argmin(np.where(usable, validations, np.inf))) if usable.any() else None
    tokens = metrics.columns["tokens"]
    return Losses(
        step=int(steps[-1]) if len(steps) else None,
        tokens=_last(tokens[np.isfinite(tokens)]),
        last=_last(losses),
        val_last=_last(validations),
        val_best=None if best is None else float(validations[best]),
        val_best_step=None if best is None else int(steps[val_rows[best]]),
        no_number=(len(odd), int(steps[odd[0]])) if len(odd) else None,
    )


def _last(values: NDArray[np.float64]) -> float | None:
    """The last value; None when there is none, or when it is no finite number."""
    return float(values[-1]) if len(values) and math.isfinite(values[-1]) else None


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.where(np.isfinite(values), values, np.nan), np.float64)
