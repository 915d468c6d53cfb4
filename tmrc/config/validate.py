"""Contradictions between keys, found before anything is started."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tmrc.config.build import Where
from tmrc.config.errors import ConfigError, shown
from tmrc.config.schema import Config

FLEX_MIN_HEAD_WIDTH = 16  # of FlexAttention's GPU kernels


def check(config: Config, where: Where) -> None:
    """Raise ConfigError for the first contradiction in `config`."""
    for rules in (_model, _batches, _names, _schedule, _launch, _hydra):
        for dotted, problem in rules(config):
            raise ConfigError(f"{where(dotted)}: {dotted}: {problem}")


def _model(config: Config) -> Iterator[tuple[str, str]]:
    model = config.model
    if model.d_model % model.n_head:
        nearby = sorted(range(1, min(model.d_model, 1024) + 1), key=lambda n: abs(n - model.n_head))
        close = [n for n in nearby if model.d_model % n == 0][:3]
        yield (
            "model.n_head",
            f"got {model.n_head}, valid: a divisor of d_model {model.d_model}, such as {sorted(close)}",
        )
    if model.flash and model.flex:
        yield "model.flash", "got true together with model.flex: true, valid: one of the two"
    if config.training.device == "cuda" and (problem := narrow_heads(config)):
        yield "model.n_head", problem
    if model.mask != "causal" and not model.flex:
        kind = "flash" if model.flash else "plain"
        yield (
            "model.mask",
            f"got {model.mask!r}, which {kind} attention cannot apply; valid: causal, or model.flex: true",
        )
    if model.flash and model.autocast_precision == "float32" and config.training.device != "cpu":
        yield (
            "model.flash",
            "got true with autocast_precision float32, valid: bfloat16 or float16 (flash has no float32)",
        )


def narrow_heads(config: Config) -> str | None:
    """What is wrong with the heads for FlexAttention on a GPU, or None; a CPU takes any width."""
    width = config.model.d_model // config.model.n_head
    if not config.model.flex or width >= FLEX_MIN_HEAD_WIDTH:
        return None
    most = config.model.d_model // FLEX_MIN_HEAD_WIDTH
    return (
        f"got {config.model.n_head}, which makes heads of width {width}; FlexAttention on a GPU needs "
        f"{FLEX_MIN_HEAD_WIDTH} or more, valid: at most {most}, or model.flex: false"
    )


def _batches(config: Config) -> Iterator[tuple[str, str]]:
    batch, micro = config.training.batch_size, config.training.micro_batch_size
    if micro != "auto" and batch % micro:
        yield "training.micro_batch_size", f"got {micro}, valid: auto or a divisor of training.batch_size {batch}"
    if micro == "auto" and config.training.exact_reduction:
        yield (
            "training.micro_batch_size",
            "got 'auto' with training.exact_reduction: true, valid: a number that divides each process's share of "
            f"training.batch_size {batch} (auto depends on the number of processes)",
        )


def _names(config: Config) -> Iterator[tuple[str, str]]:
    if config.datasets.path is None and config.datasets.name is None:
        yield (
            "datasets.path",
            "not given, valid: the directory of a tokenized data set (or datasets.name for tatm's store)",
        )
    used, named = config.datasets.tokenizer_used, config.tokenizer.name
    if used and named and used != named and not config.datasets.allow_mismatch:
        yield (
            "tokenizer.name",
            f"got {named!r} but datasets.tokenizer_used is {used!r}, valid: the same tokenizer in both",
        )
    if config.datasets.eos_token >= config.tokenizer.vocab_size:
        yield (
            "datasets.eos_token",
            f"got {config.datasets.eos_token}, valid: below vocab_size {config.tokenizer.vocab_size}",
        )


def _schedule(config: Config) -> Iterator[tuple[str, str]]:
    if config.training.warmup_steps > config.training.train_steps:
        valid = f"at most train_steps {config.training.train_steps}"
        yield "training.warmup_steps", f"got {config.training.warmup_steps}, valid: {valid}"
    size = config.datasets.val_split_size
    if size is not None and size > 1 and size != int(size):
        yield "datasets.val_split_size", f"got {size}, valid: a share below 1 or a whole number of sequences"


def _launch(config: Config) -> Iterator[tuple[str, str]]:
    words = config.launch.python
    if words is not None and not (words.strip() and words.isprintable()):
        yield (
            "launch.python",
            f"got {shown(words)}, valid: null, or words that start Python, on one line and without control characters",
        )


def _hydra(config: Config) -> Iterator[tuple[str, str]]:
    version = config.HydraConf.version_base
    if version is not None and not re.fullmatch(r"1\.[1-9]\d*", version):
        yield "HydraConf.version_base", f"got {version!r}, valid: null, '1.1' or a later 1.x"
