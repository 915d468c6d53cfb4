"""Whose files a run may execute: what lies in a run directory runs as whoever goes on with the run.

Its code is imported, Submitit's pickles run code when they are loaded, and config.yaml names the program that starts
Python. So nobody else may be able to change them. Root may change anything anyway.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tmrc.config.rundir import RunDir

NOT_OTHERS = 0o022  # what is taken from the modes of all that a submission writes


def keep_others_out() -> None:
    """From now on this process and its children write nothing that group or others may change."""
    os.umask(os.umask(0o077) | NOT_OTHERS)


def refuse_others(run: RunDir) -> None:
    """Raise UserError where somebody else could decide what going on with `run` executes."""
    from tmrc.config.errors import UserError  # not for keep_others_out, which --help calls

    ours = trusted_owners(run.path)
    for path in _executed(run):
        try:
            status = path.lstat()
        except OSError:
            continue  # missing: whoever needs it says so
        if status.st_uid not in ours:
            raise UserError(
                f"{path}: belongs to another user (number {status.st_uid}), and going on would run it as you; copy the "
                "run's directory to one of yours if you trust it"
            )
        private = stat.S_IWOTH | (stat.S_IWGRP if path == run.submitit else 0)
        if not stat.S_ISLNK(status.st_mode) and status.st_mode & private:
            raise UserError(
                f"{path}: others may write to it, and going on would run as you what they write; look at it, then "
                f"chmod {'go-w' if path == run.submitit else 'o-w'}"
            )


def trusted_owners(folder: Path) -> set[int]:
    """Numbers of the users whose files in `folder` we may execute: root's, ours, and what a server makes of ours."""
    return {0, os.geteuid(), _owner_of_new_files(folder)}


def _executed(run: RunDir) -> Iterator[Path]:
    """What is run or says what is run, with the directories in which it could be replaced."""
    yield from (run.path, run.config, run.submitit, run.code)
    code = run.code.resolve()
    for folder, folders, files in os.walk(code):
        yield (where := code / folder)
        yield from (where / name for name in (*folders, *files))
    if run.submitit.is_dir():
        yield from run.submitit.glob("*.pkl")


def _owner_of_new_files(folder: Path) -> int:
    """Whose the files are that we make there: some file servers give them to another number than ours."""
    try:
        descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600)
    except OSError:
        return os.geteuid()
    try:
        return os.fstat(descriptor).st_uid
    finally:
        os.close(descriptor)
