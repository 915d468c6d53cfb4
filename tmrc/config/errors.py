"""Errors that a person can mend: one line, exit code 2, never a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MAX_MESSAGE = 2_000  # characters: what was given stands in the message and may be a megabyte long


class UserError(Exception):
    """Something in the user's input is wrong. The message is one line naming what, where and what is valid."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(shortened(" ".join(message.split())))


class ConfigError(UserError):
    """A key, value or contradiction in the configuration."""


class DataError(UserError):
    """A data set that is missing, damaged or does not fit the configuration."""


class CheckpointError(UserError):
    """No usable checkpoint where one is needed."""


def shortened(text: str, limit: int = MAX_MESSAGE) -> str:
    """`text` with its middle left out where it is longer than `limit` characters."""
    half = (limit - 5) // 2
    return text if len(text) <= limit else f"{text[:half]} ... {text[-half:]}"


def shown(value: object, limit: int = 80) -> str:
    """`value` as it is put into an error line: its repr, cut to `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def nearest(given: str, valid: Iterable[str]) -> str:
    """A hint such as ``; did you mean 'n_head'?``, or nothing when no valid name is near."""
    close = difflib.get_close_matches(given, list(valid), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
