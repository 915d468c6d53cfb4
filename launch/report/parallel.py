"""Parallel coordinates: each run a line over the settings in which the runs differ, to its validation loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from launch.report.curves import Chart
from launch.report.entries import Facts
from launch.report.looks import escaped, layout, scale_shown, spread
from launch.report.settings import shown_value

MOST_AXES = 8
MOST_TICKS = 8
LONGEST = 18  # characters of a tick's text


def parallel_chart(facts: Facts) -> Chart | None:
    """The chart; None unless two runs with a validation loss differ in some setting."""
    entries = [entry for entry in facts.entries if entry.val_loss is not None]
    keys = [key for key in facts.keys if len({shown_value(entry.differs[key]) for entry in entries}) > 1][:MOST_AXES]
    if len(entries) < 2 or not keys:
        return None
    losses = [entry.val_loss for entry in entries if entry.val_loss is not None]
    axes = [_axis(key, [entry.differs[key] for entry in entries]) for key in keys]
    axes.append({"label": "validation loss", "values": losses, "tickformat": ".4~g"})
    low, high = spread(losses)
    trace = {
        "type": "parcoords",
        "dimensions": axes,
        "line": {"color": losses, "colorscale": scale_shown(), "cmin": low, "cmax": high},
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


def _ticks(places: Sequence[float], numbers: Sequence[float]) -> dict[str, Any]:
    """A tick at each value where these are few, else at some of them from the lowest to the highest."""
    pairs = sorted(set(zip(places, numbers, strict=True)))
    if len(pairs) > MOST_TICKS:
        even = [pairs[0][0] + n * (pairs[-1][0] - pairs[0][0]) / 6 for n in range(7)]
        pairs = sorted({min(pairs, key=lambda pair: abs(pair[0] - place)) for place in even})
    return {"tickvals": [place for place, _ in pairs], "ticktext": [f"{number:.3g}" for _, number in pairs]}


def _categories(values: Sequence[Any]) -> dict[str, Any]:
    texts = [shown_value(value) for value in values]
    names = sorted(set(texts))
    shown = names if len(names) <= 3 * MOST_TICKS else names[:: len(names) // MOST_TICKS]
    return {
        "values": [names.index(text) for text in texts],
        "range": [-0.2, len(names) - 0.8],
        "tickvals": [names.index(name) for name in shown],
        "ticktext": [escaped(_cut(name)) for name in shown],
    }


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]}…{text[-LONGEST // 2 :]}"
