"""The settings of runs, and in which of them they differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LARGEST = 1 << 20  # bytes of a configuration that are read
MOST = 2_000  # settings of one run, for one that is no configuration of ours
DEEPEST = 8
ASIDE = (
    "training.artifacts_path",
    "launch.",
    "wandb_log.",
)  # say where and under which name a run ran, not what it did
Settings = Mapping[str, Any]


def read_settings(path: Path) -> dict[str, Any]:
    """Dotted keys and plain values of a YAML file; none when it is not there or not readable."""
    import yaml

    from tmrc.config.yaml_file import check_nesting

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is ten times as fast
    try:
        if not path.is_file():  # a pipe would be waited for
            return {}
        with path.open("rb") as file:
            text = file.read(LARGEST).decode("utf8", "replace")
        check_nesting(text, aliases=False)
        values = yaml.load(text, loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    found: dict[str, Any] = {}
    _flatten(values, "", found, 0)
    return found


def _flatten(values: Any, prefix: str, found: dict[str, Any], depth: int) -> None:
    if len(found) >= MOST or depth > DEEPEST:
        return
    if isinstance(values, dict):
        for key, value in values.items():
            _flatten(value, f"{prefix}.{key}" if prefix else str(key), found, depth + 1)
    elif prefix:
        found[prefix] = values if isinstance(values, str | int | float | bool | None) else _text(values)


def _text(value: Any) -> str:
    try:
        return json.dumps(value, default=str)[:200]
    except (ValueError, RecursionError):
        return "?"


def differing(all_settings: Sequence[Settings]) -> list[str]:
    """Keys whose values are not the same in all runs, in the order of the files; a run without any is left out.

    Where and under which name runs ran counts only if they differ in nothing else.
    """
    known = [settings for settings in all_settings if settings]
    keys = dict.fromkeys(key for settings in known for key in settings)
    found = [key for key in keys if len({_comparable(settings, key) for settings in known}) > 1]
    return [key for key in found if not key.startswith(ASIDE)] or found


def _comparable(settings: Settings, key: str) -> tuple[str, Any]:
    value = settings.get(key)
    kind = "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
    return kind, value


def shown_value(value: Any) -> str:
    """A setting as YAML has it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value)
