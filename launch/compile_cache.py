"""What torch compiles for a run, carried from attempt to attempt: the next one may be on a node that has none of it.

Each node of a job gets a directory of its own for torch's caches. It is filled from an archive in the run's directory
before torchrun starts, and once training steps the first node writes there what has been compiled since. It is code:
an archive counts only where nobody else can have written it, and only on nodes of the kind that it was made on, since
torch compiles for the CPU that it finds. What goes wrong with it costs the time of compiling and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from launch.archive import UnusableError, files, pack, plain_file, unpack
from launch.attempts import read_json, write_json
from launch.node_kind import kind_of_node, local_place
from launch.scratch import held
from launch.trust import NOT_OTHERS, trusted_owners
from tmrc.config.heartbeat import Beat
from tmrc.config.rundir import RunDir

INDUCTOR, TRITON = "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"
LOOK_EVERY = 1.0  # seconds between looks until the first archive is written
LATER = 60.0  # and after that: the first validation compiles as well
PATIENCE = 5.0  # seconds at the end for an archive that is being written
_OURS = re.compile(r"[0-9a-f]{16}\.tar|\.[0-9a-f]{16}\.[0-9]+")  # archives, and drafts of them
KINDS = 3  # of nodes whose archives are kept
Beats = Callable[[], Mapping[int, Beat]]
State = tuple[int, int, int]  # of a directory: files, bytes, when the newest changed


@dataclass
class CompileCache:
    """The caches of the ranks on node `node` in attempt `number`; without a `folder` torch's own are used."""

    run: RunDir
    number: int
    node: int
    folder: Path | None = None
    kind: str = ""  # of this node
    _looked: float = 0.0
    _steps: tuple[int, ...] = ()  # of the slowest rank, as they were seen to change
    _used: bool = False  # whether the archive was
    _last: State = (0, 0, 0)
    _kept: State = (0, 0, 0)  # as it is in the archive
    _writer: threading.Thread | None = None
    _failed: bool = False

    @property
    def variables(self) -> dict[str, str]:
        """For the ranks. One directory for Triton, where inductor's own would be one a GPU with the same kernels."""
        return {INDUCTOR: str(self.folder), TRITON: str(self.folder / "triton")} if self.folder else {}

    @property
    def archive(self) -> Path:
        """The file in the run's directory for nodes like this one."""
        return self.run.compile_cache / f"{self.kind}.tar"

    @property
    def _trying(self) -> Path:
        """There from the start of an attempt that uses the archive to its first step, with the attempt's number."""
        return self.run.compile_cache / f"{self.kind}.trying"

    def fill(self) -> None:
        """Take what an earlier attempt has left, if it can be trusted."""
        if self.folder is None:
            return
        try:
            with plain_file(self.archive) as file:
                self._require_ours(file)
                self._require_that_it_works()
                size = unpack(file, self.folder)
        except FileNotFoundError:
            return
        except (UnusableError, OSError) as error:
            self._empty()
            why = str(error) if isinstance(error, UnusableError) else f"cannot be used: {error.strerror or error}"
            _say(f"{self.archive} {why}; compiles anew")
            return
        self._used = True
        self._kept = self._last = state_of(self.folder)
        _say(f"{size / 2**20:,.1f} MiB of compiled code from an earlier attempt")

    def look(self, beats: Beats) -> None:
        """Write the archive once training steps, and again when more has been compiled. Called often, does little."""
        now = time.monotonic()
        if self.folder is None or self.node or self._failed or now - self._looked < self._every():
            return
        self._looked = now
        if not self._has_stepped and not self._see_step(beats()):
            return
        before, self._last = self._last, state_of(self.folder)
        keeps_still = self._last == before
        if keeps_still and self._last != self._kept and not (self._writer and self._writer.is_alive()):
            self._kept = self._last
            self._writer = threading.Thread(target=self._write, daemon=True)  # signals are passed on meanwhile
            self._writer.start()

    def close(self, orderly: bool) -> None:
        """Wait a little for an archive that is being written. `orderly`: nothing speaks against what was compiled."""
        if self._writer:
            self._writer.join(PATIENCE)
        if orderly and self._used:
            self._end_trial()

    @property
    def _has_stepped(self) -> bool:
        """Whether every rank here has done a step in this attempt: compiled code has been run, both ways.

        The first change may be that from 0 to the step of the checkpoint.
        """
        return len(self._steps) > 2

    def _every(self) -> float:
        return LATER if self._writer or (self._has_stepped and self._last == self._kept) else LOOK_EVERY

    def _see_step(self, beats: Mapping[int, Beat]) -> bool:
        step = min((beat.step for beat in beats.values()), default=0)
        if not self._steps or step != self._steps[-1]:
            self._steps += (step,)
        if self._has_stepped and self._used:
            self._end_trial()
        return self._has_stepped

    def _require_ours(self, file: BinaryIO) -> None:
        """Raise UnusableError where others can have written the archive, which would run as us."""
        owners = trusted_owners(self.run.compile_cache)
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise UnusableError("is no plain file")
        _require_private(found, owners)
        self._require_own_folder()
        if found.st_nlink != 1:
            raise UnusableError("has another name elsewhere")

    def _require_own_folder(self) -> None:
        """Raise UnusableError where the directory of archives is a link or somebody else's to write."""
        status = os.lstat(self.run.compile_cache)
        if not stat.S_ISDIR(status.st_mode):
            raise UnusableError("is in no plain directory")
        _require_private(status, trusted_owners(self.run.path))

    def _require_that_it_works(self) -> None:
        """Raise UnusableError when an attempt has used the archive and got to no step; note that this one uses it."""
        tried = read_json(self._trying)
        number = tried.get("attempt") if tried else None
        if tried is not None and number != self.number:
            raise UnusableError(f"was used by attempt {number}, which did not get to a step")
        if self.node == 0:
            write_json(self._trying, {"attempt": self.number})

    def _end_trial(self) -> None:
        if self.node == 0:
            with contextlib.suppress(OSError):
                self._trying.unlink()

    def _empty(self) -> None:
        """Throw away what an unusable archive has left."""
        assert self.folder is not None
        for entry in sorted(self.folder.rglob("*"), reverse=True):
            with contextlib.suppress(OSError):
                entry.rmdir() if entry.is_dir() else entry.unlink()

    def _write(self) -> None:
        """Put what has been compiled into the run's directory."""
        assert self.folder is not None
        draft = self.run.compile_cache / f".{self.kind}.{self.number}"
        try:
            self.run.compile_cache.mkdir(mode=0o700, exist_ok=True)
            self._require_own_folder()
            flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(draft, flags, 0o600), "wb") as file:
                pack(self.folder, file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.archive)
            self._end_trial()
            self._tidy()
        except UnusableError as error:
            self._failed = True
            _say(f"compiled code is not kept for later attempts: {self.archive} {error}")
        except FileNotFoundError:  # a file has gone while it was read: torch is still at work
            self._kept = (0, 0, 0)
        except OSError as error:
            self._failed = True
            _say(f"compiled code is not kept for later attempts: {error.strerror or error}")
            with contextlib.suppress(OSError):
                draft.unlink()

    def _tidy(self) -> None:
        """Remove the archives of kinds of nodes that were longest ago, and what killed attempts have begun."""
        names = [path for path in self.run.compile_cache.iterdir() if _OURS.fullmatch(path.name)]
        archives = [path for path in names if path.suffix == ".tar"]
        found = sorted(archives, key=lambda path: path.stat().st_mtime, reverse=True)
        drafts = [path for path in names if path.name.startswith(".") and path.name != f".{self.kind}.{self.number}"]
        for path in (*found[KINDS:], *drafts):
            with contextlib.suppress(OSError):
                path.unlink()


