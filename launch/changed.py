"""What a resumed run would compute differently: found, refused, or let pass with a word of consent."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from launch.attempts import newest_step
from launch.facts import read_object
from launch.settings import load_settings
from tmrc.config.changes import PLACE, SPENT, Changes, differing, is_free, leaves, of_kind, spoken
from tmrc.config.compose import compose
from tmrc.config.errors import ConfigError
from tmrc.config.load import find_config, load_config
from tmrc.config.rundir import RunDir, checkpoint_name, read_jsonl
from tmrc.config.schema import Config
from tmrc.config.yaml_file import read_yaml_mapping
from tmrc.data.plan import DataPlan, require_same_shards


@dataclass(frozen=True)
class Review:
    """What has another value from now on: `all` against config.yaml, `course` against what was trained with."""

    all: Changes = field(default_factory=dict)
    course: Changes = field(default_factory=dict)
    step: int | None = None  # of the newest checkpoint

    def note(self) -> Iterator[str]:
        """What the changes make of the run, in one line."""
        place = {key: values for key, values in self.course.items() if key in PLACE}
        computed = {key: values for key, values in self.course.items() if key not in PLACE}
        if self.course and self.step is None:
            yield f"{spoken(self.course)}: the run has no checkpoint yet and begins anew"
            return
        if place:
            yield f"{spoken(place)}: the shards must still be the same, which is checked"
        if computed:
            yield (
                f"{spoken(computed)}: from step {self.step} on the run is no longer equal to one that was never "
                "interrupted"
            )


def review(run: RunDir, config: Config, allow: bool) -> Review:
    """Compare `config` with what the run was trained with so far.

    Raises ConfigError, which lists every key with both values, for what makes another run, and unless `allow` for what
    changes the course of this one.
    """
    before, after = leaves(load_config(run.config)), leaves(config)
    trained = differing({**before, **trained_with(run)}, after)
    course, never = of_kind(trained, "course", after), of_kind(trained, "never", after)
    if never or (course and not allow):
        edited = [key for key in (*course, *never) if before.get(key) == after[key]]
        raise ConfigError(f"{run.path}: {'; '.join(_reasons(course, never, edited))}")
    return Review(differing(before, after), course, newest_step(run))


def _reasons(course: Changes, never: Changes, edited: Sequence[str]) -> Iterator[str]:
    """Why the changes are refused. Those of the keys in `edited` come from config.yaml itself."""
    if course:
        yield f"{spoken(course)} changes what it computes from here on: --resume with --allow-change lets that pass"
    if never:
        yield f"{spoken(never)} would make another run of it: that takes a new run"
    if edited:
        yield f"{', '.join(edited)} {'was' if len(edited) == 1 else 'were'} edited in its config.yaml"


def trained_with(run: RunDir) -> dict[str, Any]:
    """The keys that the newest checkpoint notes; empty where there is none, or it is of an older version."""
    found = newest_state(run).get("config")
    return found if isinstance(found, dict) else {}


def newest_state(run: RunDir) -> dict[str, Any]:
    """The trainer's state in the newest checkpoint, not verified; empty where there is none."""
    step = newest_step(run)
    return read_object(run.checkpoints / checkpoint_name(step) / "trainer.json") if step is not None else {}


def require_same_data(run: RunDir, plan: DataPlan) -> None:
    """Raise DataError when the newest checkpoint was trained on other shards than there are now."""
    fingerprint = newest_state(run).get("data_fingerprint")
    if isinstance(fingerprint, str):
        require_same_shards(plan, fingerprint, _shards_known(run))


def _shards_known(run: RunDir) -> dict[str, int]:
    """Name -> bytes of the shards that the run began with, as far as it was written down."""
    rows = (read_object(run.data) or {}).get("shards")
    rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return {str(row.get("name")): row["bytes"] for row in rows if isinstance(row.get("bytes"), int)}


def allowed_after(run: RunDir, course: Changes) -> bytes | None:
    """What allowed.json has to hold once the `course` has changed; None to leave it as it is."""
    if not course:
        return None
    values = {**(read_object(run.allowed) or {}), **{key: after for key, (_, after) in course.items()}}
    return (json.dumps(values, indent=2) + "\n").encode()


def compare_file(run: RunDir, source: str, config: Config, overrides: Sequence[str]) -> Iterator[str]:
    """Notes on what the configuration file `source` says, which a resumed run does not go by.

    Raises ConfigError where the file has another value for a key that decides what the run computes: whoever edited it
    expects that to count. Left out are keys that were typed when the run was submitted or are now, and values that the
    run once had.
    """
    settled, once = {*_typed(overrides), *_typed_then(run), *SPENT}, _once(run)
    theirs = leaves(load_settings(source, (), {}))
    differ = {key: values for key, values in differing(theirs, leaves(config)).items() if key not in settled}
    found = {key: values for key, values in differ.items() if values[0] not in once.get(key, [])}
    named = _named_in(source)
    refused = {key: values for key, values in found.items() if key in named and not is_free(key)}
    if refused:
        told = ", ".join(f"{key} ({theirs!r}, the run has {own!r})" for key, (theirs, own) in refused.items())
        raise ConfigError(
            f"{source}: a resumed run keeps its own configuration, and this file has other values: {told}; valid: "
            "--resume RUN without the file, or the file as it was; KEY=VALUE changes what can be changed"
        )
    kept = {key: own for key, (_, own) in found.items() if key in named or not is_free(key)}
    if kept:
        told = ", ".join(f"{key}={own}" for key, own in kept.items())
        yield f"{source} says otherwise, but the run keeps its own {told} (KEY=VALUE changes them)"


def _named_in(source: str) -> set[str]:
    """The dotted keys that the file itself gives, or the files that its `defaults:` list names."""
    file = find_config(source)
    values = read_yaml_mapping(file)
    if "defaults" in values:
        values = compose(file, values, [])
    sections = {name: keys for name, keys in values.items() if isinstance(keys, Mapping)}
    return {f"{section}.{key}" for section, keys in sections.items() for key in keys}


def _typed(words: Sequence[str]) -> set[str]:
    """The keys of overrides among the words of a command."""
    matches = (re.match(r"(?:\+{1,2}|~)?([A-Za-z_][\w.\-]*)(=|$)", word) for word in words)
    return {match[1] for match in matches if match}


def _typed_then(run: RunDir) -> set[str]:
    """The keys that were overridden when the run was submitted, or that make it a point of its sweep."""
    about = read_object(run.run_json) or {}
    sweep = about.get("sweep")
    own = sweep.get("overrides") if isinstance(sweep, dict) else None
    words = [*_words(about.get("command")), *_words(own)]
    return _typed(words)


def _words(value: Any) -> list[str]:
    return [word for word in value if isinstance(word, str)] if isinstance(value, list) else []


def _once(run: RunDir) -> dict[str, list[Any]]:
    """The values that keys have had which changed since the run began."""
    rows = (row.get("changes") for row in read_jsonl(run.events) if row.get("event") == "changed")
    pairs = [pair for changes in rows if isinstance(changes, dict) for pair in changes.items()]
    found: dict[str, list[Any]] = {}
    for key, values in pairs:
        found.setdefault(key, []).extend(values if isinstance(values, list) else [])
    return found
