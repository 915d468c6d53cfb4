from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tmrc.config.errors import DataError
from tmrc.data import open_dataset
from tmrc.data.metadata import load_metadata
from tmrc.data.write import TokenWriter, dtype_for, write_metadata

# The keys of tatm 0.2.2's two metadata classes; its loader refuses any other.
TATM_KEYS = {
    *("name", "dataset_path", "description", "date_downloaded", "download_source", "data_content"),
    *("content_field", "corpuses", "corpus_separation_strategy", "corpus_data_dir_parent", "tokenized_info"),
}
TATM_REQUIRED = {"name", "dataset_path", "description", "date_downloaded", "download_source", "data_content"}
TATM_TOKENIZED_KEYS = {
    *("tokenizer", "file_prefix", "dtype", "file_extension", "parent_datasets", "vocab_size"),
    *("tatm_version", "tokenizers_version"),
}


def shards_of(writer: TokenWriter) -> list[list[int]]:
    return [np.fromfile(path, writer.dtype).tolist() for path in writer.shards]


@settings(max_examples=80, deadline=None)
@given(
    documents=st.lists(st.lists(st.integers(1, 9), max_size=12), max_size=20),
    shard_tokens=st.integers(1, 15),
)
def test_documents_stay_whole_and_nothing_is_added(documents: list[list[int]], shard_tokens: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        with TokenWriter(Path(directory), "tok", "uint16", shard_tokens) as writer:
            for document in documents:
                writer.write(document)
        shards = shards_of(writer)
    assert sum(shards, []) == sum(documents, [])  # noqa: RUF017
    assert all(1 <= len(shard) <= shard_tokens for shard in shards)
    ends = set(np.cumsum([len(shard) for shard in shards])[:-1].tolist())
    begin = 0
    for document in documents:
        if len(document) <= shard_tokens:
            assert not ends & set(range(begin + 1, begin + len(document)))
        begin += len(document)


def test_a_shard_has_its_name_only_when_complete(tmp_path: Path) -> None:
    writer = TokenWriter(tmp_path, "tok", "uint32", 4)
    writer.write([1, 2, 3])
    assert not list(tmp_path.glob("tok*.bin"))
    writer.write([4, 5])
    assert [path.name for path in tmp_path.glob("tok*.bin")] == ["tok_0.bin"]
    writer.close()
    assert shards_of(writer) == [[1, 2, 3], [4, 5]]


def test_an_error_leaves_no_unfinished_shard(tmp_path: Path) -> None:
    with pytest.raises(KeyError), TokenWriter(tmp_path, "tok", "uint16") as writer:
        writer.write([1])
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_refusals(tmp_path: Path) -> None:
    (tmp_path / "tok_0.bin").write_bytes(b"mine")
    writer = TokenWriter(tmp_path, "tok", "uint16")
    with pytest.raises(DataError, match=r"tok_0.bin: already there"):
        writer.write([1])
    for bad in (-1, 65536):
        with pytest.raises(DataError, match=f"token {bad} does not fit uint16"):
            writer.write([5, bad])
    with pytest.raises(DataError, match="tokens in a shard: got 0"):
        TokenWriter(tmp_path, "tok", "uint16", 0)
    assert (tmp_path / "tok_0.bin").read_bytes() == b"mine"


def test_dtype_by_vocabulary() -> None:
    assert [dtype_for(size) for size in (1, 65536, 65537)] == ["uint16", "uint16", "uint32"]


def test_metadata_has_tatms_keys_and_no_other(tmp_path: Path) -> None:
    with TokenWriter(tmp_path, "tok", "uint32") as writer:
        writer.write([7, 8])
    file = write_metadata(
        tmp_path,
        prefix="tok",
        tokenizer="gpt2",
        vocab_size=50257,
        dtype="uint32",
        tokenizer_json="{}",
        side={"eos_token": 50256},
        parent_datasets=["/a"],
    )
    content = yaml.safe_load(file.read_text())
    assert TATM_REQUIRED <= set(content) <= TATM_KEYS
    assert set(content["tokenized_info"]) == TATM_TOKENIZED_KEYS
    assert content["data_content"] == "text"
    metadata = load_metadata(tmp_path)
    assert (metadata.eos_token, metadata.vocab_size, metadata.tokenizer) == (50256, 50257, "gpt2")
    assert metadata.tokenizer_file.read_text() == "{}"
    assert open_dataset(tmp_path, 2)[0].token_ids.tolist() == [7, 8]
