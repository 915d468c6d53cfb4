"""From a configuration to its model. A new model is a file in this package that registers with MODELS."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import nn

from tmrc.config.errors import ConfigError
from tmrc.config.registry import Registry
from tmrc.config.schema import Config

# A model is made from the whole configuration and has forward(tokens_BT, mask) -> logits_BTV.
MODELS: Registry[Callable[[Config], nn.Module]] = Registry("model")


def build_model(config: Config) -> nn.Module:
    """The model that `config` describes, on the CPU, with weights that are a function of the configuration alone.

    They are drawn from `training.seed`, so every rank starts from the same ones, without touching the global generator.
    Under `with torch.device("meta")` nothing is drawn, for a model whose weights are loaded next.
    Raises ConfigError for an unknown name or sizes that do not fit.
    """
    model = config.model
    if model.d_model % model.n_head:
        raise ConfigError(f"model.n_head: {model.n_head} does not divide model.d_model, {model.d_model}")
    if model.flex and model.dropout_p > 0:
        warnings.warn(
            "model.dropout_p: FlexAttention cannot drop attention weights; embeddings, residuals and MLP have dropout",
            stacklevel=2,
        )
    make = MODELS.get(model.name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        return make(config)


def parameter_count(model: nn.Module, embedding: bool = True) -> int:
    """Number of parameters; without `embedding`, those of the look-up tables (tokens and positions) are left out."""
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)] if not embedding else []
    return sum(p.numel() for p in model.parameters()) - sum(table.weight.numel() for table in tables)
