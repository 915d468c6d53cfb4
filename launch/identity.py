"""What makes two points the same point, and two sweeps the same sweep."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tmrc.config.load import config_dict
from tmrc.config.schema import Config

# What says where, how often and how visibly a point runs, not what it computes
_NOT_COMPUTED = (
    "launch", "wandb_log", "HydraConf", "training.artifacts_path", "training.save_every", "training.keep_checkpoints",
    "training.log_interval", "training.hang_timeout",
)  # fmt: skip


def identity_of(config: Config, own: Sequence[str]) -> str:
    """What a point computes, as a digest: all of its configuration but what `_NOT_COMPUTED` lists."""
    return _digest([_computed(config_dict(config)), sorted(own)])[:16]


def sweep_id(name: str, values: Mapping[str, Any], fixed: Sequence[str], swept: Iterable[str]) -> str:
    """`<name>-<8 digits>`: the same for the same file `values`, the same fixed overrides and the same swept keys.

    So more values of a swept key are further points of the same sweep.
    """
    counted = [text for text in fixed if not _left_out(text.lstrip("+~").partition("=")[0])]
    return f"{name}-{_digest([_computed(values), sorted(counted), sorted(swept)])[:8]}"


def _computed(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    return {
        str(key): _computed(value, f"{prefix}{key}.") if isinstance(value, Mapping) else value
        for key, value in values.items()
        if f"{prefix}{key}" not in _NOT_COMPUTED
    }


def _left_out(key: str) -> bool:
    return any(key == one or key.startswith(f"{one}.") for one in _NOT_COMPUTED)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode("utf8", "replace")).hexdigest()
