from __future__ import annotations

import hashlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.helpers import FIXTURES, SHARED, make_dataset, plain_document_ids, plain_items, plain_split
from tmrc.config.errors import DataError
from tmrc.data import open_dataset
from tmrc.data.dataset import document_ids

CASES = [
    pytest.param(directory, case, id=f"{directory.name}-{case['context_length']}-{case['split']}-{case['chunked']}")
    for directory in SHARED
    for case in json.loads((directory / "expected.json").read_text())["cases"]
]
token_lists = st.lists(st.integers(0, 9), min_size=1, max_size=40)


def digest(*arrays: Any) -> str:
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(np.asarray(array, "<i8").tobytes())
    return sha.hexdigest()


@pytest.mark.parametrize(("directory", "case"), CASES)
def test_equal_to_tatms_reader(directory: Path, case: dict[str, Any]) -> None:
    ds = open_dataset(
        directory,
        case["context_length"],
        split=case["split"],
        val_split_size=case["val_split_size"],
        chunked=case["chunked"],
    )
    assert (len(ds), ds.num_tokens, len(ds.shards)) == (case["len"], case["num_tokens"], case["num_files"])
    for wanted in case["items"]:
        item = ds[wanted["index"]]
        assert len(item.token_ids) == wanted["length"]
        assert item.token_ids[:8].tolist() == wanted["first_tokens"]
        assert item.document_ids[-1] == wanted["last_document_id"]
        assert digest(item.token_ids) == wanted["tokens_sha256"]
        assert digest(item.document_ids) == wanted["document_ids_sha256"]
    if case["all_items_sha256"]:
        assert digest(*(array for item in ds for array in item)) == case["all_items_sha256"]


@settings(max_examples=60, deadline=None)
@given(
    shards=st.lists(token_lists, min_size=1, max_size=12),
    context_length=st.integers(1, 50),
    val_split_size=st.one_of(st.none(), st.just(0), st.floats(0, 0.999), st.just(1)),
    dtype=st.sampled_from(["uint16", "uint32"]),
)
def test_equal_to_a_plain_reader(
    shards: list[list[int]], context_length: int, val_split_size: float | None, dtype: str
) -> None:
    wanted = plain_items(shards, context_length)
    split = plain_split(len(wanted), val_split_size)
    with tempfile.TemporaryDirectory() as directory:
        make_dataset(Path(directory), shards, dtype=dtype)
        whole = open_dataset(directory, context_length, val_split_size=val_split_size)
        for ds, items in [
            (whole, wanted),
            (whole.select("train"), wanted[:split]),
            (whole.select("validation"), wanted[split:]),
        ]:
            assert len(ds) == len(items)
            assert [item.token_ids.tolist() for item in ds] == items
            assert [item.document_ids.tolist() for item in ds] == [plain_document_ids(item, 1) for item in items]
            if items:
                assert ds[-1].token_ids.tolist() == items[-1] and ds[-len(items)].token_ids.tolist() == items[0]


