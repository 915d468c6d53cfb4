from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.data.helpers import FIXTURES, SHARED, make_dataset, metadata_content
from tmrc.config.errors import DataError
from tmrc.data.metadata import find_shards, load_metadata


def refusal(path: Path) -> str:
    """The one line with which reading the data set at `path` is refused."""
    with pytest.raises(DataError) as refused:
        find_shards(load_metadata(path))
    message = str(refused.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_metadata_written_by_tatm() -> None:
    metadata = load_metadata(FIXTURES / "tatm-pystdlib-u32")
    assert (metadata.name, metadata.dtype, metadata.vocab_size) == ("pystdlib", "uint32", 4096)
    assert metadata.tokenizer == "/n/lab/tokenizers/pystdlib.json"
    assert metadata.file_prefix == "/n/lab/tokenized/tatm-pystdlib-u32/pystdlib"
    assert metadata.eos_token is None
    assert metadata.parent_datasets == ("pystdlib",)


@pytest.mark.parametrize("directory", SHARED, ids=lambda d: d.name)
def test_text_ends_at_the_last_nonzero_token(directory: Path) -> None:
    for shard in find_shards(load_metadata(directory)):
        dtype = {"uint16": 2, "uint32": 4}[load_metadata(directory).dtype]
        assert shard.text_tokens * dtype - len(shard.path.read_bytes().rstrip(b"\0")) < dtype
        assert shard.text_tokens < shard.tokens == shard.path.stat().st_size // dtype


def test_json_before_yaml_before_yml_and_a_file_by_its_own_path(tmp_path: Path) -> None:
    for suffix in ("yml", "yaml", "json"):
        content = metadata_content(tmp_path) | {"name": suffix}
        text = json.dumps(content) if suffix == "json" else yaml.safe_dump(content)
        (tmp_path / f"metadata.{suffix}").write_text(text)
        assert load_metadata(tmp_path).name == suffix
    assert load_metadata(tmp_path / "metadata.yml").name == "yml"


def test_shards_are_sorted_as_strings(tmp_path: Path) -> None:
    make_dataset(tmp_path, [[n + 1] for n in range(12)])
    (tmp_path / "tok_1.bin.partial").write_bytes(b"x")
    (tmp_path / "other_1.bin").write_bytes(b"x")
    names = [shard.path.name for shard in find_shards(load_metadata(tmp_path))]
    assert names == sorted(f"tok_{n}.bin" for n in range(12))
    assert names[:3] == ["tok_0.bin", "tok_1.bin", "tok_10.bin"]


def test_prefix_with_glob_characters_is_literal(tmp_path: Path) -> None:
    directory = make_dataset(tmp_path / "a[12]*?", [[5, 6]], file_prefix=str(tmp_path / "a[12]*?" / "tok"))
    assert len(find_shards(load_metadata(directory))) == 1


def test_prefix_may_not_overlap_the_extension(tmp_path: Path) -> None:
    make_dataset(tmp_path, [], file_prefix=str(tmp_path / "x.b"))
    (tmp_path / "x.bin").write_bytes(
        b"ab"
    )  # begins with the prefix, ends with .bin, yet the pattern x.b*.bin is longer
    assert "no shard found" in refusal(tmp_path)


def test_moved_data_set_is_read_beside_its_metadata_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_dataset(tmp_path / "new", [[5, 6]], file_prefix="/nowhere/old/tok")
    for _ in range(3):
        shards = find_shards(load_metadata(tmp_path / "new"))
        assert [shard.path for shard in shards] == [tmp_path / "new" / "tok_0.bin"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "/nowhere/old/tok matches nothing" in caplog.text


def test_a_copy_whose_original_is_read_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    original = make_dataset(tmp_path / "original", [[5, 6]], file_prefix=str(tmp_path / "original" / "tok"))
    assert find_shards(load_metadata(original)) and not caplog.records
    copy = shutil.copytree(original, tmp_path / "copy")
    assert [shard.path for shard in find_shards(load_metadata(copy))] == [original / "tok_0.bin"]
    assert f"reading the shards in {original}, as file_prefix says, not those beside it" in caplog.text


def test_relative_prefix_is_beside_the_metadata_whatever_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_dataset(tmp_path / "data", [[5, 6]], file_prefix="tok")
    assert len(find_shards(load_metadata(tmp_path / "data"))) == 1
    monkeypatch.chdir(tmp_path / "data")
    assert len(find_shards(load_metadata("."))) == 1
    assert len(find_shards(load_metadata("metadata.json"))) == 1


def test_tatm_defaults_for_absent_keys(tmp_path: Path) -> None:
    make_dataset(tmp_path, [[5]])
    content = metadata_content(tmp_path)
    del content["tokenized_info"]["dtype"]
    (tmp_path / "metadata.json").write_text(json.dumps(content))
    metadata = load_metadata(tmp_path)
    assert (metadata.dtype, metadata.file_extension, metadata.vocab_size) == ("uint16", "bin", None)


def test_side_file_names_the_eos_token(tmp_path: Path) -> None:
    make_dataset(tmp_path, [[5]])
    (tmp_path / "tmrc.json").write_text('{"eos_token": 50256}')
    assert load_metadata(tmp_path).eos_token == 50256
    (tmp_path / "tmrc.json").write_text('{"eos_token": "</s>"}')
    assert "tmrc.json: eos_token: got '</s>', valid: int" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ({"dtype": "unit16"}, "tokenized_info.dtype: got 'unit16', valid: uint16, uint32; did you mean 'uint16'?"),
        ({"dtype": 16}, "tokenized_info.dtype: got 16, valid: str"),
        ({"tokenizer": None}, "tokenized_info.tokenizer: the key is missing"),
        ({"file_prefix": None}, "tokenized_info.file_prefix: the key is missing"),
        ({"file_prefix": ["a"]}, "tokenized_info.file_prefix: got a list, valid: str"),
        ({"file_prefix": "/x\0y"}, "no shard found"),
        ({"vocab_size": "4096"}, "tokenized_info.vocab_size: got '4096', valid: int"),
        ({"vocab_size": True}, "tokenized_info.vocab_size: got True, valid: int"),
        ({"vocab_size": 0}, "tokenized_info.vocab_size: got 0, valid: 1 and above"),
        ({"parent_datasets": "x"}, "tokenized_info.parent_datasets: got 'x', valid: list"),
    ],
)
def test_wrong_keys(tmp_path: Path, info: dict[str, Any], said: str) -> None:
    make_dataset(tmp_path, [[5]])
    (tmp_path / "metadata.json").write_text(json.dumps(metadata_content(tmp_path, **info)))
    (tmp_path / "tok_0.bin").unlink()
    assert said in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("metadata.json", "{", "not valid JSON"),
        ("metadata.json", "[" * 100_000, "not valid JSON"),
        ("metadata.json", "[1]", "keys and values are wanted, got a list"),
        ("metadata.json", '{"name": "x"}', "not tokenized"),
        ("metadata.json", '{"tokenized_info": "yes"}', "tokenized_info: got 'yes', valid: dict"),
        ("metadata.yaml", "a: [", "not valid YAML"),
        ("metadata.yaml", "", "keys and values are wanted, got None"),
        ("metadata.yaml", "name: !!python/object/apply:os.system ['touch hit']", "not valid YAML"),
        ("metadata.yaml", "tokenized_info: !!python/name:os.system", "not valid YAML"),
        ("metadata.yaml", "\x00", "not valid YAML"),
    ],
)
def test_broken_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(text)
    assert said in refusal(tmp_path)
    assert not (tmp_path / "hit").exists()


