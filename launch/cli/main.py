"""`tmrc`: everything but starting runs. Each subcommand is imported when it is called, so that --help stays fast."""

from __future__ import annotations

import importlib

import click

from launch.cli.run import run_command

# name -> module, attribute, one line for --help
COMMANDS = {
    "status": ("launch.cli.status", "status", "Show where runs stand."),
    "logs": ("launch.cli.logs", "logs", "Print what a run has logged, or follow it."),
    "cancel": ("launch.cli.cancel", "cancel", "Stop runs; they save first."),
    "data": ("launch.cli.data", "data", "Prepare and inspect tokenized data sets."),
    "generate": ("launch.cli.generate", "generate", "Continue a prompt with a trained model."),
    "report": ("launch.cli.report", "report", "Compare runs: a page without network, a picture, a table, or text."),
    "drill": ("launch.cli.drill", "drill", "Try whether interrupted runs equal an uninterrupted one."),
    "verify": ("launch.cli.verify", "verify", "Check a run's checkpoints, samples, data and metrics."),
    "completion": ("launch.cli.completion", "completion", "Make bash, zsh or fish complete these commands."),
    "sync": ("launch.cli.sync", "sync", "Send what was tracked offline to Weights & Biases."),
    "train": ("launch.cli.train", "train", "Run one training process; what torchrun starts."),
}
HIDDEN = ("train",)


class LazyGroup(click.Group):
    """A group whose subcommands are known by name and imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names for --help."""
        return [name for name in COMMANDS if name not in HIDDEN]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of subcommands, from the table instead of from their modules."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][2]) for name in self.list_commands(ctx)])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tmrc", prog_name="tmrc")
def tmrc() -> None:
    """See, steer and use tmrc's training runs. `tmrc-submit` starts and resumes them."""


def main() -> None:
    """Entry point of `tmrc`."""
    run_command(tmrc, "tmrc")


if __name__ == "__main__":
    main()
