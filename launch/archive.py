"""A directory of files in one tar file, which is whole or of no use: the digest of each file stands at its end.

What comes out of it is executed. So one that is damaged, cut off or crafted leaves nothing behind, and nothing but
plain files inside of the directory can come out.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

DIGESTS = "files.json"  # the last member: name -> SHA-256 of every other one
LIMIT = 2**30  # bytes of all files
MOST_FILES = 100_000


class UnusableError(Exception):
    """Why an archive is not taken."""


def pack(folder: Path, target: BinaryIO) -> int:
    """Write the plain files under `folder` to `target`; returns their bytes. Raises OSError, also when they change."""
    digests: dict[str, str] = {}
    total = 0
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, path in files(folder):
            data = path.read_bytes()
            total += len(data)
            if total > LIMIT or len(digests) >= MOST_FILES:
                raise OSError(f"more than {LIMIT // 2**20:,} MiB or {MOST_FILES:,} files")
            digests[name] = hashlib.sha256(data).hexdigest()
            _add(tar, name, data)
        _add(tar, DIGESTS, json.dumps(digests).encode())
    return total


def unpack(source: BinaryIO, folder: Path) -> int:
    """Write the files in the archive under `folder`, which is empty; returns their bytes.

    Raises UnusableError for what is no whole archive of ours, and OSError; the caller then throws the files away.
    """
    try:
        with tarfile.open(fileobj=source, mode="r:") as tar:
            return _unpack(tar, folder)
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        raise UnusableError(f"is damaged: {str(error)[:100]}") from None


def _unpack(tar: tarfile.TarFile, folder: Path) -> int:
    digests: dict[str, str] = {}
    total = 0
    for member in tar:
        name = _checked(member, digests)
        total += member.size
        if total > LIMIT or len(digests) >= MOST_FILES:
            raise UnusableError(f"holds more than {LIMIT // 2**20:,} MiB or {MOST_FILES:,} files")
        data = _content(tar, member)
        if name == DIGESTS:
            _require(json.loads(data) == digests, "its contents are not those that were written")
            return total - member.size
        digests[name] = hashlib.sha256(data).hexdigest()
        _write(folder / name, data)
    raise UnusableError("is cut off")


def files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name and path of the plain files under `folder` that are worth keeping, in the order of their names."""
    found = (Path(place, name) for place, _, names in os.walk(folder) for name in names)  # what vanishes is passed over
    for path in sorted(found):
        name = path.relative_to(folder).as_posix()
        passing = path.suffix in (".lock", ".tmp") or any(part.startswith((".", "tmp")) for part in name.split("/"))
        if not passing and name != DIGESTS and not path.is_symlink() and path.is_file():
            yield name, path


@contextmanager
def plain_file(path: Path) -> Iterator[BinaryIO]:
    """`path` opened for reading; a link or a pipe in its place is an OSError or an UnusableError, and none waits."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        yield file


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o600
    tar.addfile(member, io.BytesIO(data))


def _checked(member: tarfile.TarInfo, before: dict[str, str]) -> str:
    """The name of a member that may be written."""
    parts = PurePosixPath(member.name).parts
    plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
    inside = bool(parts) and not member.name.startswith("/") and ".." not in parts and "\0" not in member.name
    _require(plain and inside, f"holds {ascii(member.name)[:100]}, which is no plain file in its directory")
    name = "/".join(parts)
    _require(name == member.name and name not in before, f"holds {ascii(member.name)[:100]} in two ways")
    return name


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    data = file.read() if file else b""
    _require(len(data) == member.size, "is cut off")
    return data


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise UnusableError(otherwise)