def test_metadata_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "metadata.yaml").write_bytes(b"\xff\xfe\x00")
    assert "not valid YAML" in refusal(tmp_path)


def test_nested_aliases_do_not_blow_up_the_message(tmp_path: Path) -> None:
    bomb = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60)]
    (tmp_path / "metadata.yaml").write_text("\n".join(bomb) + "\ntokenized_info: *a59\n")
    assert "tokenized_info: got a list, valid: dict" in refusal(tmp_path)


def test_no_such_path(tmp_path: Path) -> None:
    assert "no such data set" in refusal(tmp_path / "missing")
    assert "no metadata: none of metadata.json, metadata.yaml, metadata.yml" in refusal(tmp_path)
    (tmp_path / "tok_0.bin").write_bytes(b"ab")
    assert "a metadata file ends in" in refusal(tmp_path / "tok_0.bin")


def test_bad_shards(tmp_path: Path) -> None:
    make_dataset(tmp_path, [[5, 6], [7]])
    shard = tmp_path / "tok_1.bin"
    shard.write_bytes(b"abc")
    assert f"{shard}: the shard is cut off: 3 bytes are no whole number of uint16 tokens" in refusal(tmp_path)
    shard.write_bytes(b"")
    assert f"{shard}: the shard is empty" in refusal(tmp_path)
    shard.unlink()
    shard.symlink_to(tmp_path / "gone")
    assert f"{shard}: the shard cannot be read" in refusal(tmp_path)
    shard.unlink()
    shard.mkdir()
    assert f"{shard}: a shard must be a file" in refusal(tmp_path)


