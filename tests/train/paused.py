"""The trainer, which sends itself a signal at a given place: python -m tests.train.paused PLACE RUN_DIR.

PLACE is MODULE:NAME:CALL[:SIGNAL[:RANK]]: before call number CALL of the function NAME (which can be CLASS.METHOD) in
tmrc.train.MODULE, on every rank or on one. Without a SIGNAL it stops itself (SIGSTOP); with the SIGNAL `stuck` it makes
no progress any more, though its threads run and it takes signals, and its patience without torchrun is a second.
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
import sys
import time
from typing import Any

from tmrc.train import stop
from tmrc.train.run import main


def pause_before(place: str) -> None:
    """Arrange for the signal before the call that `place` names."""
    module, name, call, *rest = place.split(":")
    stuck = rest[:1] == ["stuck"]
    number = signal.SIGSTOP if stuck or not rest else getattr(signal, rest[0])
    if rest[1:] and rest[1] != os.environ.get("RANK"):
        return
    owner: Any = importlib.import_module(f"tmrc.train.{module}")
    *outer, name = name.split(".")
    for part in outer:
        owner = getattr(owner, part)
    original, calls = getattr(owner, name), []

    @functools.wraps(original)
    def paused(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        while stuck and len(calls) == int(call):
            time.sleep(0.1)
        if len(calls) == int(call):
            os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    setattr(owner, name, paused)
    if stuck:
        stop.ORPHAN_PATIENCE = 1.0
        stop.stop_with_parent()


if __name__ == "__main__":
    pause_before(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
