"""Creating a run's directory: configuration, provenance, and the copy of the code that the run will use."""

from __future__ import annotations

import datetime
import getpass
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from launch.attempts import write_json
from launch.code import PACKAGES, copy_code
from tmrc.config.errors import UserError
from tmrc.config.load import write_config
from tmrc.config.rundir import RunDir
from tmrc.config.schema import Config
from tmrc.config.secrets import redacted, secrets_in

LIBRARIES = ("tmrc", "torch", "submitit", "numpy", "safetensors")
MAX_DIFF = 1_000_000  # characters of uncommitted changes kept in run.json


def new_run_id(config: Config, source: str | Path) -> str:
    """`<name>-<UTC time>-<4 hex digits>`; the name is launch.name or the configuration file's."""
    now = datetime.datetime.now(datetime.UTC)
    return f"{name_of(config, source)}-{now:%Y%m%d-%H%M%S}-{os.urandom(2).hex()}"


def name_of(config: Config, source: str | Path) -> str:
    """launch.name or the configuration file's, as far as it can be part of a directory's name."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(source).stem).strip("-.") or "run"
    return config.launch.name or stem[:40]


def create_run(config: Config, run_id: str, command: Sequence[str]) -> RunDir:
    """Make the directory of a new run with all that an attempt needs. Raises UserError when it cannot be made.

    It appears under its name when it is whole: whoever is killed on the way leaves a hidden directory and no run.
    """
    run = RunDir(Path(config.training.artifacts_path) / run_id)

    def fill(unfinished: RunDir) -> None:
        copy_code(unfinished.code)
        _describe(unfinished, config, provenance(run_id, command))

    _make(run, fill)
    return run


def create_point(
    run: RunDir, config: Config, code: Path, about: dict[str, Any], written: dict[str, str] | None = None
) -> None:
    """Make the directory of one of many runs, which share a copy of the `code`. Raises UserError when it cannot be.

    `written` is what `write_config` keeps from one to the next. Nothing is durable before `make_durable`: to make a
    file just after another has been synced takes thirty times as long on ext4.
    """

    def fill(unfinished: RunDir) -> None:
        unfinished.code.symlink_to(os.path.relpath(code, run.path))  # a sweep can be moved as a whole
        unfinished.submitit.mkdir(mode=0o700)
        write_config(config, unfinished.config, written)
        text = json.dumps({**about, "id": run.path.name}, ensure_ascii=False, indent=2) + "\n"
        unfinished.run_json.write_bytes(text.encode("utf8", "backslashreplace"))

    _make(run, fill)


def make_durable(files: Iterable[Path]) -> None:
    """Wait until the files are on stable storage. Raises UserError when they cannot be written there."""
    for path in files:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None


def _make(run: RunDir, fill: Callable[[RunDir], None]) -> None:
    """The directory of a new run, which appears under its name when `fill` has done its work on it."""
    unfinished = RunDir(run.path.with_name(f".{run.path.name}"))
    try:
        run.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.path.mkdir()  # a run directory is never written into by a second run
        try:
            fill(unfinished)
            unfinished.path.rename(run.path)
        except BaseException:
            shutil.rmtree(unfinished.path, ignore_errors=True)
            raise
    except OSError as error:
        raise UserError(f"training.artifacts_path: {run.path}: cannot be written: {why_not(error)}") from None


def why_not(error: OSError) -> str:
    """The reason in words; of a copy's many errors that of the first."""
    return str(error.args[0][0][2] if isinstance(error, shutil.Error) else error.strerror or error)


def _describe(run: RunDir, config: Config, about: dict[str, Any]) -> None:
    """Write what is known of the run, run.json last."""
    run.submitit.mkdir(mode=0o700)  # holds pickles, which run code when they are loaded
    write_config(config, run.config)
    write_json(run.run_json, about)


def provenance(run_id: str, command: Sequence[str]) -> dict[str, Any]:
    """What run.json holds: enough to know which code ran, where and how. No environment, since it holds secrets."""
    return {
        "id": run_id,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": [redacted(word, secrets_in(os.environ)) for word in command],
        "directory": str(Path.cwd()),
        "host": socket.gethostname(),
        "user": _user(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "versions": {library: _version(library) for library in LIBRARIES},
        "git": git_state(PACKAGES[0].parent),
    }


def _user() -> str:
    """Name of the user; the number in a container that has no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # OSError since Python 3.13
        return str(os.getuid())


def _version(library: str) -> str | None:
    import importlib.metadata  # 16 ms that a dry run does not need

    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_state(root: Path) -> dict[str, Any] | None:
    """Commit, uncommitted changes and untracked files of the packages; None when they are not from a checkout.

    What is in the untracked files is in code/, which has every file of the packages.
    """
    names = [package.name for package in PACKAGES]
    if not _git(root, "ls-files", f"{names[0]}/__init__.py"):
        return None
    # Somebody tries something out with a token written into the code: it need not stand in two places.
    diff = redacted(
        _git(root, "diff", "HEAD", "--no-color", "--no-ext-diff", "--", *names) or "", secrets_in(os.environ)
    )
    untracked = _git(root, "ls-files", "--others", "--exclude-standard", "--", *names) or ""
    return {
        "commit": (_git(root, "rev-parse", "HEAD") or "").strip() or None,
        "dirty": bool(diff or untracked),
        "diff": diff[:MAX_DIFF],
        "diff_is_whole": len(diff) <= MAX_DIFF,
        "untracked": untracked.split("\n")[:-1],
    }


def _git(root: Path, *arguments: str) -> str | None:
    """What git prints; None where there is no git or it fails."""
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf8", "replace")
