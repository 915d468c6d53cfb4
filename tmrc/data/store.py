"""Data sets by name, looked up in tatm's metadata store. tatm is optional; reading and writing data need none of it."""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from tmrc.config.errors import DataError, shown

_INSTALL = "pip install 'tatm @ git+https://github.com/KempnerInstitute/tatm'"


def look_up(name: str) -> tuple[dict[str, Any], Path]:
    """What tatm's metadata store says of a data set, and where its metadata file would be. Raises DataError."""
    try:
        store = importlib.import_module("tatm.data.metadata_store")
    except ImportError as error:
        raise DataError(
            f"{name}: no such directory, and a data set's name is looked up by tatm, which is not installed: give "
            f"datasets.path, or {_INSTALL}"
        ) from error
    try:
        with contextlib.redirect_stdout(sys.stderr):  # tatm prints which store it uses; stdout may be our JSON
            found = store.get_metadata(name)
        content = json.loads(found) if found is not None else None
    except Exception as error:  # whatever the site's store raises, the user sees one line
        raise DataError(f"{name}: tatm's metadata store failed: {type(error).__name__}: {error}") from error
    if content is None:
        raise DataError(f"{name}: no such directory, and not in tatm's metadata store: give datasets.path")
    if not isinstance(content, dict):
        raise DataError(f"{name}: tatm's metadata store has no keys and values for it, but {shown(content)}")
    return content, Path(str(content.get("dataset_path") or ".")) / "metadata.yaml"
