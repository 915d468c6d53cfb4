"""A file that a command writes its results into: whole or not at all, and never over one that is not ours."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tmrc.config.errors import UserError

HEAD = 512  # bytes at the beginning of a file by which it is known


@dataclass(frozen=True)
class ResultFile:
    """A file to be written with `option` by `command`, and what ours begins with or has near its beginning.

    `advice` is what can be done where the file is somebody else's.
    """

    option: str
    path: Path
    mark: bytes
    command: str
    advice: str = "name another file"

    def check(self, force: bool = False) -> None:
        """Raise UserError where it cannot be written, or holds something that the command has not written."""
        where = f"{self.option}: {self.path}"
        try:
            if self.path.is_dir():
                raise UserError(f"{where}: is a directory; name a file in it")
            if not self.path.absolute().parent.is_dir():
                raise UserError(f"{where}: there is no directory {str(self.path.parent)!r}")
            self._require_ordinary()
            if not os.access(self.path.resolve().parent, os.W_OK):
                raise UserError(f"{where}: cannot be written: its directory is not yours to write in")
            if self.path.exists() and not force:
                self._refuse_others()
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links in a circle
            raise UserError(f"{where}: cannot be written: {getattr(error, 'strerror', None) or error}") from None

    def write(self, content: bytes) -> None:
        """Replace the file by `content`, in one go. Raises UserError when that fails."""
        try:
            self._require_ordinary()  # it may have become something else since it was checked
            path = self.path.resolve()
            temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}")
            try:
                temporary.write_bytes(content)
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        except (OSError, RuntimeError) as error:
            why = getattr(error, "strerror", None) or error
            raise UserError(f"{self.option}: {self.path}: cannot be written: {why}") from None

    def _require_ordinary(self) -> None:
        """A device, a pipe or a directory must not be replaced. Links are followed."""
        if self.path.exists() and not self.path.is_file():
            raise UserError(f"{self.option}: {self.path}: is no ordinary file")

    def _refuse_others(self) -> None:
        with self.path.open("rb") as file:
            head = file.read(HEAD)
        if head and self.mark not in head:
            raise UserError(f"{self.option}: {self.path}: exists, and is not of {self.command}; {self.advice}")


def check_files(files: Mapping[str, ResultFile], force: bool = False) -> None:
    """Raise UserError for the first that cannot be written, and for two that are one file."""
    seen: dict[Path, str] = {}
    for file in files.values():
        file.check(force)
        same = seen.setdefault(file.path.resolve(), file.option)
        if same != file.option:
            raise UserError(f"{file.option}: {file.path}: is the file of {same} as well")
