"""Tokenized data in tatm's format. `open_dataset` is loaded on first use: the launcher's part needs no numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tmrc.data.dataset import open_dataset

__all__ = ["open_dataset"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tmrc.data import dataset

    return getattr(dataset, name)
