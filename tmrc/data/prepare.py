"""From text to a tokenized data set: read, tokenize in several processes, write in the order of the sources.

The shards are the same bytes whatever the number of processes, and memory does not grow with the corpus.
"""

from __future__ import annotations

import contextlib
import random
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import Tokenizer

from tmrc.config.errors import DataError, nearest, shown
from tmrc.config.paths import expanded
from tmrc.config.progress import progress
from tmrc.data.encode import Batch, cores, encode_batches
from tmrc.data.metadata import ITEM_BYTES, SIDE_FILE, Dtype
from tmrc.data.sources import Notes, Piece, list_sources, read_pieces
from tmrc.data.tokenizer import check_vocabulary, find_eos, load_tokenizer, train_tokenizer, vocabulary_size
from tmrc.data.write import SHARD_TOKENS, TokenWriter, dtype_for, write_metadata

_BATCH_CHARACTERS = 1 << 20
_SHUFFLE_SEED = 0
_BYTES_A_WORKER = 4 << 20  # less is not worth starting a process for
_TRAINING_BYTES = 1 << 28  # a larger corpus trains the tokenizer on every second, third, ... document


@dataclass(frozen=True)
class Settings:
    """How to tokenize. Either `tokenizer` (a file, or a name on the Hugging Face hub) or `train_vocabulary` is set."""

    tokenizer: str | None = None
    train_vocabulary: int | None = None
    globs: Sequence[str] = ()
    exclude: Sequence[str] = ()
    shuffle_files: bool = False  # in an order that depends on their number alone; else by name
    text_field: str = "text"
    name: str | None = None  # of the data set and its shards; None is the output directory's name
    shard_tokens: int = SHARD_TOKENS
    dtype: str | None = None  # None is the smallest that holds the vocabulary
    workers: int | None = None  # processes; None is one a core
    eos: str | None = None  # the token put after each document; None finds it

    def check(self) -> None:
        """Raise DataError for a value that cannot work."""
        if (self.tokenizer is None) == (self.train_vocabulary is None):
            raise DataError("give either --tokenizer or --train-tokenizer, to use a tokenizer or to train one")
        if self.train_vocabulary is not None:
            check_vocabulary(self.train_vocabulary)
        for option, value in {"--workers": self.workers, "--shard-tokens": self.shard_tokens}.items():
            if value is not None and value < 1:
                raise DataError(f"{option}: got {value}, valid: 1 and above")
        if self.dtype is not None and self.dtype not in ITEM_BYTES:
            valid = list(ITEM_BYTES)
            raise DataError(f"--dtype: got {shown(self.dtype)}, valid: {', '.join(valid)}{nearest(self.dtype, valid)}")


@dataclass(frozen=True)
class Summary:
    """What was written."""

    path: str
    name: str
    tokenizer: str
    vocab_size: int
    dtype: Dtype
    eos_token: int
    documents: int
    tokens: int
    shards: int
    source_files: int
    source_bytes: int
    seconds: float
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Corpus:
    """The text to be tokenized."""

    files: Sequence[Path]
    text_field: str = "text"

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.stat().st_size for file in self.files)

    def pieces(self, notes: Notes) -> Iterator[Piece]:
        """All documents in the order of the files. Offsets count from the first file's begin."""
        before = 0
        for file in self.files:
            for piece in read_pieces(file, self.text_field, notes):
                yield Piece(piece.text, piece.ends_document, before + piece.offset)
            before += file.stat().st_size


def prepare(sources: Sequence[Path], out: Path, settings: Settings) -> Summary:
    """Tokenize `sources` into a new data set in the directory `out`. Raises DataError.

    What was written is removed again when an error or Ctrl-C ends the work.
    """
    begin = time.monotonic()
    settings.check()
    name = _checked_name(settings.name or _plain(out.resolve().name))
    files = list_sources(sources, settings.globs, settings.exclude)
    if settings.shuffle_files:
        random.Random(_SHUFFLE_SEED).shuffle(files)
    corpus = Corpus(files, settings.text_field)
    with _new_directory(out, name):
        tokenizer, known_as = _tokenizer(corpus, out, settings)
        eos_name, eos_token = find_eos(tokenizer, settings.eos)
        vocab_size = vocabulary_size(tokenizer)
        dtype = _checked_dtype(settings.dtype, vocab_size)
        notes = Notes()
        with TokenWriter(out, name, dtype, settings.shard_tokens) as writer:
            documents = _tokenize(corpus, tokenizer, eos_token, writer, settings.workers or cores(), notes)
        if not writer.tokens:
            raise DataError("; ".join([f"{', '.join(map(str, sources))}: no text found", *notes.lines()]))
        write_metadata(
            out,
            prefix=name,
            tokenizer=known_as,
            vocab_size=vocab_size,
            dtype=dtype,
            tokenizer_json=tokenizer.to_str(),
            side={"eos_token": eos_token, "eos": eos_name, "documents": documents, "tokens": writer.tokens},
            parent_datasets=[str(source.resolve()) for source in sources],
        )
    return Summary(
        path=str(out.resolve()),
        name=name,
        tokenizer=known_as,
        vocab_size=vocab_size,
        dtype=dtype,
        eos_token=eos_token,
        documents=documents,
        tokens=writer.tokens,
        shards=len(writer.shards),
        source_files=len(corpus.files),
        source_bytes=corpus.size,
        seconds=round(time.monotonic() - begin, 3),
        notes=_remarks(settings, vocab_size) + notes.lines(),
    )


