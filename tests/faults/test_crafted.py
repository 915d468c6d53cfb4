"""Files that somebody has crafted: each through the command that reads it. Nothing runs, nothing hangs, one line."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.calls import CANARY, ROOT, Said, call
from tests.launch.fake_queue import HandMade
from tests.launch.helpers import write_data
from tmrc.config.errors import ConfigError, DataError
from tmrc.config.load import load_config
from tmrc.data.metadata import load_metadata
from tmrc.data.tokenizer import Encoder, load_tokenizer

DEEP = 100_000


class Payload:
    """What a pickle that runs code looks like."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.system, (f"touch {CANARY}",)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not (tmp_path / CANARY).exists() and not (ROOT / CANARY).exists()


def refused(said: Said, *words: str) -> None:
    assert said.code == 2 and said.problems() == [], said
    for word in words:
        assert word in said.err, said.err


# Data sets

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(20)
)
MERGES = "m0: &m0 {x: 1}\n" + "".join(f"m{n}: &m{n} {{<<: [{','.join([f'*m{n - 1}'] * 20)}]}}\n" for n in range(1, 9))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (b"[" * DEEP, "nested deeper"),
        (b"- " * DEEP + b"a", "nested deeper"),
        (b"? " * DEEP + b"a", "nested deeper"),
        (LAUGHS.encode() + b"tokenized_info: {tokenizer: *u}\n", "got a list"),
        (MERGES.encode(), "<<"),
        (b"tokenized_info: &a {tokenizer: *a}\n", "got a dict"),
        (b"tokenized_info: !!python/object/apply:os.system ['touch EXECUTED']\n", "not valid YAML"),
        (b"tokenized_info: !!python/object/new:subprocess.Popen [[touch, EXECUTED]]\n", "not valid YAML"),
        (b"tokenized_info: {tokenizer: x, file_prefix: '../../../../etc/pass', file_extension: wd}\n", "no shard"),
        (pickle.dumps(Payload()), "not valid YAML"),
        (b"\xff\xfe\x00\x01" * 1000, "not valid YAML"),
    ],
)
def test_metadata(home: Path, text: bytes, word: str) -> None:
    write_data(home / "data")
    (home / "data/metadata.yaml").write_bytes(text)
    refused(call("tmrc", "data", "inspect", "data"), "data/metadata.yaml", word)


def test_metadata_that_is_no_file_or_has_no_end(home: Path) -> None:
    write_data(home / "data")
    side = home / "data/tmrc.json"
    for make in (os.mkfifo, lambda file: file.symlink_to("/dev/zero"), lambda file: file.symlink_to(file), Path.mkdir):
        make(side)
        refused(call("tmrc", "data", "inspect", "data"), "data/tmrc.json")
        side.rmdir() if side.is_dir() else side.unlink()
    main = home / "data/metadata.yaml"
    for make in (os.mkfifo, lambda file: file.symlink_to("/dev/zero"), lambda file: file.symlink_to(file)):
        main.unlink()
        make(main)
        refused(call("tmrc", "data", "inspect", "data"), "no metadata")
    main.unlink()
    with main.open("wb") as file:
        file.truncate(1 << 40)  # takes no room on disk
    with pytest.raises(DataError, match="larger than"):
        load_metadata(home / "data")


# Configurations


