"""How long before the time limit a job is asked to save."""

from __future__ import annotations

import dataclasses

from tmrc.config.estimate import checkpoint_bytes, save_seconds, warning_seconds
from tmrc.config.schema import Config, LaunchConfig, ModelConfig

LARGE = dataclasses.replace(Config(), model=ModelConfig(d_model=4096, n_head=32, n_layer=32))


def test_a_save_takes_longer_the_larger_it_is() -> None:
    small, large = save_seconds(Config()), save_seconds(LARGE)
    size = checkpoint_bytes(LARGE)
    assert small is not None and large is not None and size is not None
    assert 30 < small < 50
    assert large == 2 * size / 200e6 + 30  # the one under way, and the newest
    assert save_seconds(dataclasses.replace(Config(), model=ModelConfig(name="mine"))) is None


def test_the_warning_is_what_was_asked_for_or_leaves_time_to_save() -> None:
    assert warning_seconds(Config()) == 120
    assert warning_seconds(LARGE) >= (save_seconds(LARGE) or 0) > 120
    assert warning_seconds(dataclasses.replace(Config(), model=ModelConfig(name="mine"))) == 120
    assert warning_seconds(dataclasses.replace(LARGE, launch=LaunchConfig(warning=45))) == 45
