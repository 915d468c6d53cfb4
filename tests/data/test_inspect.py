from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.data.helpers import FIXTURES, make_dataset
from tmrc.config.errors import DataError
from tmrc.data.inspection import ShardReport, inspect_dataset
from tmrc.data.metadata import find_shards, load_metadata
from tmrc.data.report import print_shards


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "launch.cli.main", "data", "inspect", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_numbers_of_tatms_data() -> None:
    directory = FIXTURES / "tatm-pystdlib"
    found = inspect_dataset(directory, 500, samples=3)
    tokens = {path.name: np.fromfile(path, np.uint16) for path in directory.glob("*.bin")}
    assert [shard.file for shard in found.shards] == sorted(tokens)
    for shard in found.shards:
        assert shard.documents == np.count_nonzero(tokens[shard.file] == 1)
        assert shard.max_token == tokens[shard.file].max()
        assert shard.padding == len(tokens[shard.file]) - shard.text_tokens
        assert not tokens[shard.file][shard.text_tokens :].any()
    assert found.items == 1052 and found.problems == []
    assert found.items_with_text == sum(-(-s.text_tokens // 500) for s in find_shards(load_metadata(directory)))
    assert len(found.samples) == 3 and found.samples[0].where == "pystdlib_0.bin chunk 0"
    assert "def " in "".join(sample.text for sample in found.samples)


def test_table_without_a_terminal() -> None:
    done = run(str(FIXTURES / "tatm-pystdlib"), "--sample", "1")
    assert done.returncode == 0
    for said in ("pystdlib_3.bin", "1,024, of which", "4,096, stored as uint16", "item 0 (pystdlib_0.bin chunk 0)"):
        assert said in done.stdout
    assert "\x1b" not in done.stdout


def test_json() -> None:
    done = run(str(FIXTURES / "tatm-pystdlib-u32"), "--json", "--context-length", "128")
    found = json.loads(done.stdout)
    assert (found["items"], found["tokens"], found["dtype"], len(found["shards"])) == (1536, 196608, "uint32", 3)
    assert found["documents"] == sum(shard["documents"] for shard in found["shards"]) > 0


def test_token_outside_the_vocabulary_exits_2_after_the_report(tmp_path: Path) -> None:
    make_dataset(tmp_path, [[5, 6], [7, 100, 8]], vocab_size=100)
    done = run(str(tmp_path))
    assert done.returncode == 2 and "tok_1.bin" in done.stdout
    assert done.stderr.count("\n") == 1
    assert f"{tmp_path}: tok_1.bin: token 100 is outside the vocabulary of 100" in done.stderr
    assert json.loads(run(str(tmp_path), "--json").stdout)["problems"]


def test_missing_data_is_one_line(tmp_path: Path) -> None:
    done = run(str(tmp_path / "missing"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and "no such data set" in done.stderr


def test_shards_without_text_and_without_tokenizer(tmp_path: Path) -> None:
    make_dataset(tmp_path, [[0, 0, 0]])
    found = inspect_dataset(tmp_path, 2)
    assert (found.items, found.items_with_text, found.shards[0].max_token) == (2, 0, 0)
    with pytest.raises(DataError, match=r"tokenizer.json: missing, and needed to show text"):
        inspect_dataset(tmp_path, 2, samples=1)


def test_progress_lines_without_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tmrc.config.progress._SECONDS_BETWEEN_LINES", 0)
    monkeypatch.setattr("tmrc.config.progress.PATIENCE", 0)
    inspect_dataset(FIXTURES / "tatm-pystdlib", 512)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("reading: ") and lines[-1].endswith(" MB")
    assert len(lines) == 4


@pytest.mark.parametrize("columns", [30, 80, 120])
def test_no_number_is_broken_where_the_terminal_is_narrow(columns: int, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = [4_726_320_200 + number for number in range(3)]
    shards = tuple(
        ShardReport(
            f"a-long-name-of-some-corpus-without-any-blank_{n}.bin", size, size // 2, size // 2 - 9, 9, 12345, 31999
        )
        for n, size in enumerate(sizes)
    )
    print_shards(shards, columns)
    out = capsys.readouterr().out
    for size in (*sizes, sum(sizes)):
        assert f" {size:,} " in out and f" {size // 2:,} " in out
    assert out.count("12,345") == 3 and out.count("31,999") == 4 and "37,035" in out and "…" not in out
    assert columns < 80 or max(map(len, out.splitlines())) <= columns
