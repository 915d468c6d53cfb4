"""Masks against the definition written out in plain Python."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tmrc.config.errors import ConfigError
from tmrc.config.registry import registered
from tmrc.config.schema import ModelConfig
from tmrc.model.attention import build_mask, dense_mask
from tmrc.model.masks import MASKS, Mask

# What each mask must be: a plain function of the document ids of a sequence, query and key. A new mask adds its line.
ORACLES = {
    "causal": lambda ids, q, kv: kv <= q,
    "causal_document": lambda ids, q, kv: kv <= q and ids[q] == ids[kv],
}


def expected(name: str, document_ids: list[list[int]]) -> torch.Tensor:
    length = len(document_ids[0])
    rows = [[[ORACLES[name](ids, q, kv) for kv in range(length)] for q in range(length)] for ids in document_ids]
    return torch.tensor(rows).unsqueeze(1)


@st.composite
def batches(draw: st.DrawFn) -> list[list[int]]:
    """Document ids of a few sequences of one length, in runs as the data has them."""
    length = draw(st.integers(1, 37))
    steps = st.lists(st.sampled_from([0, 0, 0, 1]), min_size=length, max_size=length)
    ids = [torch.tensor(draw(steps)).cumsum(0).tolist() for _ in range(draw(st.integers(1, 3)))]
    return [[int(i) for i in row] for row in ids]


def test_every_registered_mask_has_an_oracle() -> None:
    assert set(registered("mask")) == set(ORACLES)


@pytest.mark.parametrize("name", sorted(ORACLES))
@given(document_ids=batches())
@settings(max_examples=50, deadline=None)
def test_dense_mask_is_the_definition(name: str, document_ids: list[list[int]]) -> None:
    ids_BT = torch.tensor(document_ids)
    mask = build_mask(ModelConfig(mask=name), "sdpa", ids_BT)
    assert isinstance(mask, torch.Tensor) and mask.dtype == torch.bool
    assert torch.equal(mask, expected(name, document_ids))


@pytest.mark.parametrize("name", sorted(ORACLES))
@pytest.mark.parametrize("length", [1, 100, 128, 200, 300])
def test_block_mask_is_the_definition(name: str, length: int) -> None:
    """At lengths below, at and above the block size, that are not its multiples and not the width of a model."""
    ids_BT = (torch.rand(2, length, generator=torch.Generator().manual_seed(0)) < 0.02).cumsum(1)
    block_mask = build_mask(ModelConfig(mask=name), "flex", ids_BT)
    assert block_mask.shape[-2:] == (length, length)  # type: ignore[union-attr]
    visible = expected(name, ids_BT.tolist())
    shown = dense_mask(block_mask.mask_mod, 2, length, torch.device("cpu"))  # type: ignore[union-attr]
    assert torch.equal(shown, visible)
    # A block is listed exactly when some query in it sees some key in it.
    blocks = -(-length // 128)
    padded = torch.zeros(2, 1, blocks * 128, blocks * 128, dtype=torch.bool)
    padded[..., :length, :length] = visible
    in_block = padded.view(2, 1, blocks, 128, blocks, 128).any(-1).any(3)
    assert torch.equal(block_mask.to_dense().expand_as(in_block).bool(), in_block)  # type: ignore[union-attr]


def test_flash_has_no_mask() -> None:
    assert build_mask(ModelConfig(mask="causal", flash=True, flex=False), "flash", torch.zeros(1, 4)) is None


@pytest.mark.parametrize("name", sorted(ORACLES))
def test_masks_say_whether_they_read_document_ids(name: str) -> None:
    mask = MASKS.get(name)
    assert isinstance(mask, Mask)
    one, two = (dense_mask(mask.factory(ids), 1, 6, ids.device) for ids in (torch.zeros(1, 6), torch.arange(6.0)[None]))
    assert mask.needs_documents == (not torch.equal(one, two))


def test_unknown_mask_lists_what_there_is() -> None:
    model = dataclasses.replace(ModelConfig(), mask="casual")
    names = ", ".join(sorted(registered("mask")))
    with pytest.raises(ConfigError, match=rf"model\.mask: got 'casual', valid: {names}; did you mean"):
        build_mask(model, "sdpa", torch.zeros(1, 4))