def test_unreadable_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_dataset(tmp_path, [[5, 6]])

    def refuse(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", refuse)
    assert "tok_0.bin: the shard cannot be read: Input/output error" in refusal(tmp_path)


def test_no_shard(tmp_path: Path) -> None:
    make_dataset(tmp_path, [], file_prefix="/nowhere/tok")
    assert f"nothing matches file_prefix /nowhere/tok*.bin, nor {tmp_path}/tok*.bin" in refusal(tmp_path)


@pytest.mark.parametrize("holes_known", [True, False])
def test_text_end_with_holes_and_large_zero_tails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holes_known: bool
) -> None:
    make_dataset(tmp_path, [[9], [9]])
    with (tmp_path / "tok_0.bin").open("r+b") as file:
        file.seek(3_000_001)
        file.write(b"\7")  # the high byte of token 1,500,000
        file.truncate(1 << 25)
    (tmp_path / "tok_1.bin").write_bytes(bytes(1 << 21))
    if not holes_known:
        monkeypatch.delattr(os, "SEEK_HOLE")
    assert [shard.text_tokens for shard in find_shards(load_metadata(tmp_path))] == [1_500_001, 0]


def test_file_system_that_cannot_tell_holes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_dataset(tmp_path, [[9, 0, 0]])

    def unsupported(*_: object) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "lseek", unsupported)
    assert find_shards(load_metadata(tmp_path))[0].text_tokens == 1


class FakeStore:
    """Stands in for tatm.data.metadata_store."""

    def __init__(self, known: dict[str, str]) -> None:
        self.known = known

    def get_metadata(self, name: str) -> str | None:
        print("Using json metadata backend")
        if name == "broken":
            raise FileNotFoundError("store.json")
        return self.known.get(name)


def test_name_through_tatms_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_dataset(tmp_path, [[5]])
    store = FakeStore({"corpus": (tmp_path / "metadata.json").read_text(), "odd": "3"})
    monkeypatch.setitem(sys.modules, "tatm.data.metadata_store", store)
    metadata = load_metadata("corpus")
    assert metadata.name == "tok" and len(find_shards(metadata)) == 1
    assert capsys.readouterr().out == ""
    for name, said in {
        "unknown": "not in tatm's metadata store: give datasets.path",
        "broken": "tatm's metadata store failed: FileNotFoundError: store.json",
        "odd": "no keys and values",
    }.items():
        with pytest.raises(DataError, match=f"{name}: .*{said}"):
            load_metadata(name)


def test_name_without_tatm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tatm.data.metadata_store", None)
    with pytest.raises(DataError, match=r"corpus: .*not installed: give datasets.path, or pip install 'tatm @ git"):
        load_metadata("corpus")


def test_the_launchers_part_needs_no_numpy_and_no_yaml_for_json() -> None:
    code = (
        "import sys, tmrc.data, tmrc.data.metadata, tmrc.data.layout\n"
        "print([m for m in ('numpy', 'torch', 'yaml', 'logging') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
