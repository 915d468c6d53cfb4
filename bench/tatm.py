"""tatm's reader from a checkout, without the packages that the rest of tatm needs."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from typing import Any, NamedTuple

from bench.harness import Given

# What reading tokens does not use: the package's own command line and data store, and pictures
_FOLDERS = {"tatm": "tatm", "tatm.data": "tatm/data"}
_EMPTY = ("tatm.data.metadata_store", "PIL", "PIL.Image")


class Tatm(NamedTuple):
    """`datasets` has TatmMemmapDataset and _get_document_ids, `utils` has torch_collate_fn."""

    datasets: Any
    utils: Any


def load_tatm(given: Given) -> Tatm:
    """tatm's modules, run as they are. Raises Missing."""
    source = given.peer("tatm", "src/tatm/data/datasets.py") / "src"
    before = dict(sys.modules)
    try:
        for name, folder in _FOLDERS.items():
            _put(name).__path__ = [str(source / folder)]  # a package whose own __init__ is not run
        for name in _EMPTY:
            _put(name)
        sys.modules["PIL"].Image = sys.modules["PIL.Image"]  # type: ignore[attr-defined]
        return Tatm(importlib.import_module("tatm.data.datasets"), importlib.import_module("tatm.data.utils"))
    finally:
        for name in (*_EMPTY, *_FOLDERS):
            sys.modules.pop(name, None)
        sys.modules.update({name: module for name, module in before.items() if name not in sys.modules})


def open_tatm(tatm: Tatm, folder: Path, name: str, context_length: int) -> Any:
    """The data set with shards `name_<n>.bin` in `folder`."""
    return tatm.datasets.TatmMemmapDataset(str(folder / name), context_length)


def _put(name: str) -> types.ModuleType:
    sys.modules[name] = types.ModuleType(name)
    return sys.modules[name]
