"""Sends a run's metrics.jsonl to the wandb server as far as it is lacking there; what `tmrc sync` starts, once a run.

python -m tmrc.train.wandb_send RUN_DIR prints one JSON object: {"state", "first", "last", "steps", "url"} or {"error"}.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from tmrc.config.load import load_config
from tmrc.config.rundir import EXIT_CRASHED, EXIT_FINISHED, EXIT_WANTS_REQUEUE, RunDir, read_jsonl
from tmrc.config.schema import Config
from tmrc.train.claim import SYNC, Claim
from tmrc.train.curve import Curve, validated_steps
from tmrc.train.wandb_run import Place, forget_the_job, goodput_summary, open_place, require_answer

UPLOAD_SECONDS = 600
_TURNS = ("started", "resumed", "requeued", "finished", "failed")
# Nothing of the machine: it is not the one that trained. Nothing on the terminal: the caller says what is to be said.
_QUIET = {
    "finish_timeout": UPLOAD_SECONDS,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}


def send(run: RunDir) -> dict[str, Any]:
    """Send what is lacking. `state`: sent, nothing (all is there), tracked (by another now), empty, disabled."""
    config = load_config(run.config)
    if config.wandb_log.mode == "disabled":
        return {"state": "disabled"}
    ending = exit_code(run)
    curve = Curve(run.metrics, validated_steps(run, config.training))
    points = curve.points(ended=ending == EXIT_FINISHED)
    curve.close()
    if not points:
        return {"state": "empty"}
    claim = Claim(run, SYNC)
    if (holder := claim.take()) is not None:
        return {"state": "tracked", "attempt": holder}
    try:
        with tempfile.TemporaryDirectory(prefix="tmrc-sync-", ignore_cleanup_errors=True) as folder:
            return _send(run, config, ending, claim, Path(folder))
    finally:
        claim.release()


def _send(run: RunDir, config: Config, ending: int, claim: Claim, folder: Path) -> dict[str, Any]:
    require_answer()
    place = open_place(run, config, "online", folder, **_QUIET)
    place.send(ending == EXIT_FINISHED, alive=lambda: _require(claim))
    place.summarize(goodput_summary(run))
    place.finish(ending)
    said = {"first": place.first, "last": place.last, "steps": place.sent, "url": place.url}
    if not place.sent:
        return {"state": "nothing", **said}
    there = _asked_again(run, config, ending, folder)
    if there.first <= place.last:
        raise RuntimeError(f"the server has steps up to {there.first - 1} of {place.last} only; try again later")
    return {"state": "sent", **said}


def _asked_again(run: RunDir, config: Config, ending: int, folder: Path) -> Place:
    """The run as the server has it now: wandb does not say whether an upload has gone well."""
    place = open_place(run, config, "online", folder, **_QUIET)
    place.finish(ending)
    return place


def exit_code(run: RunDir) -> int:
    """How the run stands, as the exit code that wandb is told: finished, failed, or to be continued."""
    names = [row.get("event") for row in read_jsonl(run.events)]
    last = next((name for name in reversed(names) if name in _TURNS), None)
    return {"finished": EXIT_FINISHED, "failed": EXIT_CRASHED}.get(str(last), EXIT_WANTS_REQUEUE)


def _require(claim: Claim) -> None:
    if not claim.keep():
        raise RuntimeError("another process sends this run now")


def main(run_path: str) -> None:
    """Send one run and say how it went. All that wandb prints goes to stderr."""
    answer, sys.stdout = sys.stdout, sys.stderr
    forget_the_job()
    os.environ.pop("WANDB_MODE", None)
    try:
        said = send(RunDir(Path(run_path)))
    except Exception as error:
        said = {"error": " ".join(str(error).split()) or type(error).__name__}
    print(json.dumps(said), file=answer, flush=True)
    if "error" in said:
        os._exit(1)  # wandb's own hook at the exit would tell the server that the run has failed


if __name__ == "__main__":
    main(sys.argv[1])