@settings(max_examples=30, deadline=None)
@given(shards=st.lists(token_lists, min_size=1, max_size=3), context_length=st.integers(2, 50))
def test_unchunked_items_begin_at_every_token(shards: list[list[int]], context_length: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        ds = open_dataset(make_dataset(Path(directory), shards), context_length, chunked=False)
        assert [item.token_ids.tolist() for item in ds] == [
            tokens[i : i + context_length] for tokens in shards for i in range(len(tokens))
        ]


def test_index_out_of_range(tmp_path: Path) -> None:
    ds = open_dataset(make_dataset(tmp_path, [[5, 6, 7]]), 2, split="train", val_split_size=1)
    assert ds[np.int64(0)].token_ids.tolist() == [5, 6]
    for index in (1, -2, 10**20):
        with pytest.raises(IndexError):
            ds[index]
    empty = open_dataset(tmp_path, 2, split="validation")
    assert len(empty) == 0
    with pytest.raises(IndexError):
        empty[0]


def test_items_are_copies(tmp_path: Path) -> None:
    ds = open_dataset(make_dataset(tmp_path, [[5, 6, 7]]), 3)
    ds[0].token_ids[:] = 0
    assert ds[0].token_ids.tolist() == [5, 6, 7]


def test_eos_token_of_the_caller_then_of_the_data_then_1(tmp_path: Path) -> None:
    make_dataset(tmp_path, [[1, 2, 3, 4]])
    assert open_dataset(tmp_path, 4)[0].document_ids.tolist() == [0, 1, 1, 1]
    (tmp_path / "tmrc.json").write_text('{"eos_token": 2}')
    assert open_dataset(tmp_path, 4)[0].document_ids.tolist() == [0, 0, 1, 1]
    assert open_dataset(tmp_path, 4, eos_token=3)[0].document_ids.tolist() == [0, 0, 0, 1]


@settings(max_examples=100, deadline=None)
@given(rows=st.integers(0, 4), length=st.integers(1, 30), seed=st.integers(0, 1000), eos_token=st.integers(0, 3))
def test_document_ids_of_one_row_and_of_many(rows: int, length: int, seed: int, eos_token: int) -> None:
    tokens = np.random.default_rng(seed).integers(0, 4, (rows, length), dtype=np.uint16)
    wanted = [plain_document_ids(row, eos_token) for row in tokens]
    assert document_ids(tokens, eos_token).tolist() == wanted
    assert [document_ids(row, eos_token).tolist() for row in tokens] == wanted


def test_document_ids_do_not_wrap() -> None:
    ids = document_ids(np.ones(70_000, np.uint16))  # tatm's are uint16 and overflow here
    assert ids[-1] == 69_999


@pytest.mark.parametrize("val_split_size", [-0.5, 3, 1.5, float("nan"), float("inf")])
def test_bad_split(tmp_path: Path, val_split_size: float) -> None:
    make_dataset(tmp_path, [[5, 6, 7]])
    with pytest.raises(DataError, match=r"val_split_size: got .*up to the 2 items there are"):
        open_dataset(tmp_path, 2, val_split_size=val_split_size)


def test_bad_arguments(tmp_path: Path) -> None:
    make_dataset(tmp_path, [[5, 6, 7]])
    with pytest.raises(DataError, match="split: got 'test', valid: train, validation"):
        open_dataset(tmp_path, 2, split="test")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="context_length: got 0"):
        open_dataset(tmp_path, 0)


def test_shard_that_changes_while_a_run_goes_on(tmp_path: Path) -> None:
    ds = open_dataset(make_dataset(tmp_path, [[5, 6, 7], [8]]), 2)
    (tmp_path / "tok_0.bin").write_bytes(b"abcd")
    (tmp_path / "tok_1.bin").unlink()
    with pytest.raises(
        DataError,
        match=r"tok_0.bin: the shard has changed since the run began: it has 4 bytes, no longer 3 uint16 tokens",
    ):
        ds[0]
    with pytest.raises(DataError, match=r"tok_1.bin: the shard cannot be read"):
        ds[2]


def test_more_shards_than_a_process_may_have_open(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    ds = open_dataset(make_dataset(tmp_path, [[n + 1] for n in range(700)]), 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (650, hard))
    try:
        assert sorted(int(item.token_ids[0]) for item in ds) == list(range(1, 701))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_billion_sequences_open_at_once(tmp_path: Path) -> None:
    context, shards, items = 512, 4, 250_000_000
    make_dataset(tmp_path, [[7]] * shards)
    for number in range(shards):
        with (tmp_path / f"tok_{number}.bin").open("r+b") as file:
            try:
                file.truncate(items * context * 2)
            except OSError:
                pytest.skip("the file system has no room for sparse files of this size")
            file.seek(-2, 2)
            file.write(b"\7\0")
    start = time.perf_counter()
    ds = open_dataset(tmp_path, context, split="train", val_split_size=0.001)
    assert time.perf_counter() - start < 20
    assert len(ds) == 999_000_000 and ds.layout.train_texts == 999_000_000
    assert ds[250_000_000].token_ids.tolist() == [7] + [0] * 511
    assert ds[249_999_999].token_ids.tolist() == [0] * 511 + [7]


def test_open_dataset_is_the_packages_public_name() -> None:
    import tmrc.data

    assert len(tmrc.data.open_dataset(FIXTURES / "tatm-pystdlib", 512)) == 1024
    with pytest.raises(AttributeError):
        _ = tmrc.data.nothing
