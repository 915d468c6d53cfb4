"""Verifying what checkpoints say of the run: their trainer.json, and config.yaml against the keys noted there."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from tmrc.config.changes import differing, of_kind, record, spoken
from tmrc.config.errors import shown
from tmrc.config.schema import Config
from tmrc.data.plan import same_tokenizer
from tmrc.train import durable
from tmrc.train.saved import TOKENIZER, TrainerState
from tmrc.verify.facts import Check, Facts, Saved, Span, validates

_NAMED = 4  # keys that a line names


def check_configuration(facts: Facts) -> Check:
    """Whether config.yaml loads, and is what each checkpoint was trained with or was let change to."""
    name = "configuration"
    problems = dict.fromkeys(filter(None, [facts.config_problem, *(span.problem for span in facts.spans)]))
    if facts.config_problem:
        return Check(name, "", tuple(problems))
    allowed, unread = _allowed(facts)
    found: dict[str, str] = {}  # what differs -> the newest checkpoint that says so
    for step, one in facts.saved.items():
        if not one.flaw and (line := _edited(facts, step, one, allowed)):
            found.setdefault(line, one.path.name)
    lines = [f"differs from what {where} was trained with: {line}" for line, where in found.items()]
    noted = any(not one.flaw and one.state.get("config") for one in facts.saved.values())
    summary = "loads, and is what the checkpoints note" if noted else "loads"
    notes = [unread] if unread else []
    return Check(name, summary, (*problems, *lines), (*notes, *_changed_on_the_way(facts, allowed)))


def check_states(facts: Facts) -> Check:
    """Whether each trainer.json has its form and fits its directory, the batch size, the data and the ledger."""
    good = {step: one for step, one in facts.saved.items() if not one.flaw}
    if not good:
        return Check("trainer state", "no whole checkpoint", done=False)
    faults = [f"{one.path.name}: {line}" for step, one in good.items() for line in _state_faults(facts, step, one)]
    faults += _not_noted(facts, good)
    return Check("trainer state", "steps and sequences agree" if facts.config else "steps agree", tuple(faults))


def _edited(facts: Facts, step: int, one: Saved, allowed: Mapping[str, Any]) -> str:
    """The keys that somebody has changed without consent, with both values: in the checkpoint and in config.yaml."""
    noted = one.state.get("config")
    if not isinstance(noted, dict):
        return ""
    lines = []
    for config in _configs(facts, step):
        now = {**record(config), **({TOKENIZER: facts.plan.metadata.tokenizer} if facts.plan else {})}
        changes = differing(noted, now)
        if TOKENIZER in changes and same_tokenizer(*map(str, changes[TOKENIZER])):
            del changes[TOKENIZER]  # of data that has moved, the path may be another
        lines.append(
            spoken({key: both for key, both in changes.items() if key not in allowed or allowed[key] != both[1]})
        )
    return lines[0] if lines and all(lines) else ""


def _changed_on_the_way(facts: Facts, allowed: Mapping[str, Any]) -> Iterator[str]:
    """What changed the course of the run between two of its attempts, as far as the newest one's steps go back."""
    stretches: list[Span] = []
    for span in facts.spans:
        stretches = [one for one in stretches if one.begin < span.begin]
        yield from _let_change(stretches[-1], span.config, allowed, f"at step {span.begin:,}") if stretches else ()
        stretches.append(span)
    yield from _let_change(stretches[-1], facts.config, allowed, "for the next attempt")


def _let_change(before: Span, config: Config | None, allowed: Mapping[str, Any], when: str) -> Iterator[str]:
    if before.config is None or config is None:
        return
    now = record(config)
    for key, (old, new) in of_kind(differing(record(before.config), now), "course", now).items():
        how = "was let change" if key in allowed else "changed"
        yield f"{key} {how} from {shown(old, 60)} to {shown(new, 60)} {when}"


def _configs(facts: Facts, step: int) -> list[Config]:
    """The configurations of the attempts that can have written the checkpoint of `step`."""
    return [span.config for span in _spans(facts, step) if span.config is not None]


def _spans(facts: Facts, step: int) -> list[Span]:
    return [span for span in facts.spans if span.begin == 0] if step == 0 else [facts.span_of(step)]


def _allowed(facts: Facts) -> tuple[Mapping[str, Any], str]:
    """Key -> the value that it was let have; and a note where that cannot be read."""
    try:
        found = durable.read_json(facts.run.allowed)
    except FileNotFoundError:
        return {}, ""
    except (OSError, ValueError):
        found = None
    if isinstance(found, dict):
        return found, ""
    return {}, f"{facts.run.allowed.name} cannot be read: what was let change is not known"


