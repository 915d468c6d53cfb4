"""What runs are called: by their short ids in tables, and in charts by what sets a sweep's points apart."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from launch.plaintext import one_line
from launch.table import columns_of

LONGEST = 40  # columns of a label in a chart
LONGEST_VALUE = 20  # columns of a value in it
SHORTEST_POINT = 12  # with less room than this beside the id, the id stands alone
_KEY = r"[+~]*[\w.@/]+="  # where an override begins; a value may hold spaces


def short_labels(ids: Sequence[str]) -> list[str]:
    """The ids without the beginning that all of them share, cut at a dash; one id stays whole."""
    if len(set(ids)) < 2:
        return list(ids)
    first, last = min(ids), max(ids)
    same = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    shared = first[:same].rpartition("-")[0]
    return [name[len(shared) :].removeprefix("-") or name for name in ids]


def names(labels: Sequence[str], points: Sequence[str | None], sweeps: Sequence[str]) -> list[str]:
    """What charts call runs, in at most LONGEST columns each: a sweep's point by what sets it apart, else its label.

    `labels` are the short ids, `points` the overrides of those that are points (launch.status.RunStatus.point), and
    `sweeps` tell which points are of one sweep. The id is added to points of the same name, or of several sweeps.
    """
    shorts = [_point(point) if point else "" for point in points]
    several = len({sweep for sweep, short in zip(sweeps, shorts, strict=True) if short}) > 1
    often = Counter(cut_end(short, LONGEST) for short in shorts)
    found = []
    for label, short in zip(labels, shorts, strict=True):
        alone = bool(short) and not several and often[cut_end(short, LONGEST)] == 1
        found.append(cut_end(short, LONGEST) if alone else _with_id(short, label) if short else label)
    return found


def last_part(value: str) -> str:
    """A path without the directories that lead to it; any other text as it is."""
    return value.rstrip("/").rpartition("/")[2] or value


def short_value(text: str) -> str:
    """A value in few characters: a path by its last part, other long texts without their middle."""
    return middle_out(last_part(text), LONGEST_VALUE)


def middle_out(text: str, room: int) -> str:
    """A long text without its middle."""
    half = (room - 1) // 2
    return text if columns_of(text) <= room else f"{text[: room - 1 - half]}…{text[-half:]}"


def cut_end(text: str, room: int) -> str:
    """A long text without its end."""
    return text if columns_of(text) <= room else f"{text[: room - 1].rstrip()}…"


def short_number(value: float, digits: int = 4) -> str:
    """`value` with so many significant digits, and not fewer before the point: `0.0003162`, `20,000`, `1e-5`."""
    if not math.isfinite(value):
        return str(value)
    if 1000 <= abs(value) < 1e7:
        return f"{value:,.0f}"
    return re.sub(r"e([+-])0*", lambda found: "e-" if found[1] == "-" else "e", f"{value:.{digits}g}")


def _with_id(short: str, label: str) -> str:
    room = LONGEST - columns_of(label) - len(" ()")
    return f"{cut_end(short, room)} ({label})" if room >= SHORTEST_POINT else label


def _point(point: str) -> str:
    """`++optimizer.lr=0.00031622776 datasets.path=/data/b` as `lr=0.0003162 path=b`."""
    overrides = re.split(rf"\s+(?={_KEY})", one_line(point))
    return " ".join(_override(one) for one in overrides)


def _override(text: str) -> str:
    key, equals, value = text.partition("=")
    return f"{re.split(r'[.+~]', key)[-1]}{equals}{_value(value)}"


def _value(text: str) -> str:
    """A value in few characters: a number as it is written, if that has no more than four digits."""
    try:
        short = short_number(float(text)).replace(",", "")
    except ValueError:
        return short_value(text)
    whole = text.lstrip("+-").isdecimal()
    return text if whole or len(text) <= len(short) else short
