"""Options that several commands have: what a job asks for, under the names of the `launch:` section."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from launch.complete import templates

F = TypeVar("F", bound=Callable[..., Any])

_JOB = (
    click.option("-p", "--partition", metavar="P", help="Slurm partition."),
    click.option("-A", "--account", metavar="A", help="Slurm account."),
    click.option("-q", "--qos", metavar="Q", help="Slurm quality of service."),
    click.option("-N", "--nodes", type=int, metavar="N", help="Nodes."),
    click.option(
        "-G", "--gpus-per-node", type=int, metavar="G", help="GPUs on each node. [1; all there are with --local]"
    ),
    click.option("-c", "--cpus-per-task", type=int, metavar="C", help="CPU cores on each node."),
    click.option("--mem", metavar="M", help="Memory on each node, such as 360G."),
    click.option("-t", "--time", metavar="T", help="Time limit, such as 2-00:00:00 or 30 (minutes)."),
    click.option("-C", "--constraint", metavar="X", help="Node features."),
    click.option("-x", "--exclude", metavar="NODES", help="Nodes to keep off."),
    click.option(
        "--template",
        metavar="NAME|FILE",
        shell_complete=templates,
        help="Site template with settings for all of the above.",
    ),
)


def job_options(command: F) -> F:
    """Give `command` the options of a job, in their order."""
    for option in reversed(_JOB):
        command = option(command)
    return command