def _require_private(status: os.stat_result, owners: Collection[int]) -> None:
    if status.st_uid not in owners:
        raise UnusableError(f"belongs to another user (number {status.st_uid})")
    if status.st_mode & NOT_OTHERS:
        raise UnusableError("can be written by others")


@contextmanager
def compile_cache(run: RunDir, number: int, node: int, environ: Mapping[str, str]) -> Iterator[CompileCache]:
    """The caches for the ranks on this node. Who has set TORCHINDUCTOR_CACHE_DIR has chosen, and keeps that."""
    place = None if INDUCTOR in environ or TRITON in environ else local_place(environ)
    with contextlib.ExitStack() as stack:
        cache = CompileCache(run, number, node, kind=kind_of_node() if place else "")
        if place:
            with contextlib.suppress(OSError):
                cache.folder = stack.enter_context(held(place, f"compiled.{run.run_id}.{node}"))
        cache.fill()
        yield cache


def state_of(folder: Path) -> State:
    """What changes when something is compiled into `folder`."""
    statuses = []
    for _, path in files(folder):
        with contextlib.suppress(OSError):
            statuses.append(path.stat())
    newest = max((status.st_mtime_ns for status in statuses), default=0)
    return len(statuses), sum(status.st_size for status in statuses), newest


def _say(what: str) -> None:
    print(f"tmrc: {what}", flush=True)
