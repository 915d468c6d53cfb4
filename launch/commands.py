"""Running Slurm's commands: with a time limit, and without what a user's shell or an outer job would have them do."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Mapping, Sequence

from launch.environment import clean_environment
from tmrc.config.waiting import waiting

ENGLISH = {"SLURM_TIME_FORMAT": "standard", "LC_ALL": "C"}


class SilentError(Exception):
    """A command gave no answer, in one line; `missing` where it is not on PATH at all."""

    def __init__(self, message: str, missing: bool = False) -> None:
        super().__init__(message)
        self.missing = missing


def ask(
    *words: str,
    patience: float,
    script: str | None = None,
    environ: Mapping[str, str] = ENGLISH,
    aloud: bool = False,
) -> subprocess.CompletedProcess[str]:
    """The command `words` when it has ended, whatever it says; `script` is its standard input.

    `environ` is added to the clean environment; `aloud` says on stderr what is waited for when that takes long.
    Raises SilentError when it is not there, or runs for longer than `patience` seconds.
    """
    env = {**clean_environment(os.environ, script or ""), **environ}
    try:
        with waiting(words[0]) if aloud else contextlib.nullcontext():
            return _run(words, script or "", patience, env)
    except FileNotFoundError:
        raise SilentError(f"no {words[0]} on PATH", missing=True) from None
    except subprocess.TimeoutExpired:
        raise SilentError(f"{words[0]} does not answer within {patience:.0f} seconds") from None
    except (OSError, ValueError) as error:
        raise SilentError(f"{words[0]} cannot be started: {error}") from None


def _run(
    words: Sequence[str], script: str, patience: float, env: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, input=script, capture_output=True, encoding="utf8", errors="replace", timeout=patience, env=env
    )
