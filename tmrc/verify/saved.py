"""Verifying checkpoints: every byte, and what their trainer.json says. Also what events.jsonl says of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tmrc.config.rundir import RunDir
from tmrc.train import durable
from tmrc.train.saved import FILES, checkpoint_name, checkpoint_steps
from tmrc.verify.facts import Check, Facts, Row, Saved, steps, whole


def read_saved(run: RunDir, advance: Callable[[int], None]) -> dict[int, Saved]:
    """Step -> checkpoint, newest first, every file read. One that is deleted meanwhile is left out."""
    found: dict[int, Saved] = {}
    for done, (step, path) in enumerate(checkpoint_steps(run).items()):
        advance(done)
        flaw = durable.problem(path, FILES)
        if path.is_dir():
            found[step] = Saved(path, flaw or "", _state(path / "trainer.json"))
    return found


def check_checkpoints(facts: Facts) -> Check:
    """The bytes of each checkpoint, and those that were set aside."""
    faults = tuple(f"{one.path.name}: {one.flaw}" for one in facts.saved.values() if one.flaw)
    aside = sorted(path.name for path in facts.run.checkpoints.glob("damaged_*"))
    notes = (f"set aside as damaged earlier: {', '.join(aside[:4])}",) if aside else ()
    if not facts.saved:
        return Check("checkpoints", "none yet", faults, notes, done=False)
    what = "re-hashed" if len(facts.saved) > 1 else "re-hashed: every byte is as it was written"
    return Check("checkpoints", f"{len(facts.saved)} {what}, {steps(sorted(facts.saved))}", faults, notes)


def check_states(facts: Facts) -> Check:
    """Whether each trainer.json fits its directory and the batch size."""
    good = {step: one for step, one in facts.saved.items() if not one.flaw}
    if not good:
        return Check("trainer state", "no whole checkpoint", done=False)
    faults = tuple(f"{one.path.name}: {line}" for step, one in good.items() for line in _state_faults(facts, step, one))
    return Check("trainer state", "steps and sequences agree", faults)


def check_events(facts: Facts) -> Check:
    """Whether events.jsonl and what is there fit together."""
    if not facts.events:
        return Check("events", "none yet", done=False)
    faults = []
    told = [row for row in facts.events if row["event"] in ("started", "resumed", "checkpoint")]
    newest = whole(told[-1].get("step")) if told and told[-1]["event"] == "checkpoint" else None
    newest_there = max(facts.saved, default=-1)
    if newest is not None and newest_there < newest and not _set_aside(facts.run, newest):
        faults.append(f"{checkpoint_name(newest)} was written, but is not there")
    total = max((span.total for span in facts.spans if span.total is not None), default=None)
    if total is not None:
        beyond = sorted(step for step in facts.saved if step > total)
        faults += [f"{checkpoint_name(step)} is beyond the last step, {total:,}" for step in beyond]
    attempts = len([row for row in facts.events if row["event"] in ("started", "resumed")])
    number = f"{attempts} attempt{'s' * (attempts != 1)}"
    return Check("events", f"{number}, and the checkpoints that they name", tuple(faults))


def _state_faults(facts: Facts, step: int, one: Saved) -> list[str]:
    state, faults = one.state, []
    if state.get("step") != step:
        faults.append(f"its trainer.json is of step {state.get('step')!r:.20}")
    if facts.config is not None:
        batch = facts.config.training.batch_size
        if state.get("sequences") != step * batch:
            counted = f"{state.get('sequences')!r:.20} sequences"
            faults.append(f"its trainer.json counts {counted} instead of {step * batch:,} ({step:,} x {batch:,})")
    return faults


def _set_aside(run: RunDir, step: int) -> bool:
    return any(run.checkpoints.glob(f"damaged_{checkpoint_name(step)}*"))


def _state(path: Path) -> Row:
    try:
        found = durable.read_json(path)
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
