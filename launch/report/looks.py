"""Colours, dashes and patterns that tell runs and causes apart for everybody, and what all charts share."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

# Okabe and Ito, "Color universal design" (2008): told apart with every kind of colour blindness. Their yellow is too
# pale for a line on white, and grey is kept for what counts less.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("solid", "dash", "dot", "dashdot")
MARKERS = ("circle", "square", "diamond", "x", "cross", "triangle-up", "star")
FEW = 20  # runs up to which each has a colour, a dash and a place in the legend
SCALE = "Cividis"  # made for colour-blind readers (Nunez, Anderton and Renslow 2018); also orders by lightness alone
DARK = 0.82  # share of the scale that can be seen as a thin line on white
INK, GRID = "#1b1b1b", "#e4e4e4"
FONT = "system-ui, -apple-system, 'Segoe UI', 'Liberation Sans', Arial, sans-serif"


def escaped(text: object) -> str:
    """Text for plotly, which takes <b>, <a> and entities in it for markup."""
    return html.escape(str(text), quote=False)


def spread(losses: Sequence[float]) -> tuple[float, float]:
    """The losses between which the colour scale runs: runs far above the others (diverged) do not use it up."""
    ordered = sorted(losses)
    low, high = ordered[0], ordered[int(0.9 * (len(ordered) - 1))]
    return low, high if high > low else low + max(abs(low), 1.0) * 1e-3


def on_scale(losses: Sequence[float | None]) -> list[str]:
    """A colour of SCALE for each loss: dark blue for the lowest, towards yellow for the highest, grey without one."""
    from plotly.colors import sample_colorscale

    known = [loss for loss in losses if loss is not None]
    if not known:
        return ["#777777"] * len(losses)
    low, high = spread(known)
    shares = [None if loss is None else min(1.0, max(0.0, (loss - low) / (high - low))) for loss in losses]
    return ["#777777" if share is None else sample_colorscale(SCALE, [DARK * share])[0] for share in shares]


def scale_shown(until: float = DARK) -> list[list[Any]]:
    """SCALE without its palest part, as plotly takes it."""
    from plotly.colors import sample_colorscale

    return [[share / 10, sample_colorscale(SCALE, [until / 10 * share])[0]] for share in range(11)]


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis with a title, thin lines and room for its labels."""
    look = {"gridcolor": GRID, "zeroline": False, "linecolor": "#888888", "showline": True, "ticks": "outside"}
    return {"title": {"text": title, "standoff": 8}, "automargin": True, **look, "tickcolor": "#888888", **more}


def layout(**more: Any) -> dict[str, Any]:
    """What all charts share."""
    return {
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "margin": {"l": 56, "r": 28, "t": 30, "b": 44},
        "autosize": True,
        "hovermode": "closest",
        "hoverlabel": {"namelength": -1, "align": "left", "font": {"size": 12}},
        **more,
    }
