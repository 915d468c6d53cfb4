"""The report as text for a login node: a table with a small curve of each run's loss, and what became of its time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from launch.plaintext import harmless, one_line
from launch.progress import amount, duration
from launch.report.bars import SHARES, ending_words
from launch.report.entries import Entry, Facts
from launch.report.life import Life
from launch.report.page import headline
from launch.report.settings import shown_value
from launch.report.table import hours, notes, share, state_words
from launch.table import columns_of, cut, number
from launch.words import clock

BLOCKS, PLAIN = "▁▂▃▄▅▆▇█", "_.-=+*#@"
SPARKS = 16  # columns of a curve in the table
LONGEST_NAME = 36
KEYS = 4  # settings that get a column each
GAP = "  "
ALL_ATTEMPTS = 3  # runs up to which every attempt gets a line
MOST_LINES = 12


def report_lines(facts: Facts, title: str, width: int, blocks: bool) -> list[str]:
    """Lines of at most `width` columns; `blocks` where the terminal's character set has them."""
    words = [one_line(f"{what} {value}{f' ({more})' if more else ''}") for what, value, more in headline(facts)]
    lines = [cut(one_line(title), width), *_joined(words, width), ""]
    lines += _table(facts, width, blocks)
    lines += ["", *_time(facts.entries, width)]
    for entry, life in zip(facts.entries, facts.lives, strict=True):
        lines += _life(entry, life, width, len(facts.entries) <= ALL_ATTEMPTS)
    return [harmless(line).rstrip() for line in lines]


def sparkline(values: Sequence[float], columns: int, blocks: bool) -> str:
    """The curve of `values` in `columns` characters, from their lowest to their highest; a gap is a space."""
    marks = BLOCKS if blocks else PLAIN
    array = np.asarray(values, np.float64)
    parts = np.array_split(array, min(columns, len(array))) if len(array) else []
    means = [float(np.mean(part[np.isfinite(part)])) if np.isfinite(part).any() else math.nan for part in parts]
    known = [mean for mean in means if math.isfinite(mean)]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    step = (high - low) / (len(marks) - 1) or 1.0
    return "".join(marks[round((mean - low) / step)] if math.isfinite(mean) else " " for mean in means)


def _table(facts: Facts, width: int, blocks: bool) -> list[str]:
    """As many columns as there is room for; those that matter least are left out first."""
    columns = _columns(facts, blocks)
    shown = list(columns)
    give_way = [
        "ATT",
        "TOKENS",
        "BEST",
        "HOURS",
        "LOSS",
        "GOODPUT",
        *reversed(facts.keys[:KEYS]),
        "STEP",
        "TRAINING LOSS",
        "STATE",
    ]
    widths = {name: max(map(columns_of, cells)) for name, cells in columns.items()}
    while sum(widths[name] + len(GAP) for name in shown) - len(GAP) > width and give_way:
        shown.remove(give_way.pop(0))
    left = ("RUN", "TRAINING LOSS", "STATE", *facts.keys)
    rows = [
        GAP.join(_padded(columns[name][n], widths[name], name in left) for name in shown).rstrip()
        for n in range(len(facts.entries) + 1)
    ]
    return [row if columns_of(row) <= width else cut(row, width) for row in rows]


def _columns(facts: Facts, blocks: bool) -> dict[str, list[str]]:
    """Name -> heading and cells; the name of a setting's column is its key."""
    entries, alone = facts.entries, len(facts.entries) == 1
    keys = facts.keys[:KEYS]
    cells = {
        "RUN": [_middle_out(one_line(one.run_id if alone else one.label), LONGEST_NAME) for one in entries],
        **{key: [_middle_out(one_line(shown_value(one.differs[key])), 20) for one in entries] for key in keys},
        "TRAINING LOSS": [_curve(life, blocks) for life in facts.lives],
        "VAL": [number(one.val_loss) for one in entries],
        "BEST": [number(one.best_val_loss) for one in entries],
        "LOSS": [number(one.loss) for one in entries],
        "STEP": ["-" if one.step is None else f"{one.step:,}" for one in entries],
        "TOKENS": ["-" if one.tokens is None else amount(one.tokens) for one in entries],
        "HOURS": [hours(one.device_hours) for one in entries],
        "GOODPUT": [share(one.goodput) for one in entries],
        "ATT": [str(one.attempts) for one in entries],
        "STATE": [state_words(one) for one in entries],
    }
    heads = {key: one_line(key.rpartition(".")[2]).upper() for key in keys}
    return {name: [heads.get(name, name), *column] for name, column in cells.items()}


def _curve(life: Life, blocks: bool) -> str:
    """The loss without the first tenth of the steps, where it falls so steeply that the rest would be flat."""
    curve = life.curves.get("smooth") or life.curves.get("loss")
    if curve is None:
        return "-"
    late = curve.steps >= curve.steps[0] + 0.1 * (curve.steps[-1] - curve.steps[0])
    values = curve.values[late] if np.count_nonzero(late) > SPARKS else curve.values
    return sparkline(values.tolist(), SPARKS, blocks)


def _time(entries: Sequence[Entry], width: int) -> list[str]:
    """Where the time of all runs that measured it went, the largest part first."""
    measured = [one for one in entries if one.goodput is not None]
    totals = {name: sum(one.seconds[name] for one in measured) for name in SHARES}
    wall = sum(totals.values())
    if wall <= 0:
        return []
    parts = sorted(((seconds, name) for name, seconds in totals.items() if seconds > 0), reverse=True)
    return _joined(["time:", *(f"{SHARES[name][0]} {seconds / wall:.1%}" for seconds, name in parts)], width)


def _life(entry: Entry, life: Life, width: int, whole: bool) -> list[str]:
    """A run's attempts, each on a line; of many runs only what is odd, and how interrupted ones came to be so."""
    ends = {one.number: one for one in life.attempts}
    name = one_line(entry.label)
    lines = [cut(f"{name}: {note}", width) for note in notes(entry)]
    if whole:
        for span in life.spans[-MOST_LINES:]:
            took = f"{clock(span.began)} for {duration(span.ended - span.began)}"
            lines.append(cut(f"  {span.attempt}  {took}: {ending_words(ends.get(span.attempt), span)}", width))
        return ["", f"{name}", *lines, *(["  " + line for line in _joined([one_line(entry.reproduce)], width - 2)])]
    return lines


def _joined(parts: Sequence[str], width: int) -> list[str]:
    """The parts in lines of at most `width` columns."""
    lines: list[str] = []
    for part in parts:
        if lines and columns_of(lines[-1]) + 2 + columns_of(part) <= width:
            lines[-1] += f"  {part}"
        else:
            lines.append(part)
    return lines


def _padded(text: str, width: int, left: bool) -> str:
    space = " " * (width - columns_of(text))
    return text + space if left else space + text


def _middle_out(text: str, room: int) -> str:
    """A long text without its middle."""
    half = (room - 1) // 2
    return text if columns_of(text) <= room else f"{text[: room - 1 - half]}…{text[-half:]}"
