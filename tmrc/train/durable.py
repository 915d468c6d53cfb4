"""Directories that exist whole or not at all, whatever is killed or unplugged while they are written.

Files are written into a temporary directory and synced, a manifest with the size and SHA-256 of each is written last,
and one rename makes the directory appear under its name (the order of Pillai et al. 2014, "All File Systems Are Not
Created Equal").
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tmrc.config.errors import shown

MANIFEST = "manifest.json"
LARGEST_JSON = 1 << 20  # bytes of a JSON file that are read
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Flaw:
    """What is wrong with a sealed directory, in a few words.

    `may_pass`: something is missing or cannot be read. On a network file system that can be otherwise a moment later.
    `unread`: reading failed, which says nothing about what is on the disk.
    """

    text: str
    may_pass: bool = False
    unread: bool = False


def sync(path: Path) -> None:
    """Wait until the file or directory `path` is on stable storage."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON to `path`, durable when this returns. Floats keep every bit (repr)."""
    with path.open("wb") as file:
        file.write(_json(value))
        file.flush()
        os.fsync(file.fileno())


def read_json(path: Path, largest: int = LARGEST_JSON) -> Any:
    """The value in a JSON file of up to `largest` bytes. Raises OSError, and ValueError for what is no such."""
    with open_file(path) as fd:
        text = _read(fd, largest + 1)
    if len(text) > largest:
        raise ValueError(f"is larger than {largest:,} bytes")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def replace_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as JSON in one step, durable when this returns."""
    replace_file(path, _json(value))


def replace_file(path: Path, data: bytes) -> None:
    """Replace the content of `path` in one step, durable when this returns."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync(path.parent)


@contextmanager
def open_file(path: Path) -> Iterator[int]:
    """A descriptor to read the regular file `path`. Raises OSError, and ValueError for anything that is none.

    A pipe in a file's place does not hold us up, and a device is not opened.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("is not a file")
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("is not a file")
        yield fd
    finally:
        os.close(fd)


def sha256(path: Path) -> str:
    """SHA-256 of the file's content, in hexadecimal. Raises OSError, and ValueError for what is no file."""
    digest = hashlib.sha256()
    with open_file(path) as fd:
        while block := os.read(fd, _BLOCK):
            digest.update(block)
    return digest.hexdigest()


def reserve(path: Path, size: int) -> None:
    """Raise OSError unless a file `path` of `size` bytes fits the disk, the quota and the limits; none is left."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        allocate = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)  # Linux has it
        # Python's own posix_fallocate writes to every block where the file system cannot do it, which can take minutes.
        failed = allocate is not None and allocate(fd, 0, ctypes.c_int64(0), ctypes.c_int64(size)) != 0
        if failed and (number := ctypes.get_errno()) not in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise OSError(number, os.strerror(number))
        space = os.fstatvfs(fd)
        if (failed or allocate is None) and space.f_bavail * space.f_frsize < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(fd)
        path.unlink()


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
    if os.path.lexists(final):
        raise FileExistsError(f"{final} is there already")
    temporary.rename(final)
    sync(final.parent)


def problem(directory: Path, required: Sequence[str] = ()) -> str | None:
    """What is wrong with the sealed `directory`, or None when every byte is as it was written.

    `required` are files that the manifest must list.
    """
    flaw = examine(directory, required)
    return flaw.text if flaw else None


def examine(directory: Path, required: Sequence[str] = (), sizes_only: bool = False) -> Flaw | None:
    """What is wrong with the sealed `directory`; never raises for what is there.

    `required` are files that the manifest must list. `sizes_only`: do not read what the files hold.
    """
    try:
        manifest = read_json(directory / MANIFEST)
        expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
        readable = all(type(size) is int and type(digest) is str for size, digest in expected.values())
    except OSError as error:
        return _unreadable(MANIFEST, error)
    except (ValueError, KeyError, TypeError, AttributeError):
        return Flaw(f"{MANIFEST} is damaged", may_pass=_is_empty(directory / MANIFEST))
    if not readable:
        return Flaw(f"{MANIFEST} is damaged")
    if not expected:
        return Flaw(f"{MANIFEST} lists no file")
    for name in required:
        if name not in expected:
            return Flaw(f"{MANIFEST} does not list {name}")
    flaws = (_flaw_of(directory, name, *entry, sizes_only) for name, entry in expected.items())
    return next(filter(None, flaws), None) or _other_form(directory / MANIFEST, manifest)


def _flaw_of(directory: Path, name: str, size: int, digest: str, sizes_only: bool) -> Flaw | None:
    """What is wrong with one file of a sealed directory."""
    called = name if name.isprintable() and len(name) <= 80 else shown(name)
    path = directory / name
    try:
        if Path(name).name != name:
            return Flaw(f"{called} is missing")
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            return Flaw(f"{called} is not a file")
        if found.st_size != size:
            return Flaw(f"{called} has {found.st_size:,} bytes instead of {size:,}", may_pass=found.st_size < size)
        if not sizes_only and sha256(path) != digest:
            return Flaw(f"{called} is damaged (its SHA-256 differs from the manifest's)")
    except OSError as error:
        return _unreadable(called, error)
    except ValueError:  # a name that no file can have, or something that has just taken the file's place
        return Flaw(f"{called} is missing")
    return None


def _unreadable(name: str, error: OSError) -> Flaw:
    if isinstance(error, FileNotFoundError):
        return Flaw(f"{name} is missing", may_pass=True)
    if isinstance(error, NotADirectoryError):
        return Flaw(f"{name} is missing, since this is not a directory")
    return Flaw(f"{name} cannot be read: {error.strerror or error}", may_pass=True, unread=True)


def _other_form(path: Path, manifest: Any) -> Flaw | None:
    """The manifest itself has no sum: it is as it was written when it is, byte by byte, what would be written."""
    try:
        with open_file(path) as fd:
            same = _read(fd, LARGEST_JSON) == _json(manifest) and manifest["version"] == 1
    except (OSError, ValueError, KeyError):
        same = False
    return None if same else Flaw(f"{MANIFEST} is damaged (it is not as it was written)")


def _is_empty(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_ISREG(path.stat().st_mode) and path.stat().st_size == 0
    return False


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode("utf8")


def _read(fd: int, limit: int) -> bytes:
    """Up to `limit` bytes from where the descriptor stands."""
    blocks, left = [], limit
    while left and (block := os.read(fd, min(left, _BLOCK))):
        blocks.append(block)
        left -= len(block)
    return b"".join(blocks)