def _state_faults(facts: Facts, step: int, one: Saved) -> Iterator[str]:
    state = one.state
    if state.get("step") != step:
        yield f"its trainer.json is of step {state.get('step')!r:.20}"
    if facts.config is not None and state.get("sequences") != step * facts.config.training.batch_size:
        batch = facts.config.training.batch_size
        counted = f"{state.get('sequences')!r:.20} sequences"
        yield f"its trainer.json counts {counted} instead of {step * batch:,} ({step:,} x {batch:,})"
    ill_formed = list(_ill_formed(state))
    yield from ill_formed
    if not ill_formed:
        yield from _unfit(facts, step, state)


def _ill_formed(state: Mapping[str, Any]) -> Iterator[str]:
    """Fields that are missing, of another type, or none of its own."""
    form = {name: typing.get_origin(kind) or kind for name, kind in typing.get_type_hints(TrainerState).items()}
    required = _required(state)
    for name, kind in form.items():
        if name not in state:
            if name in required:
                yield f"its trainer.json has no {name}"
        elif type(state[name]) is not kind:
            yield f"{name} of its trainer.json is of type {type(state[name]).__name__} instead of {kind.__name__}"
    for name in state:
        if name not in form:
            yield f"its trainer.json has {name!r:.40}, which is none of its fields"
    scaler = state.get("scaler")
    if isinstance(scaler, dict) and any(type(value) not in (int, float) for value in scaler.values()):
        yield "scaler of its trainer.json holds what is no number"


def _required(state: Mapping[str, Any]) -> set[str]:
    """The fields that a state has had: all up to the last of its own. New ones are appended, with a default."""
    fields = dataclasses.fields(TrainerState)
    last = max((place for place, one in enumerate(fields) if one.name in state), default=0)
    return {one.name for place, one in enumerate(fields) if place <= last or not _has_default(one)}


def _has_default(field: dataclasses.Field[Any]) -> bool:
    """Whether the field came later: checkpoints of older versions have none."""
    return not (field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING)


def _not_noted(facts: Facts, good: Mapping[int, Saved]) -> Iterator[str]:
    """Keys of the configuration that a checkpoint does not note, and another one of the same attempt does."""
    noted = {step: one.state["config"] for step, one in good.items() if isinstance(one.state.get("config"), dict)}
    for step, own in noted.items():
        begin = facts.span_of(step).begin
        keys = {key for other in noted if facts.span_of(other).begin == begin for key in noted[other]}
        if lacking := sorted(keys - set(own)):
            more = f" and {len(lacking) - _NAMED:,} more" if len(lacking) > _NAMED else ""
            what = ", ".join(shown(name) for name in lacking[:_NAMED]) + more
            yield f"{good[step].path.name}: its trainer.json does not note {what}, as others of its attempt do"


def _unfit(facts: Facts, step: int, state: Mapping[str, Any]) -> Iterator[str]:
    """Fields that cannot be as they are, in a state that has its form."""
    if facts.config is not None:
        batch, processes, micro = facts.config.training.batch_size, state["world_size"], state["micro_batch_size"]
        if processes < 1 or batch % processes:
            yield f"its world_size, {processes:,}, does not divide batch_size {batch:,}"
        elif micro < 1 or batch // processes % micro:
            yield f"its micro_batch_size, {micro:,}, does not divide each process's {batch // processes:,} sequences"
    if state["threads"] < 1:
        yield f"its threads, {state['threads']:,}, are fewer than 1"
    if facts.plan is not None and facts.same_shards and state["data_fingerprint"] != facts.plan.fingerprint:
        yield f"its data_fingerprint is {state['data_fingerprint']!r:.30} instead of {facts.plan.fingerprint!r}"
    if facts.ledger is not None and facts.ledger.has(step) and not state.get("ledger"):
        yield "its trainer.json does not name the ledger, which has a record of its step"
    if state.get("validation_due") and facts.plan is not None and not _may_validate(facts, step):
        yield "its validation_due is true, but no validation belongs to its step"


def _may_validate(facts: Facts, step: int) -> bool:
    """Whether a validation can belong to `step`; where that cannot be told, it can."""
    for span in _spans(facts, step):
        if span.config is None or step in (0, span.total) or span.total is None:
            return span.config is None or validates(span.config, facts.plan)
        if span.validates and step % span.config.training.val_interval == 0:
            return True
    return False
