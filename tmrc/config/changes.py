"""Which keys of a run may change between two of its attempts, and what that makes of it.

Three classes. *Free* keys say how long the run goes on, what it keeps and where it runs. Keys of the *course* change
what is computed from now on, though the run's checkpoint can still be loaded: they take a word of consent. All others
make another run: shapes, data, order and batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from tmrc.config.errors import shown
from tmrc.config.load import config_dict
from tmrc.config.schema import Config

Kind = Literal["free", "course", "never"]
Changes = dict[str, list[Any]]  # dotted key -> [value until now, value from now on]

# A name with a dot at its end is a whole section.
FREE = (
    "training.train_steps", "training.epochs", "training.save_model", "training.save_every",
    "training.keep_checkpoints", "training.log_interval", "training.hang_timeout", "launch.", "wandb_log.",
)  # fmt: skip
# Of data that have moved: where they are and what they call themselves. That they are the same data is checked.
PLACE = (
    "datasets.name", "datasets.path", "datasets.tokenizer_used", "datasets.allow_mismatch", "tokenizer.name",
)  # fmt: skip
COURSE = (
    *PLACE,
    "model.dropout_p", "model.autocast_precision", "model.flash", "model.flex", "model.mask", "model.compile_flex",
    "optimizer.lr", "optimizer.weight_decay", "optimizer.betas", "optimizer.eps", "optimizer.decay_matrices_only",
    "training.micro_batch_size", "training.exact_reduction", "training.grad_clip", "training.scheduler",
    "training.warmup_steps", "training.min_lr_ratio", "training.decay_ratio", "training.device", "training.compile",
    "training.deterministic", "training.val_interval", "training.val_batches",
)  # fmt: skip
NEVER = (
    "datasets.val_split_size", "datasets.eos_token", "tokenizer.vocab_size",
    "model.name", "model.n_head", "model.d_model", "model.n_layer", "model.context_length", "model.mlp_scale_factor",
    "model.mlp_bias", "model.attn_bias", "model.proj_bias", "model.ln_bias", "model.cls_head_bias", "model.activation",
    "optimizer.name", "optimizer.precision",
    "training.batch_size", "training.shuffle", "training.seed", "training.use_oracle",
)  # fmt: skip
# What only the submission goes by. A run that was moved or copied keeps the old value.
SPENT = ("training.artifacts_path", "HydraConf.version_base")


def leaves(config: Config) -> dict[str, Any]:
    """Every dotted key with its value, as JSON holds it. A mapping that is the value of one key is not opened."""
    return {f"{section}.{key}": value for section, keys in config_dict(config).items() for key, value in keys.items()}


def record(config: Config) -> dict[str, Any]:
    """The keys that decide what a run computes: what a checkpoint notes of its configuration."""
    return {key: value for key, value in leaves(config).items() if key not in SPENT and not is_free(key)}


def differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> Changes:
    """What both have, and not with the same value."""
    return {key: [before[key], after[key]] for key in after if key in before and before[key] != after[key]}


def is_free(key: str) -> bool:
    """Whether the key may change without a word."""
    return key.startswith(tuple(name for name in FREE if name.endswith("."))) or key in FREE


def of_kind(changes: Changes, kind: Kind, after: Mapping[str, Any]) -> Changes:
    """Those of the `changes` that are of this kind. `after` is the whole configuration that they lead to."""
    return {key: values for key, values in changes.items() if _kind(key, values, after) == kind}


def spoken(changes: Changes) -> str:
    """The changes for a line: `optimizer.lr from 0.1 to 0.2, training.seed from 0 to 1`."""
    told = (f"{key} from {shown(before, 60)} to {shown(after, 60)}" for key, (before, after) in changes.items())
    return ", ".join(told)


def _kind(key: str, values: list[Any], after: Mapping[str, Any]) -> Kind:
    if is_free(key):
        return "free"
    return "course" if key in COURSE and not _moves_the_split(key, values, after) else "never"


def _moves_the_split(key: str, values: list[Any], after: Mapping[str, Any]) -> bool:
    """Without datasets.val_split_size the validations decide what is held out, and so what is trained on."""
    if after.get("datasets.val_split_size") is not None:
        return False
    if key == "training.val_batches":
        return bool(after.get("training.val_interval"))
    return key == "training.val_interval" and bool(values[0]) != bool(values[1])
