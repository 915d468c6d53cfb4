"""Verifying events.jsonl: that it is there, that it is whole, and that what it tells of is there."""

from __future__ import annotations

from collections.abc import Iterator

from tmrc.config.rundir import RunDir, checkpoint_name
from tmrc.train import durable
from tmrc.verify.facts import Check, Facts, steps, whole


def check_events(facts: Facts) -> Check:
    """Whether events.jsonl and what is there fit together."""
    name = "events"
    if facts.events_read.problem:
        return Check(name, "", (f"{facts.run.events.name} {facts.events_read.problem}",))
    faults = [*_no_rows(facts), *_no_start(facts)]
    if not facts.events and not faults:
        return Check(name, "none yet", done=False)
    faults += [*_lost(facts), *_beyond(facts), *_unfinished(facts)]
    return Check(name, _summary(facts), tuple(faults), tuple(_notes(facts)))


def _summary(facts: Facts) -> str:
    """How many attempts there were, as `tmrc status` counts them, and how many of them say that training began."""
    attempts, begun = facts.attempts, len(facts.begun)
    summary = f"{attempts:,} attempt{'s' * (attempts != 1)}"
    if begun < attempts:
        summary += f", of which {begun:,} began to train"
    named = [whole(row.get("step")) for row in facts.events if row["event"] == "checkpoint"]
    return f"{summary}; the newest checkpoint is there" if named and named[-1] in facts.saved else summary


def _no_rows(facts: Facts) -> Iterator[str]:
    begun = facts.events_read.cut_off
    for number, row in enumerate(facts.events_read.lines, 1):
        if (row is None or not isinstance(row.get("event"), str)) and number not in begun:
            yield f"line {number:,} is no row"


def _no_start(facts: Facts) -> Iterator[str]:
    """Before anything else is written, an attempt says that it begins."""
    there = [f"{len(facts.saved):,} checkpoints" if len(facts.saved) > 1 else "a checkpoint"] if facts.saved else []
    there += ["rows of metrics"] if facts.metrics.lines else []
    there += ["records in the ledger"] if facts.ledger is not None and len(facts.ledger.records) else []
    if not facts.begun and there:
        what = "does not say that training began" if facts.events else "is missing or empty"
        yield f"{facts.run.events.name} {what}, though there are {' and '.join(there[:2])}"
    elif facts.begun and (first := whole(facts.begun[0].get("step"))):
        yield f"it begins with a run that went on after step {first:,}: what was before it is missing"


def _lost(facts: Facts) -> Iterator[str]:
    """The newest checkpoint that is named, and the last one of a run that has finished."""
    told = [row for row in facts.events if row["event"] in ("started", "resumed", "checkpoint")]
    newest = whole(told[-1].get("step")) if told and told[-1]["event"] == "checkpoint" else None
    if newest is not None and max(facts.saved, default=-1) < newest and not _set_aside(facts.run, newest):
        yield f"{checkpoint_name(newest)} was written, but is not there"
    end = facts.finished
    if end is None or end in facts.saved:
        return
    config = facts.span_of(end).config
    if _set_aside(facts.run, end):
        yield f"the run has finished at step {end:,}, but {checkpoint_name(end)} was set aside as damaged"
    elif newest != end and config is not None and config.training.save_model:
        yield f"the run has finished at step {end:,}, but {checkpoint_name(end)} is not there"


def _beyond(facts: Facts) -> Iterator[str]:
    total = max((span.total for span in facts.spans if span.total is not None), default=None)
    if total is not None:
        for step in sorted(step for step in facts.saved if step > total):
            yield f"{checkpoint_name(step)} is beyond the last step, {total:,}"


def _unfinished(facts: Facts) -> Iterator[str]:
    end, total = facts.finished, facts.spans[-1].total
    if end is not None and total is not None and end != total:
        yield f"it says that the run has finished at step {end:,}, but its last step is {total:,}"


def _notes(facts: Facts) -> Iterator[str]:
    if facts.events_read.cut_off:
        lines = steps(facts.events_read.cut_off).replace("step", "line", 1)
        yield f"{lines} of {facts.run.events.name} {'was' if lines.startswith('line ') else 'were'} cut off"
    if facts.events_read.unended:
        yield f"the last line of {facts.run.events.name} is cut off"
    if not any(row["event"] == "finished" for row in facts.events) and _says_finished(facts.run):
        yield f"attempts/ says that the run has finished, and {facts.run.events.name} does not"


def _says_finished(run: RunDir) -> bool:
    """Whether rank 0 of an attempt has left word that it finished, and no event tells of it by now."""
    for path in run.path.glob("attempts/*/rank_0.json"):
        try:
            found = durable.read_json(path)
            text = run.events.read_bytes() if run.events.stat().st_size < durable.LARGEST_JSON else b"finished"
        except (OSError, ValueError):
            continue
        if isinstance(found, dict) and found.get("status") == "finished" and b'"finished"' not in text:
            return True
    return False


def _set_aside(run: RunDir, step: int) -> bool:
    return any(run.checkpoints.glob(f"damaged_{checkpoint_name(step)}*"))
