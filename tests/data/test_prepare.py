from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from tests.data.helpers import FIXTURES
from tmrc.config.errors import DataError, UserError
from tmrc.data import open_dataset, sources
from tmrc.data.metadata import load_metadata
from tmrc.data.prepare import Settings, Summary, prepare

TOKENIZER = str(FIXTURES / "tatm-pystdlib" / "tokenizer.json")


def tokenize(source: Path, out: Path, **settings: Any) -> Summary:
    given = {"tokenizer": TOKENIZER, "workers": 1} | settings
    return prepare([source], out, Settings(**given))


def documents(out: Path) -> list[str]:
    """The documents of a data set, in order, decoded with the tokenizer beside it."""
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    dataset = open_dataset(out, 1 << 20)
    tokens = np.concatenate([np.array(dataset.map_shard(shard)) for shard in range(len(dataset.shards))])
    ends = np.flatnonzero(tokens == dataset.eos_token) + 1
    assert ends[-1] == len(tokens)
    return [tokenizer.decode(part[:-1].tolist(), skip_special_tokens=False) for part in np.split(tokens, ends)[:-1]]


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "launch.cli.main", "data", *arguments]
    return subprocess.run(command, capture_output=True, text=True, **options)


def test_command_line_trains_and_writes(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(5):
        (tmp_path / "in" / f"{number}.py").write_text(f"def f{number}():\r\n    return '</s> <pad>'\n" * 20)
    (tmp_path / "in" / "other.txt").write_text("not wanted")
    arguments = ["prepare", str(tmp_path / "in"), "--glob", "*.py", "--train-tokenizer", "270", "--workers", "2"]
    done = run(*arguments, "-o", str(tmp_path / "out"), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    summary = json.loads(done.stdout)
    assert (summary["documents"], summary["vocab_size"], summary["eos_token"]) == (5, 270, 1)
    assert documents(tmp_path / "out") == [
        (tmp_path / "in" / f"{number}.py").read_bytes().decode() for number in range(5)
    ]
    tokenizer = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert [tokenizer.id_to_token(token) for token in range(3)] == ["<pad>", "</s>", "<unk>"]
    again = run(*arguments, "-o", str(tmp_path / "out"))
    assert again.returncode == 2 and again.stdout == ""
    assert again.stderr.count("\n") == 1 and "not empty, and nothing is overwritten" in again.stderr
    plain = run(*arguments, "-o", str(tmp_path / "again"))
    assert plain.returncode == 0 and f'path: "{tmp_path}/again"' in plain.stdout
    assert "vocab_size: 270" in plain.stdout and "eos_token" not in plain.stdout
    for name in ("again_0.bin", "tokenizer.json", "tmrc.json"):
        first = (tmp_path / "out" / name.replace("again", "out")).read_bytes()
        assert (tmp_path / "again" / name).read_bytes() == first


def test_too_little_text_for_the_vocabulary_is_said(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("ab ab")
    summary = tokenize(tmp_path / "in.txt", tmp_path / "out", tokenizer=None, train_vocabulary=5000)
    assert summary.vocab_size < 300
    assert summary.notes == [
        f"the text gives a vocabulary of {summary.vocab_size}, not 5000: there is too little of it"
    ]


def test_same_bytes_whatever_the_number_of_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tmrc.data.prepare._BYTES_A_WORKER", 1000)
    monkeypatch.setattr("tmrc.data.prepare._BATCH_CHARACTERS", 2000)
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"text": f"row {n} " * (n % 50 + 1)}) + "\n" for n in range(400)))
    for workers in (1, 3):
        tokenize(source, tmp_path / str(workers), workers=workers, shard_tokens=5000, name="tok")
    shards = sorted(path.name for path in (tmp_path / "1").glob("*.bin"))
    assert len(shards) > 3
    assert shards == sorted(path.name for path in (tmp_path / "3").glob("*.bin"))
    for name in shards:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "3" / name).read_bytes()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, max_size=6), cut=st.integers(8, 40)
)
def test_decoding_gives_the_text_back(
    texts: list[str], cut: int, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "PIECE_BYTES", cut)  # long documents are read in pieces
    directory = tmp_path_factory.mktemp("round_trip")
    (directory / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf8")
    tokenize(directory / "in.jsonl", directory / "out")
    assert documents(directory / "out") == texts


def test_long_files_are_read_in_pieces_and_are_one_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PIECE_BYTES", 1000)
    texts = ["é\n" * 20_000, "ü" * 20_000]
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.txt").write_text(text, encoding="utf8")
        pieces = list(sources.read_pieces(tmp_path / f"{number}.txt", "text", sources.Notes()))
        assert max(len(piece.text.encode()) for piece in pieces) <= 9192
        assert [piece.ends_document for piece in pieces] == [False] * (len(pieces) - 1) + [True]
        assert "".join(piece.text for piece in pieces) == text
        tokenize(tmp_path / f"{number}.txt", tmp_path / str(number))
        assert documents(tmp_path / str(number)) == [text]


def test_kinds_of_sources(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    root = tmp_path / "in"
    (root / "b").mkdir(parents=True)
    (root / ".git").mkdir()
    (root / ".git" / "config").write_text("hidden")
    (root / ".hidden").write_text("hidden")
    (root / "a.txt").write_text("from text")
    with gzip.open(root / "a.txt.gz", "wt") as file:
        file.write("from gzipped text")
    (root / "b" / "lines.jsonl").write_text('{"body": "line one"}\n\n{"body": "line two"}\n')
    with gzip.open(root / "b" / "lines.jsonl.gz", "wt") as file:
        file.write('{"body": "gzipped line"}\n')
    parquet.write_table(pyarrow.table({"body": ["row one", None, "row two"]}), root / "b" / "rows.parquet")
    summary = prepare([root, root / "a.txt"], tmp_path / "out", Settings(TOKENIZER, text_field="body", workers=1))
    wanted = ["from text", "from gzipped text", "line one", "line two", "gzipped line", "row one", "row two"]
    assert documents(tmp_path / "out") == wanted
    assert summary.documents == len(wanted) and summary.source_files == 5
    assert summary.notes == [f"rows left out, no text in column 'body': 1 (first: {root}/b/rows.parquet row 2)"]


def test_patterns_take_and_leave_out_files_and_directories(tmp_path: Path) -> None:
    for name in ("a.py", "b.py", "c.txt", "sub/d.py", "sub/tests/e.py", "tests/f.py"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}")
    tokenize(tmp_path / "in", tmp_path / "out", globs=["*.py"], exclude=["tests", "b.*"])
    assert documents(tmp_path / "out") == ["# a.py", "# sub/d.py"]
    tokenize(tmp_path / "in", tmp_path / "by_path", globs=["sub/*"], exclude=["sub/tests"])
    assert documents(tmp_path / "by_path") == ["# sub/d.py"]


def test_a_source_that_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="neither a file nor a directory"):
        tokenize(tmp_path / "pipe", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_can_be_mixed_the_same_way_each_time(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"{number:02}.txt").write_text(f"text {number:02}")
    for out in ("one", "two"):
        prepare(sorted(tmp_path.glob("*.txt")), tmp_path / out, Settings(TOKENIZER, shuffle_files=True, workers=1))
    mixed = documents(tmp_path / "one")
    assert mixed == documents(tmp_path / "two")
    assert mixed != sorted(mixed) == [f"text {number:02}" for number in range(12)]


def test_a_directorys_name_becomes_a_data_sets_name(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    tokenize(tmp_path / "a.txt", tmp_path / "data (one)")
    assert load_metadata(tmp_path / "data (one)").name == "data-one"


def test_what_is_left_out_or_replaced_is_counted(tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    (root / "empty.txt").write_text("")
    (root / "image.png").write_bytes(b"\x89PNG\0\0")
    (root / "latin.txt").write_bytes("caf\xe9".encode("latin1"))
    (root / "x.jsonl").write_text('{"text": "ok"}\n{"text": 3}\n{broken\n[1]\n{"text": ""}\n{"text": "\\ud800"}\n')
    summary = tokenize(root, tmp_path / "out")
    assert documents(tmp_path / "out") == ["caf\ufffd", "ok", "?"]
    assert summary.notes == [
        f"documents left out, empty: 2 (first: {root}/empty.txt)",
        f"files left out, not text: 1 (first: {root}/image.png)",
        f"files with bytes that are not UTF-8 (now U+FFFD): 1 (first: {root}/latin.txt)",
        f"lines left out, no text in key 'text': 2 (first: {root}/x.jsonl:2)",
        f"lines left out, not JSON in UTF-8: 1 (first: {root}/x.jsonl:3)",
    ]


def word_tokenizer(path: Path, words: dict[str, int]) -> str:
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(path))
    return str(path)


def test_another_eos_and_a_large_vocabulary(tmp_path: Path) -> None:
    words = {"[UNK]": 0, "a": 1, "b": 70_000, "<|endoftext|>": 2, "END": 3}
    tokenizer = word_tokenizer(tmp_path / "words.json", words)
    (tmp_path / "in.txt").write_text("a b a b a")
    summary = tokenize(tmp_path / "in.txt", tmp_path / "out", tokenizer=tokenizer)
    assert (summary.eos_token, summary.vocab_size, summary.dtype) == (2, 70_001, "uint32")
    ds = open_dataset(tmp_path / "out", 6)
    assert ds[0].token_ids.tolist() == [1, 70_000, 1, 70_000, 1, 2]  # neither truncated nor padded
    assert (ds.metadata.eos_token, ds.eos_token) == (2, 2)
    done = run(
        "prepare", str(tmp_path / "in.txt"), "-o", str(tmp_path / "cli"), "--tokenizer", tokenizer, "--eos", "END"
    )
    assert done.returncode == 0 and "  eos_token: 3\n" in done.stdout
    assert load_metadata(tmp_path / "cli").eos_token == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tokenizer": None}, "give either --tokenizer or --train-tokenizer"),
        ({"train_vocabulary": 300}, "give either --tokenizer or --train-tokenizer"),
        ({"tokenizer": None, "train_vocabulary": 258}, "--train-tokenizer: got 258, valid: 259 and above"),
        ({"workers": 0}, "--workers: got 0, valid: 1 and above"),
        ({"shard_tokens": 0}, "--shard-tokens: got 0, valid: 1 and above"),
        ({"dtype": "int8"}, "--dtype: got 'int8', valid: uint16, uint32"),
        ({"name": "a/b"}, "--name: got 'a/b'"),
        ({"name": "-x"}, "--name: got '-x'"),
        ({"eos": "<nope>"}, "--eos: got '<nope>', which is no token of this tokenizer"),
        ({"tokenizer": "missing.json"}, "missing.json: no such tokenizer file"),
        ({"globs": ("*.rs",)}, "no files that match *.rs"),
    ],
)
def test_wrong_options_leave_nothing_behind(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("text")
    with pytest.raises(DataError) as refused:
        tokenize(tmp_path / "in", tmp_path / "out", **options)
    assert said in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_dtype_too_small_and_no_eos(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("a")
    large = word_tokenizer(tmp_path / "large.json", {"[UNK]": 0, "a": 65_536, "</s>": 1})
    with pytest.raises(
        DataError, match="--dtype: got uint16, which holds 65,536 tokens, but the vocabulary has 65,537"
    ):
        tokenize(tmp_path / "in.txt", tmp_path / "out", tokenizer=large, dtype="uint16")
    bare = word_tokenizer(tmp_path / "bare.json", {"[UNK]": 0, "a": 1})
    with pytest.raises(DataError, match=r"the tokenizer has none of </s>.*say with --eos"):
        tokenize(tmp_path / "in.txt", tmp_path / "out", tokenizer=bare)
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(DataError, match=r"broken.json: not a tokenizer file"):
        tokenize(tmp_path / "in.txt", tmp_path / "out", tokenizer=str(tmp_path / "broken.json"))


def test_bad_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="missing: no such file or directory"):
        tokenize(tmp_path / "missing", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: no files"):
        tokenize(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "x.jsonl").write_text('{"body": "a"}\n')
    with pytest.raises(DataError, match=r"no text found; lines left out, no text in key 'text': 1"):
        tokenize(tmp_path / "x.jsonl", tmp_path / "out")
    whole = gzip.compress(os.urandom(3000).hex().encode())
    (tmp_path / "cut.txt.gz").write_bytes(whole[:-1000])
    with pytest.raises(DataError, match=r"cut.txt.gz: cannot be read"):
        tokenize(tmp_path / "cut.txt.gz", tmp_path / "out")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"x.parquet: cannot be read as parquet"):
        tokenize(tmp_path / "x.parquet", tmp_path / "out")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(DataError, match=r"x.jsonl: cannot be read \(permissions\)"):
        tokenize(tmp_path / "x.jsonl", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_parquet_column_and_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"texts": ["a"], "id": [1]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"no column 'text', valid: texts, id; did you mean 'texts'\?"):
        tokenize(tmp_path / "x.parquet", tmp_path / "out")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"needs pyarrow: pip install pyarrow"):
        tokenize(tmp_path / "x.parquet", tmp_path / "out")


def test_tokenizer_by_name_without_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(_: str) -> Tokenizer:
        raise OSError("We cannot reach the hub.\nSecond line.")

    monkeypatch.setattr("tmrc.data.tokenizer.Tokenizer.from_pretrained", offline, raising=False)
    (tmp_path / "in.txt").write_text("a")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        DataError, match=r"tokenizer gpt2: no such file, and not from .* hub: We cannot reach the hub.$"
    ):
        tokenize(tmp_path / "in.txt", tmp_path / "out", tokenizer="gpt2")


