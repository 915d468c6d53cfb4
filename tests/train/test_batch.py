"""Targets and document ids against plain Python."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tmrc.train.batch import IGNORED, HostBatch, count_targets, document_ids, next_token_targets, to_device

SEQUENCES = st.integers(2, 20).flatmap(
    lambda length: st.lists(
        st.tuples(st.lists(st.integers(0, 4), min_size=length, max_size=length), st.integers(0, length)),
        min_size=1,
        max_size=4,
    )
)


@settings(deadline=None)
@given(SEQUENCES)
def test_targets_are_the_next_text_tokens(sequences: list[tuple[list[int], int]]) -> None:
    tokens = torch.tensor([row for row, _ in sequences])
    lengths = [length for _, length in sequences]
    expected = [[row[t + 1] if t + 1 < length else IGNORED for t in range(len(row))] for row, length in sequences]
    targets = next_token_targets(tokens, torch.tensor(lengths))
    assert targets.tolist() == expected
    assert int((targets != IGNORED).sum()) == count_targets(lengths)


@settings(deadline=None)
@given(SEQUENCES, st.integers(0, 4))
def test_an_eos_belongs_to_the_document_it_ends(sequences: list[tuple[list[int], int]], eos: int) -> None:
    tokens = torch.tensor([row for row, _ in sequences])
    expected = [[row[:t].count(eos) for t in range(len(row))] for row, _ in sequences]
    assert document_ids(tokens, eos).tolist() == expected


def test_a_host_batch_becomes_a_device_batch() -> None:
    host = HostBatch(0, [7], torch.tensor([[5, 1, 6, 0]], dtype=torch.int32), torch.tensor([3]))
    batch = to_device(host, torch.device("cpu"), eos_token=1)
    assert batch.tokens_BT.dtype == torch.int64
    assert batch.targets_BT.tolist() == [[1, 6, IGNORED, IGNORED]]
    assert batch.document_ids_BT.tolist() == [[0, 0, 1, 1]]
