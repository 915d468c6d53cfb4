"""A run's own copy of the code: made when the run is, and looked at before it goes on."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import launch
import tmrc
from launch.attempts import write_json
from launch.facts import read_object
from launch.trust import NOT_OTHERS
from tmrc.config.errors import UserError
from tmrc.config.rundir import RunDir

PACKAGES = (Path(tmrc.__file__).parent, Path(launch.__file__).parent)
LIST = "files.json"  # name -> SHA-256 of every file of the copy
COPIES = 3  # tries to copy the code while it is edited
NAMED = 3  # files that a line names


def copy_code(target: Path) -> None:
    """Copy the packages to `target`, as they are at one moment. Raises UserError when they do not keep still."""
    for _ in range(COPIES):
        before = _state()
        try:
            digests = _copy(target)
        except (shutil.Error, FileNotFoundError):
            if _state() == before:
                raise
        else:
            if _state() == before:
                write_json(target / LIST, digests)
                return
        shutil.rmtree(target)  # somebody saved or changed branches meanwhile
    raise UserError(f"{PACKAGES[0].parent}: the code changes while it is copied; submit again when it keeps still")


def require_code(run: RunDir) -> None:
    """Raise UserError when the run's code, or a file of it, is gone: another tmrc would be used in its place."""
    if not run.code.is_dir():
        raise UserError(f"{run.code}: missing, so the run cannot go on with the code that it began with")
    names = [*_listed(run), *(f"{package.name}/__init__.py" for package in PACKAGES)]
    if missing := sorted({name for name in names if not (run.code / name).is_file()}):
        is_missing = f"{_named(missing)} {'is' if len(missing) == 1 else 'are'} missing"
        raise UserError(f"{run.code}: {is_missing}, so the run cannot go on with the code that it began with")


def code_note(run: RunDir) -> Iterator[str]:
    """A line when somebody has edited the run's code since it began. Raises UserError where it cannot be read."""
    listed = _listed(run)
    if not listed:
        return
    try:
        now = _digests(run.code)
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read: {error.strerror}") from None
    if edited := sorted(name for name, digest in now.items() if listed.get(name) != digest):
        has = "has" if len(edited) == 1 else "have"
        yield f"{run.code}: {_named(edited)} {has} been edited or added since the run began"


def _named(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _listed(run: RunDir) -> dict[str, str]:
    """The files that were copied; empty for a run of an earlier version."""
    found = read_object(run.code / LIST)
    return {name: digest for name, digest in found.items() if isinstance(digest, str)}


def _digests(folder: Path) -> dict[str, str]:
    """Name -> SHA-256 of each file of the packages in `folder`, but for what Python makes of them."""
    files = [file for package in PACKAGES for file in (folder / package.name).rglob("*") if file.is_file()]
    wanted = sorted(file for file in files if "__pycache__" not in file.parts)
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in wanted}


def _copy(target: Path) -> dict[str, str]:
    """Copy the packages as they are; returns name -> SHA-256 of each file. Raises shutil.Error and OSError."""
    digests: dict[str, str] = {}
    start = len(str(target)) + 1

    def copy(source: str, copied: str) -> None:
        with open(source, "rb") as file:  # noqa: PTH123 - hundreds of files, and pathlib takes its time
            content, mode = file.read(), os.fstat(file.fileno()).st_mode
        descriptor = os.open(copied, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            file.write(content)
            os.fchmod(descriptor, mode & 0o777 & ~NOT_OTHERS)
        digests[copied[start:]] = hashlib.sha256(content).hexdigest()

    unwanted = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
    for package in PACKAGES:
        shutil.copytree(package, target / package.name, ignore=unwanted, copy_function=copy)
    for folder, _, _ in os.walk(target):
        # A checkout may be the group's to write; what will run as us is not.
        os.chmod(folder, os.stat(folder).st_mode & 0o7777 & ~NOT_OTHERS)  # noqa: PTH101, PTH116
    return dict(sorted(digests.items()))


def _state() -> dict[str, tuple[int, int]]:
    """Size and time of change of every file of the packages."""
    found: dict[str, tuple[int, int]] = {}
    for package in PACKAGES:
        _add_state(str(package), found)
    return found


def _add_state(folder: str, found: dict[str, tuple[int, int]]) -> None:
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name == "__pycache__":
                continue
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                found[entry.path] = (status.st_size, status.st_mtime_ns)
            if entry.is_dir(follow_symlinks=False):
                _add_state(entry.path, found)
