"""`tmrc completion`: make a shell complete commands, options, run ids and configuration keys."""

from __future__ import annotations

import os
import re
import shutil
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from launch.shells import Line

_SPECIAL = re.compile(r"[^\w./=:,+@%^-]")  # what bash might take for something else
LONGEST = 10_000  # characters of a line that is completed
_PLAIN = re.compile(r"[\w./,+@%^-]*")


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), required=False)
@click.option("--line", hidden=True, help="The line to complete, up to the cursor: what the scripts ask.")
@click.option("--breaks", default="", hidden=True, help="Characters behind which bash begins a new word.")
def completion(shell: str | None, line: str | None, breaks: str) -> None:
    """Print the script that makes SHELL complete tmrc and tmrc-submit; without SHELL, for the one in $SHELL.

    \b
    In the file that the shell reads at its start:
      bash  ~/.bashrc                    eval "$(tmrc completion bash)"
      zsh   ~/.zshrc                     eval "$(tmrc completion zsh)"
      fish  ~/.config/fish/config.fish   tmrc completion fish | source

    Options, subcommands, run and sweep ids (of ./artifacts and the working directory), configurations, KEY=VALUE and
    templates are completed.
    """
    from launch.shells import parse

    shell = shell or _login_shell()
    if line is not None:
        if len(line) > LONGEST:
            return
        sys.stdout.write(_answer(shell, parse(line, breaks if shell == "bash" else "")))
        return
    from launch.shells import script

    click.echo(script(shell, _ourselves()), nl=False)


def _login_shell() -> str:
    """The shell in $SHELL. Raises UserError when it is none that can be made to complete."""
    from launch.shells import START_FILES
    from tmrc.config.errors import UserError, shown

    given = os.environ.get("SHELL", "")
    name = given.rpartition("/")[2]
    if name not in START_FILES:
        raise UserError(f"SHELL: got {shown(given)}, valid: {', '.join(START_FILES)}; name one: tmrc completion bash")
    return name


def _ourselves() -> str:
    """How the script calls us: by name where that is on PATH, else by path."""
    from pathlib import Path

    return "tmrc" if shutil.which("tmrc") else str(Path(sys.executable).parent / "tmrc")


def _answer(shell: str, line: Line) -> str:
    """A candidate a line, with its help behind a tab; for bash without help, behind a line that says how to insert."""
    found = [(value, help) for value, help in _candidates(line) if value.isprintable() and value]
    if shell == "fish" and line.incomplete.startswith("~/"):  # takes only what begins with what is typed
        home = os.path.expanduser("~/")  # noqa: PTH111  Path would drop the last slash
        found = [(f"~/{value.removeprefix(home)}", help) for value, help in found]
    if shell != "bash":
        rows = [f"{value}\t{' '.join(help.split())}".rstrip("\t") for value, help in found]
        return "".join(f"{row}\n" for row in rows)
    before = len(line.before)
    values = [value[before:] for value, _ in found if value.startswith(line.before)]
    plain = all(_PLAIN.fullmatch(value) for value in values)
    if line.quoted or (plain and any("/" in value for value in values)):
        how = "paths"  # bash quotes them, and lists only their last parts
    else:
        how = "open" if any(value.endswith(("=", ".", "/")) for value in values) else "words"
        values = [_SPECIAL.sub(r"\\\g<0>", value) for value in values]  # bash's own quoting forgets a parenthesis
    return "".join(f"{value}\n" for value in [how, *values])


def _candidates(line: Line) -> list[tuple[str, str]]:
    """(value, help) of all that the command on the line takes there."""
    from click.shell_completion import ShellComplete

    from launch.shells import PROGRAMS

    names = [word.rpartition("/")[2] for word in line.words]
    at = next((n for n, name in enumerate(names) if name in PROGRAMS), None)
    if at is None:
        return []
    complete = ShellComplete(_command(names[at]), {}, names[at], "")
    found = complete.get_completions(list(line.words[at + 1 :]), line.incomplete)
    option = re.match(r"--[\w-]+=", line.incomplete)  # click takes `--resume=` away
    begin = option[0] if option else ""
    return [(begin + value, help) for item in found for value, help in _written_out(item)]


def _written_out(item: CompletionItem[str]) -> list[tuple[str, str]]:
    """What click leaves to the shell, the paths for an option that takes one, and all else as it is."""
    if item.type not in ("dir", "file"):
        return [(item.value, item.help or "")]
    from launch.complete import paths

    return [(one.value, "") for one in paths(item.value, ("",) if item.type == "file" else ())]


def _command(name: str) -> click.Command:
    if name == "tmrc":
        from launch.cli.main import tmrc

        return tmrc
    from launch.cli.submit import submit

    return submit
