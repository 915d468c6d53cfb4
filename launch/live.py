"""Runs as a table for a screen of so many lines: how many are in which state on top, and the runs that matter now."""

from __future__ import annotations

import time
from collections.abc import Sequence

from launch.status import RunStatus
from launch.table import counts, cut, rows

HAVE_NODES = ("starting", "running", "saving", "suspended")
WENT_WRONG = ("failed", "held", "lost")


def live(found: Sequence[RunStatus], width: int | None, colour: bool, height: int) -> list[str]:
    """At most `height` lines, from three lines on. Runs for which there is no room are counted in the last line."""
    name = "run" if len(found) == 1 else "runs"
    top = cut(f"{time.strftime('%H:%M:%S')}  {len(found):,} {name}: {counts(found)}", width)
    shown = rows(found, width, colour)
    if len(shown) + 1 <= height:
        return [top, *shown]
    for number in range(min(len(found), height), 0, -1):  # with its note, a run may take two lines
        kept = chosen(found, number)
        shown = rows(kept, width, colour, brief=True)
        if len(shown) + 2 <= height:
            there = {id(one) for one in kept}
            hidden = [one for one in found if id(one) not in there]
            more = cut(f"no room for {len(hidden):,} more: {counts(hidden)}", width) if hidden else ""
            return [top, *shown, *([more] if more else [])]
    return [top]


def chosen(found: Sequence[RunStatus], number: int) -> list[RunStatus]:
    """`number` runs: those that have nodes and the last that went wrong, then those that wait, then the newest others.

    What went wrong gets a quarter of the room at least, so that it shows beside ever so many that run.
    """
    newest = sorted(found, key=_last_sign, reverse=True)
    running = [one for one in newest if one.state in HAVE_NODES]
    wrong = [one for one in newest if one.state in WENT_WRONG]
    wrong = wrong[: max(number // 4, number - len(running))]
    waiting = [one for one in newest if one.state == "pending"]
    others = [one for one in newest if one.state not in (*HAVE_NODES, *WENT_WRONG, "pending")]
    return [*running[: number - len(wrong)], *wrong, *waiting, *others][:number]


def _last_sign(one: RunStatus) -> tuple[float, str]:
    return max(one.created, one.checkpoint_time or 0.0), one.run_id
