"""The commands, called in this process as their entry points call them, and nasty texts to call them with."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from launch.cli.main import COMMANDS, tmrc
from launch.cli.run import run_command
from launch.cli.submit import submit

ROOT = Path(__file__).parents[2]
CANARY = "EXECUTED"  # the file that a text which is run as a command makes
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")

# What every option and value is tried with. No argument and no environment can hold a NUL.
QUICK = {
    "directive": "a\n#SBATCH --wrap=touch EXECUTED\ntouch EXECUTED\n",
    "shell": "a';touch EXECUTED;\"`touch EXECUTED`$(touch EXECUTED)|touch EXECUTED&touch EXECUTED&&${HOME}",
    "terminal": "\x1b]0;title\x07\x1b[2J\x9b2J\r\u202egnp\u2028x\u0301",
    "bytes": "a\udcff\udc80b",
    "long": "x" * 1_000_000,
    "number": "9" * 5000,
    "option": "--wrap=touch EXECUTED",
    "path": "../../../../../../dev/zero",
}
MORE = {
    "nothing": "", "space": " ", "tab": "a\tb", "cr": "a\rb", "tick": "`touch EXECUTED`", "dollar": "$(touch EXECUTED)",
    "glob": "*", "dash": "-rf", "minus": "-1", "zero": "0", "nan": "nan", "inf": "inf", "hex": "0x10", "tilde": "~no/y",
    "brace": "${oc.env:HOME}", "full width": "\uff04\uff08id\uff09", "combining": "a\u0301" * 50, "bell": "\x07",
    "nel": "a\x85b",
    "percent": "%A%s%n", "format": "{0.__class__}", "dot": ".", "slash": "/", "null": "/dev/null", "quote": "'",
}  # fmt: skip


@dataclass(frozen=True)
class Said:
    """How a call ended and what it printed; `code` is the traceback of one that did not end in order."""

    code: int | str
    out: str
    err: str

    def problems(self) -> list[str]:
        """What is wrong with the call, whatever it was for."""
        if isinstance(self.code, str):
            return [self.code]
        found = ["refused, but not in one line"] if self.code == 2 and self.err.count("\n") != 1 else []
        found += ["a line that nobody can read"] if any(len(line) > 2500 for line in self.err.splitlines()) else []
        found += ["controls the terminal"] if CONTROLS.search(self.err) or CONTROLS.search(self.out) else []
        found += ["a traceback"] if "Traceback" in self.err else []
        return found


def call(name: str, *arguments: str) -> Said:
    """`tmrc-submit` or `tmrc` with `arguments`; streams encode as strictly as real ones do."""
    command = submit if name == "tmrc-submit" else tmrc
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf8", errors="strict")
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf8", errors="backslashreplace")
    before = sys.argv
    sys.argv = [name, *arguments]
    code: int | str = "did not exit"
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            run_command(command, name)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else repr(end.code)
    except BaseException:
        code = traceback.format_exc(limit=-4)[-1000:]
    finally:
        sys.argv = before
    out.flush()
    err.flush()
    return Said(code, _text(out), _text(err))


def _text(stream: io.TextIOWrapper) -> str:
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode("utf8", "replace")


def commands() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that there is, with its words: ("tmrc", "data", "inspect")."""
    yield ("tmrc-submit",), submit
    for name in COMMANDS:
        command = tmrc.get_command(click.Context(tmrc), name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from ((("tmrc", name, sub), one) for sub, one in command.commands.items())
        else:
            yield ("tmrc", name), command


def hashes(folder: Path) -> dict[str, str]:
    """Every path below `folder` with what is there: a file's content, a link's target."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path)] = str(path.readlink())
        elif path.is_file():
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[str(path)] = "directory" if path.is_dir() else "special"
    return found