def test_output_that_is_not_empty_or_not_writable(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("a")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(DataError, match=r"out: not empty \(without metadata.yaml"):
        tokenize(tmp_path / "in.txt", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
    with pytest.raises(DataError, match=r"in.txt/out: cannot be written"):
        tokenize(tmp_path / "in.txt", tmp_path / "in.txt" / "out")


def test_interruption_removes_what_was_written(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(f"{json.dumps({'text': 'some words ' * 500})}\n" * 20_000)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "launch.cli.main", "data", "prepare", str(source), "-o", str(out)]
    process = subprocess.Popen(
        [*command, "--tokenizer", TOKENIZER, "--workers", "2", "--shard-tokens", "5000"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not list(out.glob("out_*.bin")):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: the workers get it too
    _, errors = process.communicate(timeout=30)
    assert process.returncode != 0 and "Traceback" not in errors
    assert not out.exists()


def test_ctrl_c_does_not_hit_the_pool_while_it_holds_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submit, submitted = ProcessPoolExecutor.submit, []

    def interrupted(*arguments: Any) -> Future[Any]:
        signal.raise_signal(signal.SIGINT)
        submitted.append(submit(*arguments))
        return submitted[-1]

    monkeypatch.setattr("tmrc.data.prepare._BYTES_A_WORKER", 1)
    monkeypatch.setattr(ProcessPoolExecutor, "submit", interrupted)
    (tmp_path / "in.txt").write_text("a")
    with pytest.raises(KeyboardInterrupt):
        tokenize(tmp_path / "in.txt", tmp_path / "out", workers=2)
    assert len(submitted) == 1 and not (tmp_path / "out").exists()
    with pytest.raises(KeyboardInterrupt):  # and afterwards it is what it was
        signal.raise_signal(signal.SIGINT)


def test_a_killed_worker_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tmrc.data.prepare._BYTES_A_WORKER", 1)
    monkeypatch.setattr("tmrc.data.encode._start_worker", os._exit)
    (tmp_path / "in.txt").write_text("a")
    with pytest.raises(UserError, match="try fewer --workers"):
        tokenize(tmp_path / "in.txt", tmp_path / "out", workers=2)
    assert not (tmp_path / "out").exists()
