"""How an attempt ended, from what its ranks wrote and, for those that could not, from what each node saw."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.attempts import Ending, read_json
from launch.hang import describe_hang
from launch.rendezvous import port_was_taken
from launch.reports import NodeReport
from tmrc.config.rundir import EXIT_CRASHED, EXIT_FINISHED, EXIT_USER_ERROR, EXIT_WANTS_REQUEUE

# torchrun's line for the worker that failed first, the same since torch 1.9
_FAILED_WORKER = re.compile(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+)")
PEER_LOST = "peer_lost"  # what a rank says when another one has gone: true, but not the cause
_FULL = re.compile(r"No space left on device|Disk quota exceeded")  # a rank could not write even that
# faulthandler's stack of a process that a SIGBUS ends, where its innermost line is in the reader
_READING = re.compile(r'Fatal Python error: Bus error\s+(?:.*\n)*?Current thread .*\n\s+File "[^"\n]*tmrc/data/')
_STATUS = {EXIT_FINISHED: "finished", EXIT_WANTS_REQUEUE: "stopped"}


def verdict(attempt: Path, ranks: int, reports: Sequence[NodeReport]) -> Ending:
    """The ending of an attempt of `ranks` processes, given the reports of the nodes that could make one.

    The ranks' own words count before torchrun's: a configuration error on any rank is one, since its neighbours are
    killed for it. A rank without a word has crashed, and the run with it; that counts before what the others say of a
    lost connection.
    """
    said = {rank: found for rank in range(ranks) if (found := read_json(attempt / f"rank_{rank}.json"))}
    codes = {rank: int(found.get("exit_code", EXIT_CRASHED)) for rank, found in said.items()}
    step = max((int(found.get("step") or 0) for found in said.values()), default=None)
    failed = [rank for rank in sorted(said) if codes[rank] not in _STATUS]
    refused = [rank for rank in failed if codes[rank] == EXIT_USER_ERROR]
    first_hand = [rank for rank in failed if said[rank].get("kind") != PEER_LOST]
    missing = [rank for rank in range(ranks) if rank not in said]
    hung = _hang(reports, step)
    if refused or (first_hand and not hung):
        return _own_words(said, (refused or first_hand)[0], ranks, reports, step)
    if hung:
        return hung
    if missing:
        return _without_words(missing, reports, step)
    if failed:
        return _own_words(said, failed[0], ranks, reports, step)
    if EXIT_WANTS_REQUEUE not in codes.values():
        return Ending(EXIT_FINISHED, "finished", "", step, "finished")
    killed = next((report for report in reports if report.torchrun_code < 0 and not report.signals), None)
    if killed:
        return Ending(EXIT_WANTS_REQUEUE, "stopped", killed.cause, step, killed.kind, killed.host)
    return Ending(EXIT_WANTS_REQUEUE, "stopped", "", step, "stopped")


def _own_words(
    said: dict[int, dict[str, Any]], rank: int, ranks: int, reports: Sequence[NodeReport], step: int | None
) -> Ending:
    """The ending that rank `rank` wrote."""
    user_error = said[rank].get("exit_code") == EXIT_USER_ERROR
    message = str(said[rank].get("message") or "failed without a message")
    by = f"rank {rank}: " if ranks > 1 and not user_error else ""
    kind = str(said[rank].get("kind") or ("config" if user_error else "code_error"))
    code = EXIT_USER_ERROR if user_error else EXIT_CRASHED
    return Ending(code, "failed", by + message, step, kind, None if user_error else _host_of(rank, reports))


def _hang(reports: Sequence[NodeReport], step: int | None) -> Ending | None:
    """The ending when the watchdog of some node has ended the attempt."""
    if not any(report.hung for report in reports):
        return None
    beats = {rank: place for report in reports for rank, place in report.beats.items()}
    message, behind = describe_hang(beats, max(report.hang_timeout for report in reports))
    alone = len(behind) < len(beats)  # where all stand at the same place, no node is more to blame than another
    host = _host_of(behind[0], reports) if behind and (alone or len(reports) == 1) else None
    named = f"{message} [{host}]" if host and len(reports) > 1 else message
    reached = max((int(place["step"]) for place in beats.values()), default=step)
    return Ending(EXIT_CRASHED, "failed", named, reached, "hang", host)


def _without_words(missing: list[int], reports: Sequence[NodeReport], step: int | None) -> Ending:
    """The ending when the ranks `missing` wrote nothing."""
    causes = [report for report in reports if report.killed or report.cause]
    # A node that ended its ranks because of another node's, or because it was told to, has no cause of its own.
    causes.sort(key=lambda report: (bool(report.killed), not set(report.ranks) & set(missing), report.node))
    if causes:
        worst = causes[0]
        on = f"{worst.host}: " if len(reports) > 1 else ""
        return Ending(EXIT_CRASHED, "failed", on + (worst.killed or worst.cause), step, worst.kind, worst.host)
    ranks = ", ".join(map(str, missing))
    return Ending(EXIT_CRASHED, "failed", f"rank {ranks} ended without a word", step, "killed")


def _host_of(rank: int, reports: Sequence[NodeReport]) -> str | None:
    return next((report.host for report in reports if rank in report.ranks), None)


def why_silent(torchrun_code: int, log: str, out_of_memory: bool, nodes: int = 1) -> tuple[str, str]:
    """(one line, kind) for ranks of a node that wrote nothing, from its torchrun's exit code and log."""
    if full := _FULL.search(log):
        return full[0], "disk"
    first = _FAILED_WORKER.search(log)
    if first is not None:
        code, rank = int(first[1]), f"{'local ' if nodes > 1 else ''}rank {first[2]}"
        if code >= 0:
            return f"{rank} exited with code {code}{_last_words(log)}", "code_error"
        killed = f"{rank} was killed by {signal_name(-code)}"
        if -code == signal.SIGBUS:  # what the kernel sends for memory that has failed, and for a mapped file's lost end
            reading = " while it read data: a shard was cut short under it, or the disk has failed"
            return killed + reading * bool(_READING.search(log)), "hardware"
        hint = " (out of memory?)" if -code == signal.SIGKILL else ""
        return (f"{killed}: out of memory", "out_of_memory") if out_of_memory else (killed + hint, "killed")
    if port_was_taken(log):
        return "the rendezvous port is taken", "port"
    if torchrun_code < 0:
        return f"torchrun was killed by {signal_name(-torchrun_code)}", "out_of_memory" if out_of_memory else "killed"
    return f"torchrun exited with code {torchrun_code}{_last_words(log)}", "code_error"


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
