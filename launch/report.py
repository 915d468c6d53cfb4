"""A picture of a run: training and validation loss by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tmrc.config.errors import UserError
from tmrc.config.rundir import RunDir, read_jsonl

Points = tuple[list[int], list[float]]


def losses(rows: list[dict[str, Any]], key: str) -> Points:
    """Steps and values of the rows that have `key`."""
    found = [(int(row["step"]), float(row[key])) for row in rows if row.get(key) is not None and "step" in row]
    return [step for step, _ in found], [value for _, value in found]


def smooth(values: list[float], share: float = 0.02) -> list[float]:
    """Exponential mean over about `share` of all values, without the bias towards the first one."""
    keep = 1 - 1 / max(1.0, share * len(values))
    mean, weight, smoothed = 0.0, 0.0, []
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        smoothed.append(mean / weight)
    return smoothed


def plot_losses(run: RunDir, png: Path) -> None:
    """Write the loss curves of `run` to `png`. Raises UserError when nothing is logged or it cannot be written."""
    rows = read_jsonl(run.metrics)
    training, validation = losses(rows, "loss"), losses(rows, "val_loss")
    if not training[0] and not validation[0]:
        raise UserError(f"{run.metrics}: no losses logged yet")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _draw(axes, training, validation)
    axes.set(title=run.run_id, xlabel="step", ylabel="loss (nats a token)")
    axes.title.set_fontsize(11)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    try:
        figure.savefig(png, format="png")
    except OSError as error:
        raise UserError(f"--png: {png}: cannot be written: {error.strerror}") from None


def _draw(axes: Any, training: Points, validation: Points) -> None:
    steps, values = training
    if len(steps) > 100:  # many rows: the curve, with what it averages behind it
        axes.plot(steps, values, color="tab:blue", alpha=0.25, linewidth=0.8)
        axes.plot(steps, smooth(values), color="tab:blue", linewidth=1.6, label="training (smoothed)")
    elif steps:
        axes.plot(steps, values, color="tab:blue", linewidth=1.6, marker="o", markersize=3, label="training")
    if validation[0]:
        last = f"validation ({validation[1][-1]:.3f} at the end)"
        axes.plot(*validation, color="tab:orange", linewidth=1.6, marker="o", markersize=4, label=last)
