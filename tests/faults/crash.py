"""What a crash of the machine can leave: every prefix of a recorded list of system calls, with un-synced changes lost.

The model of Pillai et al. 2014 ("All File Systems Are Not Created Equal"): what is written to a file is on the disk for
certain only after an fsync of the file; a name that is made, renamed or removed only after an fsync of its directory.
Until then each of them may be there or not, in any order; of what is written a part or zeros may be there. A rename is
there as a whole or not at all.
"""

from __future__ import annotations

import ast
import hashlib
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

RECORDED = (
    "openat", "close", "write", "pwrite64", "lseek", "ftruncate", "fsync", "fdatasync", "rename", "renameat",
    "renameat2", "mkdir", "mkdirat", "unlink", "unlinkat", "rmdir", "fallocate", "link", "symlink", "mmap",
)  # fmt: skip
Lost = Literal["gone", "zeros", "half"]


@dataclass(frozen=True)
class Change:
    """One operation. `at` is the inode of the directory or the file, `to` that of the other directory.

    `inode` is what gets a name: an fsync of the directory settles that it is there, whatever became of an older name.
    """

    kind: Literal["create", "mkdir", "write", "truncate", "rename", "unlink", "rmdir", "sync"]
    at: int
    name: str = ""
    to: int = -1
    to_name: str = ""
    inode: int = -1
    offset: int = 0
    data: bytes = b""

    @property
    def of_data(self) -> bool:
        """Whether an fsync of the file settles it; else one of the directory does."""
        return self.kind in ("write", "truncate")

    @property
    def settled_by(self) -> int:
        """The inode whose fsync settles it."""
        return self.to if self.kind == "rename" else self.at


