"""A picture of runs for a slide or a mail: training and validation loss by step."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from launch.report.entries import Facts
from launch.report.life import Curve, Life
from launch.report.looks import DARK, DASHES, FEW, PALETTE, SCALE, on_scale, spread
from launch.report.output import PICTURE
from tmrc.config.errors import UserError

_LINES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}


def picture(facts: Facts, title: str) -> bytes:
    """A PNG. Raises UserError when no run has logged a loss."""
    if not any({"loss", "val_loss"} & life.curves.keys() for life in facts.lives):
        raise UserError(f"--png: {facts.lives[0].run.metrics if facts.lives else title}: no losses logged yet")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    alone = len(facts.lives) == 1
    figure = Figure(figsize=(8, 4.5) if alone else (12, 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title.replace("$", r"\$"), fontsize=11)
    if alone:
        _one(figure.add_subplot(), facts.lives[0])
    else:
        _many(figure, facts)
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": PICTURE.decode()})
    return content.getvalue()


def _one(axes: Any, life: Life) -> None:
    raw, mean, validation = (life.curves.get(key) for key in ("loss", "smooth", "val_loss"))
    if raw is not None and mean is not None:  # many rows: the curve, with what it averages behind it
        axes.plot(raw.steps, raw.values, color=PALETTE[0], alpha=0.25, linewidth=0.8)
        axes.plot(mean.steps, mean.values, color=PALETTE[0], linewidth=1.6, label="training (smoothed)")
    elif raw is not None:
        axes.plot(raw.steps, raw.values, color=PALETTE[0], linewidth=1.6, marker="o", markersize=3, label="training")
    if validation is not None:
        last = f"validation ({validation.values[-1]:.3f} at the end)"
        axes.plot(
            validation.steps, validation.values, color=PALETTE[1], linewidth=1.6, marker="s", markersize=3.5, label=last
        )
    _finish(axes, "loss (nats a token)")
    axes.legend(frameon=False)


def _many(figure: Any, facts: Facts) -> None:
    panels = figure.subplots(1, 2)
    few = len(facts.lives) <= FEW
    scale = [] if few else on_scale([one.val_loss for one in facts.entries])
    for n, (entry, life) in enumerate(zip(facts.entries, facts.lives, strict=True)):
        dash = _LINES[DASHES[n // len(PALETTE) % len(DASHES)]] if few else "-"
        look = {"color": PALETTE[n % len(PALETTE)] if few else _rgb(scale[n]), "linestyle": dash, "linewidth": 1.3}
        label = entry.name.replace("$", r"\$")
        for axes, curve in zip(panels, (_training(life), life.curves.get("val_loss")), strict=True):
            if curve is not None:
                axes.plot(curve.steps, curve.values, label=f" {label}", **look)
    _finish(panels[0], "training loss (nats a token)")
    _finish(panels[1], "validation loss (nats a token)")
    if few:
        handles, labels = max((axes.get_legend_handles_labels() for axes in panels), key=lambda pair: len(pair[1]))
        figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)
    elif known := [one.val_loss for one in facts.entries if one.val_loss is not None]:
        _scale(figure, panels, known)


def _scale(figure: Any, panels: Any, losses: list[float]) -> None:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    colours = ListedColormap(colormaps[SCALE.lower()](np.linspace(0, DARK, 256)))
    figure.colorbar(ScalarMappable(Normalize(*spread(losses)), colours), ax=list(panels), label="last validation loss")


def _training(life: Life) -> Curve | None:
    return life.curves.get("smooth") or life.curves.get("loss")


def _finish(axes: Any, label: str) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set(xlabel="step", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _rgb(colour: str) -> Any:
    """A colour of plotly's, as matplotlib takes it."""
    if colour.startswith("#"):
        return colour
    return tuple(float(part) / 255 for part in colour[4:-1].split(","))
