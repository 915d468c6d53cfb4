"""Runs as a table that fits its width: columns give way, numbers are never cut."""

from __future__ import annotations

import math
import re
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from launch.plaintext import one_line
from launch.progress import amount, duration
from launch.standing import STATES
from launch.status import RunStatus

GAP = "  "
NOTE_WIDTH = 30  # with less room than this beside the columns, notes get lines of their own
SHORTEST_NAME = 12
POINT_WIDTH = 40
STARTS = "starts it: no checkpoint yet"  # what --resume does then
GIVE_WAY = ("TOKENS/S", "VAL", "ATT", "SAVED", "ETA", "LOSS")  # columns that are left out first when there is no room
_COLOURS = {
    "running": "32", "starting": "32", "saving": "33", "pending": "36", "suspended": "36",
    "failed": "31", "held": "31", "lost": "31", "cancelled": "33", "stopped": "33",
}  # fmt: skip


@dataclass(frozen=True)
class _Column:
    name: str
    text: Callable[[RunStatus], str]
    right: bool = True


def table(found: Sequence[RunStatus], width: int | None, colour: bool) -> list[str]:
    """Lines for runs, those that run last, with a heading and a summary. `width` None is as wide as it gets."""
    return [*rows(found, width, colour), *_summary(found, width)]


def rows(found: Sequence[RunStatus], width: int | None, colour: bool, brief: bool = False) -> list[str]:
    """The same without the summary; `brief`: without notes of active runs where these would take lines of their own."""
    ordered = in_order(found)
    columns = [column for column in _COLUMNS if column.name != "POINT" or any(one.point for one in found)]
    cells = {column.name: [column.name, *(column.text(one) for one in ordered)] for column in columns}
    widths = {name: max(map(columns_of, texts)) for name, texts in cells.items()}
    shown = _that_fit(widths, width)
    used = sum(widths[name] for name in shown) + len(GAP) * (len(shown) - 1)
    room = None if width is None else width - used - len(GAP)
    beside = room is None or room >= NOTE_WIDTH
    lines = []
    for n in range(len(ordered) + 1):
        one = ordered[n - 1] if n else None
        line = GAP.join(_cell(name, cells[name][n], widths[name], one if colour else None) for name in shown)
        note = note_of(one) if one else "WHERE, OR WHY" if beside else ""
        if note and beside:
            line += GAP + cut(note, room)
        lines.append(line.rstrip())
        if note and not beside and not (brief and one and one.active):
            lines.append(GAP * 2 + cut(note, max(SHORTEST_NAME, (width or 0) - 2 * len(GAP))))
    return lines


def in_order(found: Sequence[RunStatus]) -> list[RunStatus]:
    """Those that run last; else as they were made, the points of a sweep by their numbers."""
    made: dict[str, float] = {}
    for one in found:
        group = _group(one)
        made[group] = min(made.get(group, math.inf), one.created)
    return sorted(found, key=lambda one: (one.active, made[_group(one)], one.run_id))


def _group(one: RunStatus) -> str:
    """A sweep's points belong together; any other run stands for itself."""
    return one.run_dir.rpartition("/")[0] if one.point is not None else one.run_dir


def counts(found: Sequence[RunStatus]) -> str:
    """How many runs are in which state, in the order of STATES."""
    number = Counter(one.state for one in found)
    return ", ".join(f"{number[state]:,} {state}" for state in STATES if number[state])


def note_of(one: RunStatus) -> str:
    """Where a run is, why it waits, or why it ended."""
    cause = one_line(one.cause or "")
    if one.state == "pending":
        waits = one.waits or ("the queue is unknown" if not one.sure else "")
        return f"{one_line(waits)}{f'; last: {cause}' if cause else ''}".removeprefix("; ")
    if one.active:
        left = f" ({duration(one.time_left)} left)" if one.time_left is not None else ""
        unsure = "" if one.sure else " (as its files have it; nobody could be asked)"
        return f"{one_line(one.where or '')}{left}{unsure}".strip()
    return "" if one.state == "finished" else cause


def state_of(one: RunStatus) -> str:
    """The state, with a question mark where only files tell of it."""
    return one.state + ("" if one.sure else "?")


