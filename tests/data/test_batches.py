from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.helpers import FIXTURES, make_dataset
from tmrc.config.errors import DataError
from tmrc.data import open_dataset
from tmrc.data.batches import BatchReader

PYSTDLIB = FIXTURES / "tatm-pystdlib"


@pytest.mark.parametrize("split", [None, "train", "validation"])
@pytest.mark.parametrize("context_length", [128, 500])
def test_an_epoch_reads_every_text_once(split: str | None, context_length: int) -> None:
    ds = open_dataset(PYSTDLIB, context_length, split=split, val_split_size=0.2)  # type: ignore[arg-type]
    reader = BatchReader(ds, 8, seed=1)
    texts = [i for i, item in enumerate(ds) if item.token_ids.any()]
    assert reader.num_samples == len(texts)
    for epoch in (0, 1):
        steps = range(epoch * reader.steps_per_epoch, (epoch + 1) * reader.steps_per_epoch)
        seen = np.concatenate([reader.samples(step) for step in steps])
        assert len(set(seen.tolist())) == len(seen) == len(texts) // 8 * 8
        assert set(seen.tolist()) <= set(texts)
        assert seen.tolist() != sorted(seen.tolist())


def test_file_order_without_shuffle() -> None:
    ds = open_dataset(PYSTDLIB, 512)
    reader = BatchReader(ds, 4, shuffle=False)
    texts = [i for i, item in enumerate(ds) if item.token_ids.any()]
    steps = [reader.samples(step).tolist() for step in range(reader.steps_per_epoch)]
    assert np.ravel(steps).tolist() == texts[: 4 * len(steps)]
    assert reader.samples(reader.steps_per_epoch).tolist() == texts[:4]


def test_order_is_a_function_of_seed_and_step_alone() -> None:
    ds = open_dataset(PYSTDLIB, 512)
    step = 3 * BatchReader(ds, 16, seed=5).steps_per_epoch + 2
    assert np.array_equal(BatchReader(ds, 16, seed=5).samples(step), BatchReader(ds, 16, seed=5).samples(step))
    assert not np.array_equal(BatchReader(ds, 16, seed=5).samples(step), BatchReader(ds, 16, seed=6).samples(step))
    assert not np.array_equal(BatchReader(ds, 16, seed=5).samples(2), BatchReader(ds, 16, seed=5).samples(step))


@settings(max_examples=50, deadline=None)
@given(
    shards=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=40), min_size=1, max_size=5),
    context_length=st.integers(1, 30),
    dtype=st.sampled_from(["uint16", "uint32"]),
    out_dtype=st.sampled_from([None, np.int64, np.int32, np.uint16]),
    data=st.data(),
)
def test_read_equals_the_items(
    shards: list[list[int]], context_length: int, dtype: str, out_dtype: type | None, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        ds = open_dataset(make_dataset(Path(directory), [[7], *shards], dtype=dtype), context_length)
        reader = BatchReader(ds, 1)
        items = np.asarray(data.draw(st.lists(st.integers(0, len(ds) - 1), max_size=12)), np.int64)
        out = None if out_dtype is None else np.full((len(items), context_length), 99, out_dtype)
        tokens = reader.read(items, out)
        assert tokens is out or out is None
        assert tokens.dtype == (out_dtype or np.int64)
        assert tokens.tolist() == [ds[int(i)].token_ids.tolist() for i in items]


def test_lengths_leave_out_padding_and_zero_tails(tmp_path: Path) -> None:
    ds = open_dataset(make_dataset(tmp_path, [[5, 0, 0, 6, 0, 0, 0, 0], [7, 8, 9]]), 2)
    reader = BatchReader(ds, 1)
    assert reader.lengths(np.arange(6)).tolist() == [2, 2, 0, 0, 2, 1]  # zeros before the last token are text
    assert reader.num_samples == 4
    assert reader.locate(5) == "tok_1.bin chunk 1"


def test_validation_items_are_counted_from_the_splits_begin(tmp_path: Path) -> None:
    ds = open_dataset(make_dataset(tmp_path, [[5, 6, 7, 8]]), 1, split="validation", val_split_size=2)
    reader = BatchReader(ds, 2, shuffle=False)
    assert reader.samples(0).tolist() == [0, 1]
    assert reader.read(np.asarray([0, 1])).tolist() == [[7], [8]]
    assert reader.locate(0) == "tok_0.bin chunk 2"


def test_fewer_sequences_than_a_batch(tmp_path: Path) -> None:
    ds = open_dataset(make_dataset(tmp_path, [[5, 6, 7, 0, 0, 0]]), 2)
    with pytest.raises(DataError, match="the whole data has 2 sequences of 2 tokens, fewer than one batch of 3"):
        BatchReader(ds, 3)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint32])
def test_token_outside_the_vocabulary(tmp_path: Path, dtype: type) -> None:
    ds = open_dataset(make_dataset(tmp_path, [[5, 6, 7, 3_000_000_000, 8]], dtype="uint32"), 2)
    reader = BatchReader(ds, 2, vocab_limit=100)
    out = np.empty((2, 2), dtype)
    assert reader.read(np.asarray([0, 2]), out).tolist() == [[5, 6], [8, 0]]
    with pytest.raises(
        DataError, match=r"tok_0.bin chunk 1: token 3000000000 at position 1 is outside the vocabulary of 100"
    ):
        reader.read(np.asarray([0, 1]), out)


def test_unchunked_data_has_no_batches(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="chunked"):
        BatchReader(open_dataset(make_dataset(tmp_path, [[5, 6]]), 2, chunked=False), 1)


def test_mid_epoch_of_a_billion_in_milliseconds(tmp_path: Path) -> None:
    make_dataset(tmp_path, [[7]] * 2)
    for number in range(2):
        with (tmp_path / f"tok_{number}.bin").open("r+b") as file:
            try:
                file.truncate(500_000_000 * 1024)
            except OSError:
                pytest.skip("the file system has no room for sparse files of this size")
            file.seek(-2, 2)
            file.write(b"\7\0")
    reader = BatchReader(open_dataset(tmp_path, 512), 256)
    reader.samples(0)
    start = time.perf_counter()
    tokens = reader.read(reader.samples(2 * reader.steps_per_epoch - 1_000_000))
    assert time.perf_counter() - start < 5
    assert tokens.shape == (256, 512)
