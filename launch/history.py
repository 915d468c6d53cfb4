"""What became of a run's earlier attempts, as far as it counts for what to do next."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from launch.attempts import Ending, Owner, last_attempt, newest_step, read_ending, read_json, read_owner, write_json
from launch.decide import Past
from launch.goodput import record_goodput
from launch.jobs import down_nodes, past_state
from launch.slurmlog import read_log, why_ended
from tmrc.config.rundir import EXIT_CRASHED, EXIT_WANTS_REQUEUE, RunDir, append_event, read_jsonl

# sacct's words for how a job's try ended
_STATES = {
    "PREEMPTED": "preempted", "NODE_FAIL": "node_failure", "REQUEUED": "requeued", "TIMEOUT": "time_limit",
    "OUT_OF_MEMORY": "out_of_memory", "CANCELLED": "cancelled",
}  # fmt: skip


def history(run: RunDir) -> list[Past]:
    """The ended attempts since somebody last submitted the run, oldest first. A person's wish starts a new count."""
    rows = [row for row in read_jsonl(run.events) if row.get("event") == "submitted"]
    submitted = [row for row in rows if "previous" not in row]  # the others are a job's own successors
    first = int(submitted[-1].get("attempt") or 1) if submitted else 1
    found = []
    for number in range(first, last_attempt(run) + 1):
        ending = read_ending(run, number)
        owner = read_json(run.attempt(number) / "owner.json") or {}
        if ending is not None:
            found.append(Past(ending, owner.get("checkpoint")))
    return found


def close_unfinished(run: RunDir, job_id: str) -> None:
    """Give the last attempt an ending if its supervisor could not: Slurm, or the node's end, was faster."""
    number = last_attempt(run)
    owner = read_owner(run, number) if number else None
    if owner is None or read_ending(run, number) is not None:
        return
    kind, message, node = _cause(run, number, owner, requeued=owner.job_id == job_id)
    step = newest_step(run)
    cancelled = kind == "cancelled"
    code, status = (EXIT_WANTS_REQUEUE, "cancelled") if cancelled else (EXIT_CRASHED, "failed")
    ending = Ending(code, status, message, step, kind, node, step, _last_sign(run, number, owner))
    if owner.job_id == job_id:
        ending = replace(ending, action="requeued")
        about = {"attempt": number, "step": step, "kind": kind, "cause": message, "action": "requeued"}
        append_event(run, "requeued", **about, job_id=job_id)
    write_json(run.attempt(number) / "job.json", asdict(ending))
    record_goodput(run, number)


def _cause(run: RunDir, number: int, owner: Owner, requeued: bool) -> tuple[str, str, str | None]:
    """(kind, one line, node to blame) of an attempt that ended without a word."""
    state = past_state(owner.job_id) if owner.job_id else ""
    down = down_nodes(owner.nodes)
    if down or state == "NODE_FAIL":
        named = ", ".join(down or owner.nodes)
        return "node_failure", f"node failure: {named}", (down or owner.nodes)[0] if down else None
    asked = _was_asked_to_stop(run, number)
    told = why_ended(read_log(Path(owner.logs[0]), owner.log_offset)) if owner.logs else ""
    kind = told or _STATES.get(state, "") or ("requeued" if requeued and asked else "")
    if kind:
        words = "preempted or requeued" if kind == "requeued" else kind.replace("_", " ")
        return kind, f"{words}, {'saved when asked to' if asked else 'killed before it could save'}", None
    return "lost", f"ended without a word ({state.lower() if state else 'a lost node, or killed'})", None


def _last_sign(run: RunDir, number: int, owner: Owner) -> float:
    """When the attempt was last heard of."""
    rows = [row for row in read_jsonl(run.events) if row.get("attempt") == number]
    return max([owner.began, *(float(row["time"]) for row in rows if isinstance(row.get("time"), int | float))])


def _was_asked_to_stop(run: RunDir, number: int) -> bool:
    """Whether a node of the attempt has had a TERM, or a rank of it has stopped in order."""
    attempt = run.attempt(number)
    reports = [read_json(file) or {} for file in attempt.glob("node_*.json")]
    ranks = [read_json(file) or {} for file in attempt.glob("rank_*.json")]
    signals = [report.get("signals") or () for report in reports]
    return any("SIGTERM" in names for names in signals) or any(said.get("status") == "stopped" for said in ranks)
