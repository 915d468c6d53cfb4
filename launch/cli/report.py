"""`tmrc report`: a picture of a run's losses."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run")
@click.option("--png", required=True, type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Where to.")
def report(run: str, png: Path) -> None:
    """Plot training and validation loss by step of RUN: a run's directory, its id, or the beginning of that."""
    from launch.find import find_run
    from launch.report import plot_losses

    plot_losses(find_run(run), png)
    click.echo(png)
