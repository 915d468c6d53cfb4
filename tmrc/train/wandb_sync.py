"""Reports metrics.jsonl of a run to Weights & Biases until standard input ends.

Started by rank 0 as python -m tmrc.train.wandb_sync RUN_DIR.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from pathlib import Path
from typing import Any, Literal, cast

from tmrc.config.load import config_dict, load_config
from tmrc.config.rundir import RunDir, read_jsonl
from tmrc.config.schema import WandbConfig
from tmrc.train import durable
from tmrc.train.stop import STOP_SIGNALS

Mode = Literal["online", "offline", "disabled"]
POLL_SECONDS = 2.0
INIT_SECONDS = 30.0


def main(run_path: str) -> None:
    """Report rows as they come. Each row is reported once over all attempts: a rewound row comes back equal."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    run = RunDir(Path(run_path))
    config = load_config(run.config)
    tracked = start(run, config.wandb_log, config_dict(config))
    reported = rows_reported(run)
    ended = False
    while not ended:
        ended = bool(select.select([sys.stdin], [], [], POLL_SECONDS)[0])
        rows = read_jsonl(run.metrics)
        for row in rows[reported:]:
            tracked.log({name: value for name, value in row.items() if name not in ("step", "time")}, step=row["step"])
        reported = max(reported, len(rows))
        remember(run, reported)
    tracked.finish(exit_code=0)


def start(run: RunDir, config: WandbConfig, settings: dict[str, Any]) -> Any:
    """The wandb run, whose id is the run's, so that every attempt continues one curve; offline where it must be."""
    import wandb

    mode = choose_mode(config)
    options: dict[str, Any] = {
        "project": config.name,
        "group": config.group,
        "tags": config.tags or None,
        "id": run.run_id,
        "name": run.run_id,
        "dir": str(run.path),
        "config": settings,
        "resume": "allow" if mode == "online" else None,
        "settings": wandb.Settings(init_timeout=INIT_SECONDS, console="off", disable_git=True, save_code=False),
    }
    try:
        return wandb.init(mode=mode, **options)
    except (wandb.errors.CommError, wandb.errors.UsageError) as error:
        print(f"wandb: {error}; reporting offline", flush=True)
        return wandb.init(mode="offline", **{**options, "resume": None})


def choose_mode(config: WandbConfig) -> Mode:
    """`auto` is WANDB_MODE where it is set, else online with a login and offline without."""
    if config.mode != "auto":
        return config.mode
    asked = os.environ.get("WANDB_MODE")
    if asked in ("online", "offline", "disabled"):
        return cast(Mode, asked)
    import wandb

    return "online" if wandb.api.api_key else "offline"


def rows_reported(run: RunDir) -> int:
    """How many rows earlier attempts reported."""
    try:
        return int(json.loads((run.wandb / "reported.json").read_text())["rows"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def remember(run: RunDir, rows: int) -> None:
    """Keep for a later attempt how many rows are reported."""
    run.wandb.mkdir(exist_ok=True)
    durable.replace_file(run.wandb / "reported.json", json.dumps({"rows": rows}).encode())


if __name__ == "__main__":
    main(sys.argv[1])
