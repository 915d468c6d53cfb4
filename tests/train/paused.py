"""The trainer, which sends itself a signal at a given place: python -m tests.train.paused PLACE RUN_DIR.

PLACE is MODULE:NAME:CALL[:SIGNAL[:RANK]]: before call number CALL of the function NAME (which can be CLASS.METHOD) in
tmrc.train.MODULE, on every rank or on one. Without a SIGNAL it stops itself (SIGSTOP).
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
import sys
from typing import Any

from tmrc.train.run import main


def pause_before(place: str) -> None:
    """Arrange for the signal before the call that `place` names."""
    module, name, call, *rest = place.split(":")
    number = getattr(signal, rest[0]) if rest else signal.SIGSTOP
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
        if len(calls) == int(call):
            os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    setattr(owner, name, paused)


if __name__ == "__main__":
    pause_before(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
