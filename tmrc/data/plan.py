"""What a configuration and its data make together: splits, steps, and whether they fit. No numpy, no torch.

The submit command and the training job both ask here, so that they refuse the same things in the same words.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

from tmrc.config.errors import DataError
from tmrc.config.schema import Config
from tmrc.data.layout import ChunkLayout, split_layout
from tmrc.data.metadata import Metadata, Shard, find_shards, load_metadata

_NAMED = 4  # shards that a line names


@dataclass(frozen=True)
class DataPlan:
    """The data of a run, cut and split."""

    metadata: Metadata
    shards: tuple[Shard, ...]
    layout: ChunkLayout
    steps_per_epoch: int
    total_steps: int  # train_steps or epochs, whichever ends first
    validation_sequences: int  # read by one validation pass; 0 when there is none

    @property
    def fingerprint(self) -> str:
        """Changes when shards are added, removed, renamed or resized."""
        parts = [(shard.path.name, shard.tokens, shard.text_tokens) for shard in self.shards]
        return hashlib.sha256(repr((self.metadata.dtype, parts)).encode()).hexdigest()[:16]


def plan_data(config: Config) -> DataPlan:
    """Find and split the data of `config`. Raises DataError when it is missing, damaged, too short or does not fit."""
    metadata = load_metadata(config.datasets.path or str(config.datasets.name))
    _check_fit(config, metadata)
    shards = find_shards(metadata)
    datasets, training = config.datasets, config.training
    wanted = training.val_batches * training.batch_size if training.val_interval else 0
    layout = split_layout(shards, config.model.context_length, datasets.val_split_size, wanted)
    validates = training.val_interval > 0 and datasets.val_split_size != 0
    if validates and datasets.val_split_size is not None and layout.validation_texts == 0:
        raise DataError(
            f"datasets.val_split_size: got {datasets.val_split_size:g}, but the last sequences of {metadata.file} hold "
            "nothing but padding, valid: a larger one, null, or 0 for no validation"
        )
    steps_per_epoch = layout.train_texts // training.batch_size
    if steps_per_epoch == 0:
        raise DataError(
            f"training.batch_size: got {training.batch_size}, but {metadata.file} has {layout.train_texts} training "
            f"sequences of {config.model.context_length} tokens, fewer than one batch"
        )
    return DataPlan(
        metadata,
        tuple(shards),
        layout,
        steps_per_epoch,
        min(training.train_steps, training.epochs * steps_per_epoch),
        min(wanted, layout.validation_texts) if validates else 0,
    )


def require_same_shards(plan: DataPlan, fingerprint: str, known: Mapping[str, int]) -> None:
    """Raise DataError unless the run that goes on has the shards that its checkpoint's `fingerprint` is of.

    `known` is name -> bytes of the shards that it began with, empty where that was not written down.
    """
    if fingerprint == plan.fingerprint:
        return
    now = {shard.path.name: shard.tokens * plan.metadata.item_bytes for shard in plan.shards}
    told = [f"{name} is missing" for name in known if name not in now]
    told += [f"{name} is new" for name in now if known and name not in known]
    both = [name for name in now if name in known and known[name] != now[name]]
    told += [f"{name} has {now[name]:,} bytes instead of {known[name]:,}" for name in both]
    more = f" and {len(told) - _NAMED} more" if len(told) > _NAMED else ""
    which = f" ({', '.join(told[:_NAMED])}{more})" if told else ""
    raise DataError(
        f"{plan.metadata.file}: the shards are not those that the run began with{which}; restore them, or start a "
        "new run"
    )


def mismatches(config: Config, metadata: Metadata) -> list[str]:
    """What `datasets.allow_mismatch` lets pass, to be said aloud."""
    found = []
    if metadata.vocab_size is not None and config.tokenizer.vocab_size < metadata.vocab_size:
        found.append(
            f"tokenizer.vocab_size: got {config.tokenizer.vocab_size}, but {metadata.file} was made with "
            f"{metadata.vocab_size} tokens, valid: that or more"
        )
    named = {"datasets.tokenizer_used": config.datasets.tokenizer_used, "tokenizer.name": config.tokenizer.name}
    for key, given in named.items():
        if given and not same_tokenizer(given, metadata.tokenizer):
            found.append(f"{key}: got {given!r}, but {metadata.file} was made with {metadata.tokenizer!r}")
    return found


def _check_fit(config: Config, metadata: Metadata) -> None:
    if not config.datasets.allow_mismatch:
        for problem in mismatches(config, metadata):
            raise DataError(f"{problem} (datasets.allow_mismatch: true trains all the same)")
    if metadata.eos_token is not None and metadata.eos_token != config.datasets.eos_token:
        raise DataError(
            f"datasets.eos_token: got {config.datasets.eos_token}, but {metadata.file} ends its documents with "
            f"{metadata.eos_token}"
        )


def same_tokenizer(given: str, recorded: str) -> bool:
    """Whether two tokenizers are one: `pystdlib`, `pystdlib.json` and `/somewhere/pystdlib.json` are."""

    def plain(name: str) -> str:
        path = PurePath(name)
        return path.stem if path.suffix == ".json" else path.name

    return given == recorded or plain(given) == plain(recorded) or Path(given).name == Path(recorded).parent.name
