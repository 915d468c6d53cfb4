"""Running a click command so that a mistake of the user's is one line and exit code 2."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any

import click


def run_command(command: click.Command, name: str, obj: Any = None) -> None:
    """Run `command` with the process's arguments and exit. UserError and click's own errors are one line, code 2."""
    _open_closed_streams()
    _print_any_name()
    try:
        code = command.main(prog_name=name, standalone_mode=False, obj=obj)
        sys.stdout.flush()
    except click.ClickException as error:
        _refuse(error.format_message())
    except (click.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EIO, errno.EBADF):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would try once more at its end
        _refuse(f"the output cannot be written: {error.strerror}", 1)
    except Exception as error:
        if "tmrc.config.errors" not in sys.modules:
            raise
        from tmrc.config.errors import UserError

        if not isinstance(error, UserError):
            raise
        _refuse(str(error), error.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


def _open_closed_streams() -> None:
    """Put the null device in place of a stream that whoever started us has closed."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115 - stays open; pathlib takes time to import


def _print_any_name() -> None:
    """Names of files need not be text in the terminal's character set, nor in any."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _refuse(message: str, exit_code: int = 2) -> None:
    """One line of a length that can be read, whatever was given or stands in a file."""
    from launch.plaintext import one_line
    from tmrc.config.errors import shortened

    print(f"error: {shortened(one_line(message))}", file=sys.stderr)
    sys.exit(exit_code)
