"""How an attempt ended, from what its ranks wrote and, for those that could not, from torchrun's log."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from launch.attempts import Ending, read_json
from tmrc.config.rundir import EXIT_CRASHED, EXIT_FINISHED, EXIT_USER_ERROR, EXIT_WANTS_REQUEUE

# torchrun's line for the worker that failed first, the same since torch 1.9
_FAILED_WORKER = re.compile(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+)")
_STATUS = {EXIT_FINISHED: "finished", EXIT_WANTS_REQUEUE: "stopped"}


def verdict(attempt: Path, ranks: int, torchrun_code: int, log: str) -> Ending:
    """The ending of an attempt of `ranks` processes whose torchrun exited with `torchrun_code` and printed `log`.

    The ranks' own words count before torchrun's: a configuration error on any rank is one, since its neighbours are
    killed for it; otherwise a rank without a word has crashed, and the run with it.
    """
    said = {rank: found for rank in range(ranks) if (found := read_json(attempt / f"rank_{rank}.json"))}
    codes = {rank: int(found.get("exit_code", EXIT_CRASHED)) for rank, found in said.items()}
    step = max((int(found.get("step") or 0) for found in said.values()), default=None)
    for code in (EXIT_USER_ERROR, EXIT_CRASHED):
        for rank in sorted(rank for rank, given in codes.items() if given == code or _crash(given, code)):
            message = str(said[rank].get("message") or "failed without a message")
            by = f"rank {rank}: " if ranks > 1 and code == EXIT_CRASHED else ""
            return Ending(code, "failed", by + message, step)
    missing = [rank for rank in range(ranks) if rank not in said]
    if missing:
        return Ending(EXIT_CRASHED, "failed", _cause(missing, torchrun_code, log), step)
    code = EXIT_WANTS_REQUEUE if EXIT_WANTS_REQUEUE in codes.values() else EXIT_FINISHED
    return Ending(code, _STATUS[code], "", step)


def _crash(given: int, wanted: int) -> bool:
    return wanted == EXIT_CRASHED and given not in (EXIT_FINISHED, EXIT_WANTS_REQUEUE, EXIT_USER_ERROR)


def _cause(missing: list[int], torchrun_code: int, log: str) -> str:
    """Why the ranks `missing` wrote nothing."""
    first = _FAILED_WORKER.search(log)
    if first is not None:
        code, rank = int(first[1]), int(first[2])
        if code < 0:
            name = signal_name(-code)
            hint = " (out of memory?)" if -code == signal.SIGKILL else ""
            return f"rank {rank} was killed by {name}{hint}"
        return f"rank {rank} exited with code {code}{_last_words(log)}"
    if torchrun_code < 0:
        return f"torchrun was killed by {signal_name(-torchrun_code)}"
    ranks = ", ".join(map(str, missing))
    return f"rank {ranks} ended without a word, torchrun exited with code {torchrun_code}{_last_words(log)}"


def signal_name(number: int) -> str:
    """`SIGKILL` for 9; `signal 64` where there is no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_words(log: str) -> str:
    """The last line that looks like an exception, cut to a readable length; not torchrun's own about its workers."""
    lines = re.findall(r"^(?:\[rank\d+\]: ?)?(\w[\w.]*(?:Error|Exception|Interrupt|Exit)\b.*)$", log, re.MULTILINE)
    lines = [line for line in lines if not line.startswith(("torch.distributed.elastic", "ChildFailedError"))]
    return f": {lines[-1][:300]}" if lines else ""
