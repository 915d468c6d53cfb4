"""Times as Slurm writes them."""

from __future__ import annotations

import re

TIME = r"\d{1,9}|\d{1,9}:\d\d?(:\d\d?)?|\d{1,9}-\d\d?(:\d\d?){0,2}"


def seconds(time: str) -> int:
    """Seconds in a Slurm time: minutes, m:s, h:m:s, d-h, d-h:m or d-h:m:s."""
    days, dash, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes, secs = (*parts, 0, 0)[:3]
    elif len(parts) == 3:
        hours, minutes, secs = parts
    else:
        hours, minutes, secs = (0, *parts, 0)[:3]
    return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + secs


def duration(text: str) -> int | None:
    """Seconds in a Slurm time; None for another text, such as `infinite`."""
    return seconds(text) if re.fullmatch(TIME, text, re.ASCII) else None


def clock(total: int) -> str:
    """Seconds as Slurm writes them: `1-00:30:00`."""
    days, rest = divmod(total, 86400)
    return f"{f'{days}-' if days else ''}{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
