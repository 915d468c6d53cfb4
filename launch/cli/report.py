"""`tmrc report`: a picture of a run's losses."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--png", required=True, type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Where to.")
def report(run: Path, png: Path) -> None:
    """Plot training and validation loss of the run in directory RUN by step."""
    from launch.report import plot_losses
    from tmrc.config.rundir import RunDir

    plot_losses(RunDir(run), png)
    click.echo(png)
