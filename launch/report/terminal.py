"""The report as text for a login node: a table with a small curve of each run's loss, and what became of its time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from launch.plaintext import harmless, one_line
from launch.progress import amount, duration
from launch.report.bars import SHARES, ending_words
from launch.report.entries import Entry, Facts
from launch.report.labels import last_part, middle_out
from launch.report.life import Life
from launch.report.page import headline
from launch.report.settings import shown_value
from launch.report.table import hours, notes, share, state_words
from launch.table import columns_of, cut, number
from launch.words import clock

BLOCKS, PLAIN = "▁▂▃▄▅▆▇█", "_.-=+*#@"
SPARKS = 16  # columns of a curve in the table
LONGEST_NAME, LONGEST_VALUE = 36, 20
KEYS = 4  # settings that stay as long as anything does
MOST_KEYS = 12  # settings that get a column at all where the width is known
GAP = "  "
ALL_ATTEMPTS = 3  # runs up to which every attempt gets a line
MOST_LINES = 12
MOST_NAMED = 20  # settings without a column that are named
NAMED = 3  # runs of one cause that are named
FIRST_OUT = ("TOKENS", "HOURS", "BEST", "ATT")  # columns that are left out before settings


def report_lines(facts: Facts, title: str, width: int | None, blocks: bool) -> list[str]:
    """Lines of at most `width` columns, uncut where that is None; `blocks` where the character set has them."""
    words = [one_line(f"{what} {value}{f' ({more})' if more else ''}") for what, value, more in headline(facts)]
    lines = [cut(one_line(title), width), *(cut(line, width) for line in _joined(words, width)), ""]
    lines += _table(facts, width, blocks)
    lines += _troubles(facts.entries, width)
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


def _table(facts: Facts, width: int | None, blocks: bool) -> list[str]:
    """As many columns as there is room for; those that matter least are left out first."""
    keys = facts.keys if width is None else facts.keys[:MOST_KEYS]
    columns = _columns(facts, keys, width is None, blocks)
    shown = list(columns)
    less, more = keys[KEYS:], keys[:KEYS]
    give_way = [*FIRST_OUT, *reversed(less), "GOODPUT", "LOSS", *reversed(more), "STEP", "TRAINING LOSS", "STATE"]
    widths = {name: max(map(columns_of, cells)) for name, cells in columns.items()}
    while width is not None and sum(widths[name] + len(GAP) for name in shown) - len(GAP) > width and give_way:
        shown.remove(give_way.pop(0))
    left = ("RUN", "TRAINING LOSS", "STATE", *facts.keys)
    rows = [
        GAP.join(_padded(columns[name][n], widths[name], name in left) for name in shown).rstrip()
        for n in range(len(facts.entries) + 1)
    ]
    return [*(cut(row, width) for row in rows), *_not_shown([key for key in facts.keys if key not in shown], width)]


def _not_shown(keys: Sequence[str], width: int | None) -> list[str]:
    """The settings that differ as well, and have no column."""
    if not keys:
        return []
    named = [one_line(key) for key in keys[:MOST_NAMED]] + ["and more"] * (len(keys) > MOST_NAMED)
    return _joined(["also differ in:", *(f"{name}," for name in named[:-1]), named[-1]], width, " ")


def _columns(facts: Facts, keys: Sequence[str], uncut: bool, blocks: bool) -> dict[str, list[str]]:
    """Name -> heading and cells; the name of a setting's column is its key."""
    entries, alone = facts.entries, len(facts.entries) == 1
    names = [one_line(one.run_id if alone else one.label) for one in entries]
    values = {key: [one_line(shown_value(one.differs[key])) for one in entries] for key in keys}
    cells = {
        "RUN": names if uncut else [middle_out(name, LONGEST_NAME) for name in names],
        **(values if uncut else {key: _shortened(values[key]) for key in keys}),
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


def _shortened(values: Sequence[str]) -> list[str]:
    """Long values without their middle; paths by their last parts, where these tell them apart as well."""
    if max(map(columns_of, values)) <= LONGEST_VALUE:
        return list(values)
    lasts = [last_part(value) for value in values]
    told_apart = len(set(lasts)) == len(set(values))
    return [middle_out(value, LONGEST_VALUE) for value in (lasts if told_apart else values)]


def _troubles(entries: Sequence[Entry], width: int | None) -> list[str]:
    """Why runs failed, are held, or are lost: a line for all that came to the same end."""
    ends: dict[str, list[str]] = {}
    for one in entries:
        if one.trouble:
            ends.setdefault(f"{state_words(one)}: {one.trouble}", []).append(one_line(one.label))
    lines = []
    for end, labels in list(ends.items())[:MOST_LINES]:
        more = f" and {len(labels) - NAMED:,} more" if len(labels) > NAMED else ""
        lines.append(cut(f"{', '.join(labels[:NAMED])}{more} {end}" if len(entries) > 1 else end, width))
    if len(ends) > MOST_LINES:
        lines.append(f"{len(ends) - MOST_LINES:,} other causes are in --json")
    return ["", *lines] if lines else []


def _curve(life: Life, blocks: bool) -> str:
    """The loss without the first tenth of the steps, where it falls so steeply that the rest would be flat."""
    curve = life.curves.get("smooth") or life.curves.get("loss")
    if curve is None:
        return "-"
    late = curve.steps >= curve.steps[0] + 0.1 * (curve.steps[-1] - curve.steps[0])
    values = curve.values[late] if np.count_nonzero(late) > SPARKS else curve.values
    return sparkline(values.tolist(), SPARKS, blocks)


def _time(entries: Sequence[Entry], width: int | None) -> list[str]:
    """Where the time of all runs that measured it went, the largest part first."""
    measured = [one for one in entries if one.goodput is not None]
    totals = {name: sum(one.seconds[name] for one in measured) for name in SHARES}
    wall = sum(totals.values())
    if wall <= 0:
        return []
    parts = sorted(((seconds, name) for name, seconds in totals.items() if seconds > 0), reverse=True)
    return _joined(["time:", *(f"{SHARES[name][0]} {seconds / wall:.1%}" for seconds, name in parts)], width)


def _life(entry: Entry, life: Life, width: int | None, whole: bool) -> list[str]:
    """A run's attempts, each on a line; of many runs only what is odd, and how interrupted ones came to be so."""
    ends = {one.number: one for one in life.attempts}
    name = one_line(entry.label)
    lines = [cut(f"{name}: {note}", width) for note in notes(entry)]
    if whole:
        for span in life.spans[-MOST_LINES:]:
            took = f"{clock(span.began)} for {duration(span.ended - span.began)}"
            lines.append(cut(f"  {span.attempt}  {took}: {ending_words(ends.get(span.attempt), span)}", width))
        called = f"{name}  {entry.name}" if entry.name not in ("", entry.label) else name
        return ["", cut(called, width), *lines, f"  {one_line(entry.reproduce)}"]
    return lines


def _joined(parts: Sequence[str], width: int | None, between: str = GAP) -> list[str]:
    """The parts in lines of at most `width` columns."""
    lines: list[str] = []
    for part in parts:
        if lines and (width is None or columns_of(lines[-1] + between + part) <= width):
            lines[-1] += between + part
        else:
            lines.append(part)
    return lines


def _padded(text: str, width: int, left: bool) -> str:
    space = " " * (width - columns_of(text))
    return text + space if left else space + text
