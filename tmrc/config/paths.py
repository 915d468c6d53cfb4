"""Paths as people write them."""

from __future__ import annotations

from pathlib import Path


def expanded(name: str | Path) -> Path:
    """The path with `~` filled in; as it is where there is no such user, or none with a home directory."""
    path = Path(name)
    try:
        return path.expanduser()
    except RuntimeError:
        return path
