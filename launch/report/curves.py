"""The curves of a page as plotly figures: losses, learning rate, gradient norm and throughput by step.

A trace carries tokens and device hours in `meta` beside the steps in `x`, so that the page can put another of the
three on its axis (page.js) and holds the values once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from launch.report.entries import Entry, Facts
from launch.report.labels import short_value
from launch.report.life import MEANS, Curve, Life
from launch.report.looks import DASHES, FEW, MARKERS, PALETTE, axis, escaped, layout, on_scale, scale_shown, spread

Figure = dict[str, Any]
FEW_POINTS = 60  # points of a curve that get a marker each
ROWS_BEHIND = 5  # runs up to which the rows of a noisy curve are behind its mean, even if no spike would be missed
SPIKES = ("loss", "grad_norm")  # curves whose spikes are never left out
_FAINT = (0.3, 0.15)  # opacity of rows: of a few runs, and of many, which lie over each other


@dataclass(frozen=True)
class Chart:
    """A figure with its heading and what it shows in words."""

    name: str
    title: str
    alt: str
    figure: Figure
    note: str = ""


@dataclass(frozen=True)
class _Look:
    colour: str
    dash: str = "solid"
    marker: str = "circle"
    width: float = 1.8


_TITLES = {
    "val_loss": ("Validation loss", "validation loss (nats a token)"),
    "lr": ("Learning rate", "learning rate"),
    "grad_norm": ("Gradient norm", "gradient norm"),
    "tokens_per_s": ("Throughput", "tokens a second"),
}


def curve_charts(facts: Facts) -> list[Chart]:
    """All charts for which some run has rows. One run has both losses in one chart."""
    looks = _looks(facts.entries)
    alone = len(facts.entries) == 1
    charts = [_losses(facts, looks, alone)]
    charts += [_single(facts, looks, key) for key in _TITLES if not (alone and key == "val_loss")]
    return [chart for chart in charts if chart is not None]


def _looks(entries: Sequence[Entry]) -> list[_Look]:
    if len(entries) > FEW:
        return [_Look(colour, width=1.3) for colour in on_scale([one.val_loss for one in entries])]
    size = len(PALETTE)
    return [
        _Look(PALETTE[n % size], DASHES[n // size % len(DASHES)], MARKERS[n % len(MARKERS)])
        for n in range(len(entries))
    ]


def _losses(facts: Facts, looks: Sequence[_Look], alone: bool) -> Chart | None:
    traces = []
    for n, (entry, life, look) in enumerate(zip(facts.entries, facts.lives, looks, strict=True)):
        own = _with_mean(entry, life, look, ("loss", "r"), n, len(looks))
        if alone and "val_loss" in life.curves:
            validation = _trace(entry, life.curves["val_loss"], _Look(PALETTE[1], "solid", "square"), "v0", n)
            own.append({**validation, "mode": "lines+markers", "name": "validation", "legendgroup": "validation"})
            own[:-1] = [{**one, "name": "training"} for one in own[:-1]]
        traces += own
    if not traces:
        return None
    _put_into_legend(traces, alone, len(looks))
    title = "Training and validation loss" if alone else "Training loss"
    figure = _figure(traces, "loss (nats a token)", facts, legend=len(looks) <= FEW, scale=True)
    return Chart("loss", title, f"{title} of {_runs(facts)} by step.", figure, _note(traces, facts, "loss"))


def _put_into_legend(traces: list[Figure], alone: bool, runs: int) -> None:
    """One entry a run, from its last trace; none where there are too many."""
    seen = set()
    for trace in reversed(traces):
        new = trace["legendgroup"] not in seen and not trace["uid"].endswith("raw")
        trace["showlegend"] = new and (alone or 1 < runs <= FEW)
        seen.add(trace["legendgroup"])


def _single(facts: Facts, looks: Sequence[_Look], key: str) -> Chart | None:
    title, label = _TITLES[key]
    traces = []
    for n, (entry, life, look) in enumerate(zip(facts.entries, facts.lives, looks, strict=True)):
        traces += _with_mean(entry, life, look, (key, key), n, len(looks))
    if not traces:
        return None
    figure = _figure(traces, label, facts)
    if key != "val_loss":
        figure["layout"]["yaxis"]["rangemode"] = "tozero"
    return Chart(key, title, f"{title} of {_runs(facts)} by step.", figure, _note(traces, facts, key))


def _with_mean(entry: Entry, life: Life, look: _Look, names: tuple[str, str], number: int, runs: int) -> list[Figure]:
    """The curve of one run, or its mean with the rows faint behind it. `names`: key, beginning of uid."""
    key, uid = names
    raw, mean = life.curves.get(key), life.curves.get(MEANS.get(key, ""))
    shown = mean if mean is not None else raw
    if raw is None or shown is None:
        return []
    bold = _trace(entry, shown, look, f"{uid}{number}", number)
    if mean is None or not (key in SPIKES or runs <= ROWS_BEHIND):
        return [bold]
    faint = _trace(entry, raw, look, f"{uid}{number}raw", number)
    faint |= {"opacity": _FAINT[runs > FEW], "line": {"color": look.colour, "width": 0.8}, "mode": "lines"}
    return [{**faint, "hoverinfo": "skip", "hovertemplate": None}, bold]


def _note(traces: Sequence[Figure], facts: Facts, key: str) -> str:
    """What bold and faint lines are."""
    if not any(MEANS.get(key) in life.curves for life in facts.lives):
        return ""
    if not any(trace["uid"].endswith("raw") for trace in traces):
        return "Smoothed over a fiftieth of the rows."
    kept = ", every spike kept" if key in SPIKES else ""
    return f"Bold: smoothed over a fiftieth of the rows. Faint: the rows themselves{kept}."


def _trace(entry: Entry, curve: Curve, look: _Look, uid: str, number: int) -> Figure:
    marked = curve.rows <= FEW_POINTS
    return {
        "type": "scatter",
        "mode": "lines+markers" if marked else "lines",
        "name": escaped(entry.name),
        "uid": uid,
        "legendgroup": f"r{number}",
        "showlegend": False,
        "x": _whole(curve.steps),
        "y": curve.values.astype(np.float32),
        "meta": {"tokens": _tokens(curve), "hours": curve.hours.astype(np.float32)},
        "line": {"color": look.colour, "dash": look.dash, "width": look.width},
        "marker": {"symbol": look.marker, "size": 5, "color": look.colour},
        "hovertemplate": f"%{{y:.6g}} at %{{x:,.6~g}}<extra>{escaped(_described(entry))}</extra>",
        "connectgaps": False,
    }


def _described(entry: Entry) -> str:
    """The run's name for hovering: with its id, or else with at most three of the settings that make it differ."""
    from launch.report.settings import shown_value

    if entry.name != entry.label:
        added = "" if entry.label in entry.name else f" ({entry.label})"
        return f"{entry.name}{added}".replace("%{", "% {")
    differs = list(entry.differs.items())[:3]
    own = [f"{key.rpartition('.')[2]}={short_value(shown_value(value))}" for key, value in differs]
    return " ".join([entry.label, *own]).replace("%{", "% {")  # no template of its own


