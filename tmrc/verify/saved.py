"""Verifying checkpoints: every byte, and the form of their tensors."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tmrc.config.errors import shown
from tmrc.config.rundir import RunDir, checkpoint_steps
from tmrc.train import durable
from tmrc.train.saved import FILES
from tmrc.verify.facts import Check, Facts, Saved, steps
from tmrc.verify.rows import Row
from tmrc.verify.tensors import tensor_flaw

_NAMED = 4  # files that a note names


def read_saved(run: RunDir, advance: Callable[[int], None]) -> dict[int, Saved]:
    """Step -> checkpoint, newest first, every file read. One that is deleted meanwhile is left out."""
    found: dict[int, Saved] = {}
    for done, (step, path) in enumerate(checkpoint_steps(run).items()):
        advance(done)
        flaw = durable.problem(path, FILES)
        flaw = flaw or tensor_flaw(path)
        if os.path.lexists(path):
            found[step] = Saved(path, flaw, _state(path / "trainer.json"))
    return found


def check_checkpoints(facts: Facts) -> Check:
    """The bytes of each checkpoint, and those that were set aside."""
    faults = tuple(f"{one.path.name}: {one.flaw}" for one in facts.saved.values() if one.flaw)
    aside = sorted(path.name for path in facts.run.checkpoints.glob("damaged_*"))
    notes = [f"set aside as damaged earlier: {', '.join(aside[:4])}"] if aside else []
    notes += filter(None, map(_extra, facts.saved.values()))
    if not facts.saved:
        return Check("checkpoints", "none yet", faults, tuple(notes), done=False)
    summary = f"{len(facts.saved)} re-hashed, {steps(sorted(facts.saved))}"
    return Check("checkpoints", summary, faults, tuple(notes))


def _extra(one: Saved) -> str:
    """A note on files that are none of a checkpoint's."""
    try:
        names = sorted(path.name for path in one.path.iterdir())
    except OSError:
        return ""
    own = (*FILES, durable.MANIFEST)
    extra = [shown(name) for name in names if name not in own and not name.startswith(".nfs")]
    more = f" and {len(extra) - _NAMED:,} more" if len(extra) > _NAMED else ""
    what = "is none of its files" if len(extra) == 1 else "are none of its files"
    return f"{one.path.name}: {', '.join(extra[:_NAMED])}{more} {what}" if extra else ""


def _state(path: Path) -> Row:
    try:
        found = durable.read_json(path)
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