def _remarks(settings: Settings, vocab_size: int) -> list[str]:
    wanted = settings.train_vocabulary or 0
    return [f"the text gives a vocabulary of {vocab_size}, not {wanted}: there is too little of it"] * (
        vocab_size < wanted
    )


def _tokenizer(corpus: Corpus, out: Path, settings: Settings) -> tuple[Tokenizer, str]:
    """The tokenizer to use, and the name or path to record for it."""
    if settings.tokenizer is not None:
        path = expanded(settings.tokenizer)
        return load_tokenizer(settings.tokenizer), str(path.resolve()) if path.exists() else settings.tokenizer
    every = 1 + corpus.size // _TRAINING_BYTES
    with progress("training the tokenizer", corpus.size) as advance:

        def texts() -> Iterator[str]:
            for number, piece in enumerate(corpus.pieces(Notes())):
                advance(piece.offset)
                if number % every == 0:
                    yield piece.text

        return train_tokenizer(texts(), settings.train_vocabulary or 0), str(out.resolve() / "tokenizer.json")


def _tokenize(
    corpus: Corpus, tokenizer: Tokenizer, eos_token: int, writer: TokenWriter, workers: int, notes: Notes
) -> int:
    """Write all documents, each with an EOS after it; returns how many."""
    documents = 0
    workers = min(workers, 1 + corpus.size // _BYTES_A_WORKER)
    with progress("tokenizing", corpus.size) as advance:
        for encoded in encode_batches(_batches(corpus.pieces(notes)), tokenizer.to_str(), eos_token, workers):
            for ids in encoded.pieces():
                writer.write(ids)
            documents += encoded.documents
            advance(encoded.offset)
    return documents


def _batches(pieces: Iterator[Piece]) -> Iterator[Batch]:
    """Pieces in groups of about a million characters: one task of a worker."""
    batch: list[Piece] = []
    characters = 0
    for piece in pieces:
        batch.append(piece)
        characters += len(piece.text)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _plain(directory: str) -> str:
    """A data set's name made from its directory's: `data one` becomes `data-one`."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", directory).strip("-._") or "data"


def _checked_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise DataError(
            f"--name: got {shown(name)}, valid: letters, digits, '.', '_' and '-', not beginning with the last"
        )
    return name


def _checked_dtype(dtype: str | None, vocab_size: int) -> Dtype:
    smallest = dtype_for(vocab_size)
    if dtype == "uint16" != smallest:
        raise DataError(f"--dtype: got uint16, which holds 65,536 tokens, but the vocabulary has {vocab_size:,}")
    return "uint32" if dtype == "uint32" else smallest


@contextlib.contextmanager
def _new_directory(out: Path, prefix: str) -> Iterator[None]:
    """An empty directory to write a data set in; left as it was found when an error ends the work."""
    try:
        created = not out.exists()
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            unfinished = "" if (out / "metadata.yaml").exists() else " (without metadata.yaml: no finished data set)"
            raise DataError(f"{out}: not empty{unfinished}, and nothing is overwritten: choose another directory")
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error.strerror or error}") from error
    try:
        yield
    except BaseException as error:
        ours = [*out.glob(f"{prefix}_*.bin"), *out.glob(".*.partial")]
        for file in [*ours, out / "tokenizer.json", out / SIDE_FILE, out / "metadata.yaml"]:
            file.unlink(missing_ok=True)
        if created:
            with contextlib.suppress(OSError):
                out.rmdir()
        if isinstance(error, OSError):
            raise DataError(f"{out}: cannot be written: {error.strerror or error}") from error
        raise