@pytest.mark.parametrize(
    ("own", "included", "word"),
    [
        ("[" * DEEP, "", "nested deeper"),
        ("model: " + "{a: " * 60 + "}" * 60, "", "nested deeper"),
        ("model: !!python/object/apply:os.system ['touch EXECUTED']", "", "could not determine"),
        ("model: {_target_: os.system, command: touch EXECUTED}", "", "_target_"),
        ("wandb_log: {group: '${oc.decode:x}'}", "", "valid: ${key}"),
        ("wandb_log: {group: '${oc.create:x}', name: '${now:x}'}", "", "valid: ${key}"),
        ("wandb_log: {group: '${wandb_log.group}'}", "", "ecursive"),
        ("wandb_log: {name: '" + "${wandb_log.group}" * 90 + "', group: '" + "${wandb_log.entity}" * 90 + "', entity: '"
         + "x" * 900 + "'}", "", "grows to more than"),
        ("wandb_log: {tags: ['" + "${wandb_log.name}" * 300 + "']}", "", "more than 200"),
        ("hydra: {searchpath: ['pkg://evil_module']}", "model: {}", "hydra"),
        ("model: {}", "hydra: {searchpath: ['pkg://evil_module']}", "hydra"),
        ("model: {}", "defaults: [{override hydra/launcher: basic}]", "hydra"),
        ("model: {}", "defaults: ['x${oc.env:CANARY_TOKEN}']", "looks like a secret"),
        ("model: {}", "defaults: [{optimizer: '${oc.env:CANARY_TOKEN}'}]", "looks like a secret"),
        ("model: {}", "model: !!python/object/apply:os.system ['touch EXECUTED']", "could not determine"),
        ("model: {}", LAUGHS, "aliases"),
        ("model: {}", "[" * DEEP, "nested deeper"),
        ("model: {}", "defaults: ['../../../../../etc/passwd']", "defaults"),
    ],
)  # fmt: skip
def test_configuration(home: Path, monkeypatch: pytest.MonkeyPatch, own: str, included: str, word: str) -> None:
    monkeypatch.setenv("CANARY_TOKEN", "a-canary-of-12")
    monkeypatch.setenv("PATH", str(home))
    monkeypatch.syspath_prepend(home)
    (home / "evil_module.py").write_text(f"open({CANARY!r}, 'w')")
    (home / "cfg.yaml").write_text(("defaults: [base, _self_]\n" if included else "") + own + "\n")
    (home / "base.yaml").write_text(included)
    for line in (["cfg.yaml"], ["--local", "cfg.yaml"], ["-m", "--local", "cfg.yaml", "optimizer.lr=1,2"]):
        said = call("tmrc-submit", "--dry-run", *line)
        refused(said, word)
        assert "a-canary" not in said.err


def test_an_included_configuration_that_is_no_file(home: Path) -> None:
    (home / "cfg.yaml").write_text("defaults: [base, _self_]\n")
    os.mkfifo(home / "base.yaml")
    with pytest.raises(ConfigError):
        load_config(home / "cfg.yaml")


def test_the_configuration_of_a_run(home: Path) -> None:
    """What a report reads without building a configuration of it."""
    run = HandMade(home / "artifacts").submitted("7").began(1, None).trains().ended()
    for text in ("[" * DEEP, "- " * DEEP, MERGES, LAUGHS, "a: !!python/object/apply:os.system ['touch EXECUTED']"):
        (run.path / "config.yaml").write_text(text)
        for line in (["report", str(run.path)], ["report", str(run.path), "--json"], ["status", str(run.path)]):
            said = call("tmrc", *line)
            assert said.code == 0 and said.problems() == [], said
        refused(call("tmrc-submit", "--local", "--resume", str(run.path)))


# Tokenizers

TOKENIZER: dict[str, Any] = {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
    "pre_tokenizer": None, "post_processor": None, "decoder": None,
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []},
}  # fmt: skip
SPLIT = {"type": "Split", "pattern": {"Regex": "^(a+)+$"}, "behavior": "Isolated", "invert": False}
STRIP = {"type": "Strip", "content": "a", "start": 99, "stop": 99}


def test_tokenizers(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = home / "tokenizer.json"
    broken = [
        '{"a":' * DEEP, "[" * DEEP, "", "\0" * 100, json.dumps({**TOKENIZER, "model": {"type": "Unigram",
        "vocab": []}}),
        json.dumps({**TOKENIZER, "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}),
    ]  # fmt: skip
    for text in broken:
        file.write_text(text)
        with pytest.raises(DataError):
            Encoder(load_tokenizer(str(file)).to_str())("a b")
    file.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(DataError):
        load_tokenizer(str(file))
    with pytest.raises(DataError, match="cannot encode"):  # a pattern that matches in too many ways
        Encoder(json.dumps({**TOKENIZER, "pre_tokenizer": SPLIT}))("a" * 60 + "b")
    capfd.readouterr()  # the library writes a word of its own about each


def test_a_tokenizer_that_cannot_decode(home: Path) -> None:
    write_data(home / "data")
    (home / "data/tokenizer.json").write_text(json.dumps({**TOKENIZER, "decoder": STRIP}))
    said = call("tmrc", "data", "inspect", "data", "--sample", "1", "--context-length", "16")
    assert isinstance(said.code, int) and "Traceback" not in said.err, said