def _tokens(curve: Curve) -> Any:
    """Tokens of each point, or the tokens of one step where all have as many."""
    positive = curve.steps > 0
    if not positive.any() or not np.isfinite(curve.tokens).all():
        return curve.tokens.astype(np.float32)
    ratio = curve.tokens[positive] / curve.steps[positive]
    even = np.ptp(ratio) <= 1e-6 * ratio[0] and not curve.tokens[~positive].any()
    return float(ratio[0]) if even else curve.tokens.astype(np.float32)


def _whole(steps: np.ndarray[Any, np.dtype[np.float64]]) -> Any:
    return steps.astype(np.int32) if not len(steps) or np.abs(steps).max() < 2**31 else steps


def _figure(traces: list[Figure], label: str, facts: Facts, legend: bool = False, scale: bool = False) -> Figure:
    known = [one.val_loss for one in facts.entries if one.val_loss is not None]
    if len(facts.entries) > FEW:
        traces = traces[::-1]  # the lowest loss on top
    if scale and len(facts.entries) > FEW and known:
        traces = [*traces, _scale(known)]
    shape = layout(
        xaxis=axis("step", rangemode="tozero", exponentformat="SI"),
        yaxis=axis(label, exponentformat="power" if label == "learning rate" else "SI"),
        showlegend=legend,
        legend={"itemsizing": "constant", "tracegroupgap": 0},
    )
    return {"data": traces, "layout": shape}


def _scale(losses: Sequence[float]) -> Figure:
    """A trace without points that brings the scale of the runs' colours."""
    low, high = spread(losses)
    bar = {
        "title": {"text": "validation<br>loss"},
        "thickness": 10,
        "len": 0.9,
        "outlinewidth": 0,
        "tickformat": ".4~g",
    }
    look = {"color": [low], "cmin": low, "cmax": high, "colorscale": scale_shown(), "showscale": True, "colorbar": bar}
    return {
        "type": "scatter", "mode": "markers", "x": [None], "y": [None], "uid": "scale", "legendgroup": "scale",
        "showlegend": False, "hoverinfo": "skip", "marker": look,
    }  # fmt: skip


def _runs(facts: Facts) -> str:
    count = len(facts.entries)
    return f"{count:,} runs" if count > 1 else "the run"
