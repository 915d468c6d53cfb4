"""Directories that exist whole or not at all, whatever is killed or unplugged while they are written.

Files are written into a temporary directory and synced, a manifest with the size and SHA-256 of each is written last,
and one rename makes the directory appear under its name (the order of Pillai et al. 2014, "All File Systems Are Not
Created Equal").
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
_BLOCK = 1 << 22


def sync(path: Path) -> None:
    """Wait until the file or directory `path` is on stable storage."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON to `path`, durable when this returns. Floats keep every bit (repr)."""
    with path.open("w", encoding="utf8") as file:
        json.dump(value, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, data: bytes) -> None:
    """Replace the content of `path` in one step, durable when this returns."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync(path.parent)


def sha256(path: Path) -> str:
    """SHA-256 of the file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def seal(directory: Path) -> None:
    """Sync every file in `directory`, then write the manifest and sync the directory."""
    files = sorted(path for path in directory.iterdir() if path.name != MANIFEST)
    for path in files:
        sync(path)
    listed = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in files}
    write_json(directory / MANIFEST, {"version": 1, "files": listed})
    sync(directory)


def commit(temporary: Path, final: Path) -> None:
    """Give the sealed directory `temporary` its name `final`. Raises FileExistsError when the name is taken."""
    if final.exists():
        raise FileExistsError(f"{final} is there already")
    temporary.rename(final)
    sync(final.parent)


def problem(directory: Path, required: Sequence[str] = ()) -> str | None:
    """What is wrong with the sealed `directory`, or None when every byte is as it was written.

    `required` are files that the manifest must list.
    """
    try:
        manifest = json.loads((directory / MANIFEST).read_bytes())
        files = manifest["files"]
        expected = {str(name): (entry["bytes"], entry["sha256"]) for name, entry in files.items()}
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is damaged"
    if not expected:
        return f"{MANIFEST} lists no file"
    for name in required:
        if name not in expected:
            return f"{MANIFEST} does not list {name}"
    for name, (size, digest) in expected.items():
        path = directory / name
        if Path(name).name != name or not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes instead of {size:,}"
        if sha256(path) != digest:
            return f"{name} is damaged (its SHA-256 differs from the manifest's)"
    return None
