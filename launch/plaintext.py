"""Text from files, made harmless for a terminal: what a run has printed must not move the cursor or retitle windows."""

from __future__ import annotations

import re

_COLOURS = re.compile(r"\x1b\[[0-9;:]*m")
# C0 without tab and newline, DEL, C1, and what reorders or hides what is shown
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def harmless(text: str) -> str:
    """`text` with newlines and tabs kept, colours dropped, and every other control character written out."""
    text = _COLOURS.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return _CONTROLS.sub(_written, text)


def one_line(text: str) -> str:
    """`text` on one line, harmless."""
    return " ".join(harmless(text).split())


def _written(match: re.Match[str]) -> str:
    code = ord(match[0])
    return "^" + chr(code ^ 64) if code < 128 else f"\\u{code:04x}"


def wrapped(text: str, width: int | None, indent: str) -> list[str]:
    """`text` as lines of at most `width` columns, broken between words alone, the later ones after `indent`.

    None is as wide as it gets. A word that fits on no line, such as a long path, stays where it is: textwrap would
    begin another line for it, and what is said of it would stand alone.
    """
    lines = [""]
    for word in re.findall(r"\s*\S+", text):
        if width is not None and len(lines[-1] + word) > width >= len(indent + word.lstrip()):
            lines.append(indent + word.lstrip())
        else:
            lines[-1] += word
    return lines
