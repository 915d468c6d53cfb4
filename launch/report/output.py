"""Writing what a report makes: whole or not at all, and never over a file that is not ours."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tmrc.config.errors import UserError

PAGE = b"<!-- tmrc report -->"  # what our files have near their beginning, by which they are told from others
PICTURE = b"tmrc report"  # the software that a PNG names
SHEET = b"run,state,step,total_steps"
HEAD = 512  # bytes at the beginning of a file by which it is known


@dataclass(frozen=True)
class Target:
    """A file to be written, and what ours begins with or has near its beginning."""

    option: str
    path: Path
    mark: bytes

    def check(self, force: bool) -> None:
        """Raise UserError where it cannot be written, or holds something that no report has written."""
        where = f"{self.option}: {self.path}"
        try:
            if self.path.is_dir():
                raise UserError(f"{where}: is a directory; name a file in it")
            if not self.path.absolute().parent.is_dir():
                raise UserError(f"{where}: there is no directory {str(self.path.parent)!r}")
            if self.path.exists() and not self.path.is_file():
                raise UserError(f"{where}: is no ordinary file")
            if not os.access(self.path.resolve().parent, os.W_OK):
                raise UserError(f"{where}: cannot be written: its directory is not yours to write in")
            if self.path.exists() and not force:
                self._refuse_others()
        except (OSError, ValueError) as error:
            raise UserError(f"{where}: cannot be written: {getattr(error, 'strerror', None) or error}") from None

    def write(self, content: bytes) -> None:
        """Replace the file by `content`, in one go. Raises UserError when that fails."""
        path = self.path.resolve()
        temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}")
        try:
            try:
                temporary.write_bytes(content)
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise UserError(f"{self.option}: {self.path}: cannot be written: {error.strerror or error}") from None

    def _refuse_others(self) -> None:
        with self.path.open("rb") as file:
            head = file.read(HEAD)
        if head and self.mark not in head:
            raise UserError(
                f"{self.option}: {self.path}: exists, and is not of tmrc report; name another file, or add --force"
            )


def check_targets(targets: Mapping[str, Target], force: bool) -> None:
    """Raise UserError for the first that cannot be written, and for two that are one file."""
    seen: dict[Path, str] = {}
    for target in targets.values():
        target.check(force)
        same = seen.setdefault(target.path.resolve(), target.option)
        if same != target.option:
            raise UserError(f"{target.option}: {target.path}: is the file of {same} as well")