@dataclass
class Disk:
    """Files and directories by inode; 0 is the root."""

    directories: dict[int, dict[str, int]] = field(default_factory=lambda: {0: {}})
    files: dict[int, bytes] = field(default_factory=dict)

    def copy(self) -> Disk:
        """A disk of its own."""
        return Disk({inode: dict(names) for inode, names in self.directories.items()}, dict(self.files))

    def know(self, changes: Iterable[Change]) -> None:
        """Have the inodes that the changes make. They are there before they have a name, and also when it is lost."""
        for change in changes:
            if change.kind == "create":
                self.files[change.inode] = b""
            elif change.kind == "mkdir":
                self.directories[change.inode] = {}

    def apply(self, change: Change, lost: Lost | None = None) -> None:
        """Make a change, as far as what it needs is there."""
        names = self.directories.get(change.at, {})
        if change.kind in ("create", "mkdir"):
            names[change.name] = change.inode
        elif change.of_data and change.at in self.files:
            self._write(change, lost)
        elif change.kind == "rename":
            if names.get(change.name) == change.inode:
                del names[change.name]
            self.directories[change.to][change.to_name] = change.inode
        elif change.kind in ("unlink", "rmdir"):
            names.pop(change.name, None)

    def _write(self, change: Change, lost: Lost | None) -> None:
        old = self.files[change.at]
        if change.kind == "truncate":
            self.files[change.at] = old[: change.offset].ljust(change.offset, b"\0")
            return
        data = {"zeros": bytes(len(change.data)), "half": change.data[: len(change.data) // 2], None: change.data}[lost]
        old = old.ljust(change.offset, b"\0")
        self.files[change.at] = old[: change.offset] + data + old[change.offset + len(data) :]

    def find(self, parts: Sequence[str]) -> int:
        """The inode of a path."""
        inode = 0
        for part in parts:
            inode = self.directories[inode][part]
        return inode

    def digest(self, inode: int = 0) -> bytes:
        """A hash of the tree."""
        if inode in self.files:
            return hashlib.sha256(self.files[inode]).digest()
        entries = sorted((name, self.digest(child)) for name, child in self.directories[inode].items())
        return hashlib.sha256(repr(entries).encode()).digest()

    def write_to(self, path: Path, inode: int = 0) -> None:
        """Make the tree at `path`."""
        if inode in self.files:
            path.write_bytes(self.files[inode])
            return
        path.mkdir()
        for name, child in self.directories[inode].items():
            self.write_to(path / name, child)


def read_disk(root: Path) -> Disk:
    """The tree at `root`, all of it settled."""
    disk = Disk()
    for path in sorted(root.rglob("*")):
        inode = 1 + len(disk.files) + len(disk.directories)
        parent = disk.find(path.relative_to(root).parts[:-1])
        disk.directories[parent][path.name] = inode
        if path.is_dir():
            disk.directories[inode] = {}
        else:
            disk.files[inode] = path.read_bytes()
    return disk


class Recorder:
    """Turns the system calls of one process into changes of the tree at `root`."""

    def __init__(self, root: Path, disk: Disk) -> None:
        self.changes: list[Change] = []
        self._root = root
        self._disk = disk.copy()
        self._open: dict[int, tuple[int, bool]] = {}  # descriptor -> inode, whether it appends
        self._offsets: dict[int, int] = {}
        self._next = 1_000_000

    def read(self, calls: Iterable[tuple[str, str, str]]) -> list[Change]:
        """The changes that the calls make, in order. Fails for a call that changes files in an unknown way."""
        for name, arguments, result in calls:
            words = _arguments(arguments)
            if name in ("link", "symlink", "fallocate") or (name == "mmap" and "MAP_SHARED" in arguments):
                assert not self._concerns(words), f"{name}({arguments}) is not known here"
                continue
            getattr(self, f"_{name}", lambda *_: None)(words, int(result))
        return self.changes

    def _concerns(self, words: list[str]) -> bool:
        descriptors = {int(word) for word in words if word.isdigit()}
        return bool(descriptors & self._open.keys()) or any(str(self._root) in word for word in words)

    def _do(self, change: Change) -> None:
        self.changes.append(change)
        self._disk.know([change])
        self._disk.apply(change)

    def _place(self, folder: str, path: str) -> tuple[int, str] | None:
        """Inode of the directory that holds a path, and the last name; None outside the tree."""
        if folder.isdigit() and not path.startswith("/"):
            entry = self._open.get(int(folder))
            return (entry[0], path) if entry else None
        if not Path(path).is_relative_to(self._root) or path == str(self._root):
            return None
        *parents, name = Path(path).relative_to(self._root).parts
        return self._disk.find(parents), name

    def _openat(self, words: list[str], result: int) -> None:
        self._open.pop(result, None)
        place = self._place(words[0], words[1])
        if place is None:
            if words[1] == str(self._root):
                self._open[result] = (0, False)
            return
        parent, name = place
        if name not in self._disk.directories[parent]:
            assert "O_CREAT" in words[2]
            self._next += 1
            self._do(Change("create", parent, name, inode=self._next))
        inode = self._disk.directories[parent][name]
        if "O_TRUNC" in words[2] and self._disk.files.get(inode):
            self._do(Change("truncate", inode))
        self._open[result], self._offsets[result] = (inode, "O_APPEND" in words[2]), 0

    def _close(self, words: list[str], result: int) -> None:
        self._open.pop(int(words[0]), None)

    def _write(self, words: list[str], result: int) -> None:
        if entry := self._open.get(fd := int(words[0])):
            offset = len(self._disk.files[entry[0]]) if entry[1] else self._offsets[fd]
            self._offsets[fd] = offset + result
            self._do(Change("write", entry[0], offset=offset, data=words[1].encode("latin1")[:result]))

    def _pwrite64(self, words: list[str], result: int) -> None:
        if entry := self._open.get(int(words[0])):
            data = words[1].encode("latin1")[:result]
            self._do(Change("write", entry[0], offset=int(words[3]), data=data))

    def _lseek(self, words: list[str], result: int) -> None:
        if int(words[0]) in self._open:
            self._offsets[int(words[0])] = result

    def _ftruncate(self, words: list[str], result: int) -> None:
        if entry := self._open.get(int(words[0])):
            self._do(Change("truncate", entry[0], offset=int(words[1])))

    def _fsync(self, words: list[str], result: int) -> None:
        if entry := self._open.get(int(words[0])):
            self._do(Change("sync", entry[0]))

    _fdatasync = _fsync

    def _rename(self, words: list[str], result: int) -> None:
        self._renameat(["AT_FDCWD", words[0], "AT_FDCWD", words[1]], result)

    def _renameat(self, words: list[str], result: int) -> None:
        old, new = self._place(words[0], words[1]), self._place(words[2], words[3])
        if old and new:
            self._do(Change("rename", *old, *new, inode=self._disk.directories[old[0]][old[1]]))

    _renameat2 = _renameat

    def _mkdir(self, words: list[str], result: int) -> None:
        self._mkdirat(["AT_FDCWD", *words], result)

    def _mkdirat(self, words: list[str], result: int) -> None:
        if place := self._place(words[0], words[1]):
            self._next += 1
            self._do(Change("mkdir", *place, inode=self._next))

    def _unlink(self, words: list[str], result: int) -> None:
        self._unlinkat(["AT_FDCWD", *words], result)

    def _rmdir(self, words: list[str], result: int) -> None:
        self._unlinkat(["AT_FDCWD", words[0], "AT_REMOVEDIR"], result)

    def _unlinkat(self, words: list[str], result: int) -> None:
        if place := self._place(words[0], words[1]):
            self._do(Change("rmdir" if "AT_REMOVEDIR" in words[2:] else "unlink", *place))


def _arguments(text: str) -> list[str]:
    """Arguments of a call as `strace -xx` prints them; strings are byte for byte (latin1)."""
    parts = re.findall(r'"(?:\\x[0-9a-f]{2})*"|[^,"]+', text)
    words = (part.strip() for part in parts)
    return [ast.literal_eval(word) if word.startswith('"') else word for word in words if word]


def crashes(disk: Disk, changes: Sequence[Change], seed: int = 0) -> Iterator[tuple[int, Disk]]:
    """(number of calls that were made, what the disk can then hold), each state once a number of calls."""
    generator = random.Random(seed)
    for count in range(len(changes) + 1):
        seen = set()
        for state in _states(disk, changes[:count], generator):
            digest = state.digest()
            if digest not in seen:
                seen.add(digest)
                yield count, state


def _states(disk: Disk, made: Sequence[Change], generator: random.Random) -> Iterator[Disk]:
    synced: dict[int, int] = {change.at: index for index, change in enumerate(made) if change.kind == "sync"}
    open_ones = [
        index
        for index, change in enumerate(made)
        if change.kind != "sync" and synced.get(change.settled_by, -1) < index
    ]
    data = {index for index in open_ones if made[index].of_data}
    names = set(open_ones) - data
    choices = [set[int](), set(open_ones), data, names]
    choices += [{index} for index in open_ones] + [set(open_ones) - {index} for index in open_ones]
    choices += [{index for index in open_ones if generator.random() < 0.5} for _ in range(6)]
    for choice in choices:
        ways: tuple[Lost, ...] = ("gone", "zeros", "half") if choice & data else ("gone",)
        for lost in ways:
            state = disk.copy()
            state.know(made)
            for index, change in enumerate(made):
                if index not in choice:
                    state.apply(change)
                elif change.of_data and change.kind == "write" and lost != "gone":
                    state.apply(change, lost)
            yield state
