"""Parallel coordinates: each run a line over the settings in which the runs differ, to its validation loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from launch.report.curves import Chart
from launch.report.entries import Facts
from launch.report.labels import middle_out, short_number
from launch.report.looks import escaped, layout, scale_shown, spread
from launch.report.settings import shown_value

MOST_AXES = 8
MOST_TICKS = 8
LONGEST = 18  # characters of a tick's text
# plotly draws these lines one pixel wide: up to FEW_LINES runs are drawn five times, half a pixel apart
STROKES = (-0.0036, -0.0018, 0.0, 0.0018, 0.0036)  # shares of an axis, which is some 300 pixels high
FEW_LINES = 60
STRONG = 0.7  # share of the scale of colours that lines are drawn in


def parallel_chart(facts: Facts) -> Chart | None:
    """The chart; None unless two runs with a validation loss differ in some setting."""
    entries = [entry for entry in facts.entries if entry.val_loss is not None]
    keys = [key for key in facts.keys if len({shown_value(entry.differs[key]) for entry in entries}) > 1][:MOST_AXES]
    if len(entries) < 2 or not keys:
        return None
    losses = [entry.val_loss for entry in entries if entry.val_loss is not None]
    axes = [_axis(key, [entry.differs[key] for entry in entries]) for key in keys]
    axes.append({"label": "validation loss", "values": losses, "tickformat": ".4~g"})
    strokes = STROKES if len(entries) <= FEW_LINES else (0.0,)
    axes = [_stroked(axis, strokes) for axis in axes]
    low, high = spread(losses)
    trace = {
        "type": "parcoords",
        "dimensions": axes,
        "line": {"color": losses * len(strokes), "colorscale": scale_shown(STRONG), "cmin": low, "cmax": high},
        "labelfont": {"size": 12},
        "tickfont": {"size": 11},
        "labelangle": -15 if len(axes) > 4 else 0,
        "labelside": "top",
    }
    figure = {"data": [trace], "layout": layout(margin={"l": 70, "r": 50, "t": 70, "b": 24}, height=420)}
    alt = f"Parallel coordinates of {len(entries):,} runs over {', '.join(keys)} and the validation loss."
    note = "Drag along an axis to keep the runs that pass there. Dark lines have the lowest validation loss."
    return Chart("parallel", "Settings and validation loss", alt, figure, note)


def _axis(key: str, values: Sequence[Any]) -> dict[str, Any]:
    label = escaped(key.rpartition(".")[2])
    if not all(
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) for value in values
    ):
        return {"label": label, **_categories(values)}
    numbers = [float(value) for value in values]
    if min(numbers) > 0 and max(numbers) > 10 * min(numbers):
        logs = [math.log10(number) for number in numbers]
        return {"label": f"{label} (log)", "values": logs, **_ticks(logs, numbers)}
    return {"label": label, "values": numbers, **_ticks(numbers, numbers)}


def _stroked(axis: dict[str, Any], strokes: Sequence[float]) -> dict[str, Any]:
    """The axis with a fixed range, and each value once a stroke."""
    values = axis["values"]
    low, high = axis.get("range") or (min(values), max(values))
    span = (high - low) or max(abs(high), 1.0)
    return {
        **axis,
        "range": [low, high] if high > low else [low - span, high + span],
        "values": [value + stroke * span for stroke in strokes for value in values],
    }


def _ticks(places: Sequence[float], numbers: Sequence[float]) -> dict[str, Any]:
    """A tick at each value where these are few, else at some of them from the lowest to the highest."""
    pairs = sorted(set(zip(places, numbers, strict=True)))
    if len(pairs) > MOST_TICKS:
        even = [pairs[0][0] + n * (pairs[-1][0] - pairs[0][0]) / 6 for n in range(7)]
        pairs = sorted({min(pairs, key=lambda pair: abs(pair[0] - place)) for place in even})
    return {"tickvals": [place for place, _ in pairs], "ticktext": [short_number(number, 3) for _, number in pairs]}


def _categories(values: Sequence[Any]) -> dict[str, Any]:
    texts = [shown_value(value) for value in values]
    names = sorted(set(texts))
    shown = names if len(names) <= 3 * MOST_TICKS else names[:: len(names) // MOST_TICKS]
    return {
        "values": [names.index(text) for text in texts],
        "range": [-0.2, len(names) - 0.8],
        "tickvals": [names.index(name) for name in shown],
        "ticktext": [escaped(middle_out(name, LONGEST)) for name in shown],
    }
