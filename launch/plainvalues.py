"""The commonest values of a sweep, read without Hydra's parser, whose import takes longer than all else that -m does.

What is read here means what it means to Hydra; whatever is not plain is left to Hydra.
"""

from __future__ import annotations

import re

Plain = int | float | str
_INT = r"[+-]?(?:0|[1-9][0-9]{0,17})"
_ONE = re.compile(
    rf"(?P<int>{_INT})|(?P<float>{_INT}(?:\.[0-9]{{1,17}}(?:[eE][+-]?[0-9]{{1,2}})?|[eE][+-]?[0-9]{{1,2}}))|[A-Za-z_]\w*"
    r"|\.{0,2}/[\w./-]*",  # a path
    re.ASCII,
)
_RANGE = re.compile(rf"range\(({_INT}),({_INT})(?:,({_INT}))?\)")
_CHOICE = re.compile(r"choice\(([^()]*)\)")
_OTHERWISE = ("true", "false", "null", "inf", "nan")  # words that Hydra takes for values of another kind


def plain_values(text: str, most: int) -> list[Plain] | None:
    """The values of `1e-4,3e-4`, `choice(relu,gelu)`, `range(4,9,2)` or of one; None where Hydra is to be asked.

    A range of more than `most` is left to Hydra, and what is none or empty too: it knows how to refuse it.
    """
    if match := _RANGE.fullmatch(text):
        first, end, step = int(match[1]), int(match[2]), int(match[3] or 1)
        numbers = range(first, end, step) if step else range(0)
        return list(numbers) if 0 < len(numbers) <= most else None
    choice = _CHOICE.fullmatch(text)
    matches = [_ONE.fullmatch(one) for one in (choice[1] if choice else text).split(",")]
    if len(matches) > most:
        return None
    values = [_value(match) for match in matches if match and match[0].lower() not in _OTHERWISE]
    return values if len(values) == len(matches) else None


def _value(match: re.Match[str]) -> Plain:
    if match["int"]:
        return int(match[0])
    return float(match[0]) if match["float"] else match[0]