def point_of(one: RunStatus) -> str:
    """What sets a point of a sweep apart, without the sections of its keys: `lr=0.0003 n_layer=4`."""
    return cut(re.sub(r"(?<!\S)\+*(?:\w+\.)+", "", one_line(one.point or "")), POINT_WIDTH)


def steps_of(one: RunStatus) -> str:
    """`1,200/20,000`, as far as it is known."""
    done = "-" if one.step is None else f"{one.step:,}"
    return done if one.total_steps is None else f"{done}/{one.total_steps:,}"


def number(value: float | None) -> str:
    """A loss to four decimals."""
    return "-" if value is None else f"{value:.4f}" if abs(value) < 1e5 else f"{value:.4g}"


def since(moment: float | None) -> str:
    """How long ago a unix time was."""
    return "-" if moment is None else duration(max(0.0, time.time() - moment))


def painted(text: str, state: str) -> str:
    """`text` in the colour of a state."""
    code = _COLOURS.get(state)
    return f"\x1b[{code}m{text}\x1b[0m" if code else text


def columns_of(text: str) -> int:
    """How many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def cut(text: str, room: int | None) -> str:
    """`text`, ended between two words when it is longer than `room` columns."""
    if room is None or columns_of(text) <= room:
        return text
    kept = ""
    for word in re.findall(r"\S+\s*", text):
        if columns_of(kept + word.rstrip()) > room - 2:
            break
        kept += word
    return f"{kept.rstrip()} …".lstrip()


def _short_name(name: str, room: int) -> str:
    """A run's id without its middle: its beginning is what it is looked up by, its end tells runs of one name apart."""
    half = (room - 1) // 2
    return name if columns_of(name) <= room else f"{name[: room - 1 - half]}…{name[-half:]}"


def _that_fit(widths: dict[str, int], width: int | None) -> list[str]:
    """The columns for which there is room; `widths` is changed when even the run's id must be shortened."""
    shown = list(widths)
    for name in ("", *GIVE_WAY):
        shown = [one for one in shown if one != name]
        over = sum(widths[one] for one in shown) + len(GAP) * (len(shown) - 1) - (width or 0)
        if width is None or over <= 0:
            return shown
    widths["RUN"] = max(SHORTEST_NAME, widths["RUN"] - over)
    return shown


def _cell(name: str, text: str, width: int, coloured: RunStatus | None) -> str:
    right = next(column.right for column in _COLUMNS if column.name == name)
    text = _short_name(text, width) if name == "RUN" else text
    padding = " " * (width - columns_of(text))
    if name == "STATE" and coloured is not None:
        text = painted(text, coloured.state)
    return padding + text if right else text + padding


def _summary(found: Sequence[RunStatus], width: int | None) -> list[str]:
    if len(found) < 2:
        return []
    lines = [cut(f"{len(found):,} runs: {counts(found)}", width)]
    if any(one.state == "lost" for one in found):
        saved = [one.checkpoint_step is not None for one in found if one.state == "lost"]
        lines.append(cut(f"lost: tmrc-submit --resume RUN {_what_resume_does(saved)}", width))
    return ["", *lines]


def _what_resume_does(saved: Sequence[bool]) -> str:
    """To runs of which these have a checkpoint."""
    if not any(saved):
        return STARTS
    return "goes on from the last checkpoint" + ("" if all(saved) else "; without one, it starts the run")


_COLUMNS = (
    _Column("RUN", lambda one: one_line(one.run_id), right=False),
    _Column("POINT", point_of, right=False),
    _Column("STATE", state_of, right=False),
    _Column("STEP", steps_of),
    _Column("LOSS", lambda one: number(one.loss)),
    _Column("VAL", lambda one: number(one.val_loss)),
    _Column("TOKENS/S", lambda one: "-" if one.tokens_per_s is None else amount(one.tokens_per_s)),
    _Column("ETA", lambda one: "-" if one.eta is None else duration(one.eta)),
    _Column("ATT", lambda one: str(one.attempts) if one.attempts else "-"),
    _Column("SAVED", lambda one: since(one.checkpoint_time)),
)
