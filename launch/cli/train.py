"""`tmrc train RUN_DIR`: one training process, as torchrun starts it; not for people."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run_dir", type=click.Path(exists=True, file_okay=False, path_type=Path))
def train(run_dir: Path) -> int:
    """Run one training process of the run in RUN_DIR; `tmrc-submit` starts as many as are needed."""
    from tmrc.train.run import main

    return main([str(run_dir)])
