"""Tiny models, one thread."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tmrc.config.schema import Config, ModelConfig, TokenizerConfig


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def tiny(**model: Any) -> Config:
    """A configuration of a model that runs in a millisecond; `model` overrides its keys."""
    sizes = {"n_head": 2, "d_model": 32, "n_layer": 2, "context_length": 48, "autocast_precision": "float32"}
    return dataclasses.replace(
        Config(),
        model=dataclasses.replace(ModelConfig(), **{**sizes, **model}),
        tokenizer=TokenizerConfig(vocab_size=61),
    )


@pytest.fixture
def tiny_config() -> Callable[..., Config]:
    return tiny
