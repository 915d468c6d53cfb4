"""Running a click command so that a mistake of the user's is one line and exit code 2."""

from __future__ import annotations

import os
import sys
from typing import Any

import click


def run_command(command: click.Command, name: str, obj: Any = None) -> None:
    """Run `command` with the process's arguments and exit. UserError and click's own errors are one line, code 2."""
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
    except Exception as error:
        if "tmrc.config.errors" not in sys.modules:
            raise
        from tmrc.config.errors import UserError

        if not isinstance(error, UserError):
            raise
        _refuse(str(error), error.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


def _refuse(message: str, exit_code: int = 2) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(exit_code)
