"""How long the texts of a configuration become when `${key}` is filled in, known before anything is filled in.

A text that repeats another one ten times, which repeats a third one ten times, and so on, fits on a page and fills any
memory: what XML knows as "billion laughs".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tmrc.config.build import Where
from tmrc.config.errors import ConfigError
from tmrc.config.yaml_file import MAX_STRING

_REFERENCE = re.compile(r"\$\{\s*(\.*)([^}:]*?)\s*\}")


def refuse_growth(values: Mapping[str, Any], where: Where) -> None:
    """Raise ConfigError for the first text that would be longer than a text may be. Nothing is resolved."""
    texts = dict(_leaves(values, ""))
    sizes: dict[str, int] = {}
    for dotted in texts:
        if _size(dotted, texts, sizes) > MAX_STRING and "${" in texts[dotted]:
            raise ConfigError(
                f"{where(dotted)}: {dotted}: grows to more than {MAX_STRING:,} characters when ${{...}} is filled in"
            )


def _leaves(values: Any, dotted: str) -> Iterator[tuple[str, str]]:
    """Dotted key (list items by number) and text of all that is neither list nor mapping."""
    if isinstance(values, dict | list):
        for name, value in values.items() if isinstance(values, dict) else enumerate(values):
            yield from _leaves(value, f"{dotted}.{name}" if dotted else str(name))
    else:
        yield dotted, values if isinstance(values, str) else ""


def _size(dotted: str, texts: Mapping[str, str], sizes: dict[str, int]) -> int:
    """Characters of the text at `dotted`, and one for each that it is made of. One that leads to itself counts once."""
    if dotted not in sizes:
        text = texts[dotted]
        sizes[dotted] = len(text) + 1  # while it is being counted
        for reference in _REFERENCE.finditer(text):
            sizes[dotted] += sum(_size(one, texts, sizes) for one in _meant(reference, dotted, texts))
    return sizes[dotted]


def _meant(reference: re.Match[str], dotted: str, texts: Mapping[str, str]) -> list[str]:
    """The texts that a `${key}` stands for: one, or all of a section. Dots in front are levels up from where it is."""
    levels, key = len(reference[1]), reference[2].replace("[", ".").replace("]", "").strip(".")
    parents = dotted.split(".")[:-levels] if levels else []
    name = ".".join([*parents, *([key] if key else [])])
    return [one for one in texts if one == name or one.startswith(f"{name}.")]
