"""Whether what goes on is still the run that its checkpoint is of: data, configuration, and what sums depend on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tmrc.config.changes import PLACE, Changes, differing, of_kind, record, spoken
from tmrc.config.errors import ConfigError, DataError
from tmrc.config.rundir import RunDir
from tmrc.config.schema import Config
from tmrc.data.plan import DataPlan, require_same_shards, same_tokenizer
from tmrc.train import durable
from tmrc.train.failures import warn
from tmrc.train.saved import TOKENIZER, TrainerState
from tmrc.train.setup import Parts
from tmrc.train.stamps import read_stamps


def noted(config: Config, plan: DataPlan) -> dict[str, Any]:
    """What a checkpoint notes of the run's configuration and data: what decides what is computed."""
    return {**record(config), TOKENIZER: plan.metadata.tokenizer}


def require_same_run(run: RunDir, state: TrainerState | None, config: Config, plan: DataPlan) -> Changes:
    """What changes the course of training at this checkpoint; empty where nothing does, or nothing is known.

    Raises DataError for other data, and ConfigError, which lists every key, for a configuration that makes another run
    or that somebody has edited: what the launcher was told to let change stands in allowed.json.
    """
    if state is None:
        return {}
    require_same_shards(plan, state.data_fingerprint, _shards_known(run))
    if state.step > plan.total_steps:
        raise ConfigError(f"training.train_steps: the run is at step {state.step} already, past {plan.total_steps}")
    now = noted(config, plan)
    found = differing(state.config, now)
    other = found.pop(TOKENIZER, None)
    if other and not same_tokenizer(other[1], str(other[0])):  # of data that has moved, the path may be another
        raise DataError(f"{plan.metadata.file}: made with {other[1]!r}, but the run began with data of {other[0]!r}")
    allowed = _allowed(run)
    course = of_kind(found, "course", now)
    edited = {key: values for key, values in course.items() if allowed.get(key, values[0]) != values[1]}
    reasons = [f"{spoken(edited)} takes tmrc-submit --resume with --allow-change"] if edited else []
    if never := of_kind(found, "never", now):
        reasons.append(f"{spoken(never)} takes a new run")
    if reasons:
        with_what = f"differs from what the checkpoint of step {state.step} was trained with"
        raise ConfigError(f"{run.config}: {with_what}: {'; '.join(reasons)}")
    return course


def _shards_known(run: RunDir) -> dict[str, int]:
    try:
        return {name: stamp.bytes for name, stamp in (read_stamps(run) or {}).items()}
    except DataError:
        return {}


def _allowed(run: RunDir) -> Mapping[str, Any]:
    try:
        found = durable.read_json(run.allowed)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def circumstances(state: TrainerState, parts: Parts) -> Changes:
    """Name -> [then, now] of what makes sums round differently, where it is not as it was at the checkpoint."""
    training = parts.config.training
    now: dict[str, Any] = {"threads": torch.get_num_threads(), "torch_version": torch.__version__}
    if not training.exact_reduction:
        now["world_size"] = parts.world.size
    if training.micro_batch_size == "auto":  # a number that was given has been compared with the other keys
        now["micro_batch_size"] = parts.share.micro_batch_size
    return differing({name: getattr(state, name) for name in now}, now)


def say_so(differs: Changes, course: Changes) -> None:
    """A line in the log for each thing that makes the resumed run differ from one that was never interrupted."""
    for name, (before, after) in differs.items():
        warn(f"{name} was {before} and is {after}: sums may round differently from the uninterrupted run's")
    for name, (before, after) in course.items():
        if name not in PLACE:
            warn(f"{name} was {before} and is {after}: from here on the run is not equal to one that was never changed")
