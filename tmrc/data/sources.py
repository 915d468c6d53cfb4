"""Text to be tokenized: which files there are, and their documents, read as a stream of pieces of bounded size."""

from __future__ import annotations

import fnmatch
import gzip
import io
import json
import os
import stat
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from tmrc.config.errors import DataError, nearest, shown

PIECE_BYTES = 1 << 20
_JSON_LINES = (".jsonl", ".ndjson")
_EMPTY = "documents left out, empty"


@dataclass(frozen=True)
class Piece:
    """Some text of a document. `offset` says how far into its file the reader has come, in bytes, for progress."""

    text: str
    ends_document: bool
    offset: int


@dataclass
class Notes:
    """What was left out or changed while reading: how often, and where first."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    last: dict[str, str] = field(default_factory=dict)

    def add(self, what: str, where: object) -> None:
        """Count one more place where `what` was met; a place counts once."""
        if self.last.get(what) != str(where):
            self.counts[what] += 1
            self.first.setdefault(what, str(where))
            self.last[what] = str(where)

    def lines(self) -> list[str]:
        """One line a kind, for people."""
        return [f"{what}: {count:,} (first: {self.first[what]})" for what, count in sorted(self.counts.items())]


def list_sources(sources: Sequence[Path], globs: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[Path]:
    """The files named, and those under the directories named whose name or path in it matches one of `globs`.

    Directories are read recursively in the order of names; hidden files and directories are left out, and so is what
    matches one of `exclude`, a directory with all below it. A file named twice counts once. Raises DataError when there
    is none, or one is missing or unreadable.
    """
    files: dict[Path, Path] = {}
    for source in sources:
        try:
            mode = source.stat().st_mode
        except (OSError, ValueError) as error:
            why = (getattr(error, "strerror", None) or str(error)).lower()
            raise DataError(f"{str(source)[:300]}: {why}") from None
        if stat.S_ISDIR(mode):
            found = list(_walk(source, globs, exclude))
        elif stat.S_ISREG(mode):
            found = [source]
        else:
            raise DataError(f"{source}: neither a file nor a directory")
        for file in found:
            files.setdefault(file.resolve(), file)
    if not files:
        matching = f" that match {', '.join(globs)}" if globs else ""
        raise DataError(f"{', '.join(map(str, sources))}: no files{matching}")
    for file in files.values():
        if not os.access(file, os.R_OK):
            raise DataError(f"{file}: cannot be read (permissions)")
        if _kind(file) == ".parquet":
            _parquet()
    return list(files.values())


def read_pieces(file: Path, text_field: str, notes: Notes) -> Iterator[Piece]:
    """The documents of a file, cut into pieces of about a megabyte. Raises DataError.

    A `.jsonl` file (also `.ndjson`) has a document a line and a `.parquet` file one a row, in `text_field`; any other
    file is one document. All but parquet may be gzipped (`.gz`). Bytes that are not UTF-8 become U+FFFD.
    """
    try:
        if _kind(file) == ".parquet":
            yield from _rows(file, text_field, notes)
        elif _kind(file) in _JSON_LINES:
            yield from _lines(file, text_field, notes)
        else:
            with _Input(file) as stream:
                yield from _text_file(file, stream, notes)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error


class _Input:
    """A binary file, gunzipped where its name says so, that knows how many bytes of it were read."""

    def __init__(self, file: Path) -> None:
        self._raw = file.open("rb")
        zipped = file.suffix.lower() == ".gz"
        self._stream = cast(BinaryIO, gzip.GzipFile(fileobj=self._raw)) if zipped else self._raw

    def __enter__(self) -> _Input:
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._stream)

    def read(self, size: int) -> bytes:
        return self._stream.read(size)

    def tell(self) -> int:
        return self._raw.tell()


def _walk(directory: Path, globs: Sequence[str], exclude: Sequence[str]) -> Iterator[Path]:
    def matches(path: Path, patterns: Sequence[str]) -> bool:
        names = (path.name, str(path.relative_to(directory)))
        return any(fnmatch.fnmatch(name, pattern) for name in names for pattern in patterns)

    def left_out(path: Path) -> bool:
        return path.name.startswith(".") or matches(path, exclude)

    for parent, directories, names in os.walk(directory):
        directories[:] = sorted(name for name in directories if not left_out(Path(parent, name)))
        for path in (Path(parent, name) for name in sorted(names)):
            if (not globs or matches(path, globs)) and not left_out(path) and path.is_file():
                yield path


def _kind(file: Path) -> str:
    return (file.with_suffix("") if file.suffix.lower() == ".gz" else file).suffix.lower()


def _text_file(file: Path, stream: _Input, notes: Notes) -> Iterator[Piece]:
    """A whole file as one document."""
    begin = stream.read(8192)
    if not begin:
        notes.add(_EMPTY, file)
    elif b"\0" in begin:
        notes.add("files left out, not text", file)
    else:
        yield from _cut(begin, stream, file, notes)


def _cut(rest: bytes, stream: Any, where: object, notes: Notes) -> Iterator[Piece]:
    """`rest` and what follows in the stream, as one document, cut at ends of lines where there are any."""
    while more := stream.read(PIECE_BYTES):
        data = rest + more
        cut = data.rfind(b"\n") + 1 or _character_boundary(data)
        yield Piece(_decode(data[:cut], where, notes), False, stream.tell())
        rest = data[cut:]
    yield Piece(_decode(rest, where, notes), True, stream.tell())


def _character_boundary(data: bytes) -> int:
    """Where the last character of UTF-8 text begins; the end, when the last bytes are not UTF-8."""
    for back in range(1, 5):
        if data[-back] & 0xC0 != 0x80:
            return len(data) - back
    return len(data)


def _decode(data: bytes, where: object, notes: Notes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        notes.add("files with bytes that are not UTF-8 (now U+FFFD)", where)
        return data.decode(errors="replace")


def _document(text: str, where: str, offset: int, notes: Notes) -> Iterator[Piece]:
    """A document that came as a string. Half surrogates, which JSON can hold and UTF-8 cannot, become `?`."""
    if not text:
        notes.add(_EMPTY, where)
        return
    encoded = text.encode(errors="replace")
    if len(encoded) <= PIECE_BYTES:
        yield Piece(encoded.decode(), True, offset)
        return
    for piece in _cut(b"", io.BytesIO(encoded), where, notes):
        yield Piece(piece.text, piece.ends_document, offset)


def _lines(file: Path, text_field: str, notes: Notes) -> Iterator[Piece]:
    with _Input(file) as stream:
        for number, line in enumerate(stream, 1):
            where = f"{file}:{number}"
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                notes.add("lines left out, not JSON in UTF-8", where)
                continue
            if not isinstance(row, dict) or not isinstance(row.get(text_field), str):
                notes.add(f"lines left out, no text in key {shown(text_field)}", where)
                continue
            yield from _document(row[text_field], where, stream.tell(), notes)


def _rows(file: Path, text_field: str, notes: Notes) -> Iterator[Piece]:
    size = file.stat().st_size
    for row, (value, rows) in enumerate(_column(file, text_field), 1):
        where = f"{file} row {row}"
        if isinstance(value, str):
            yield from _document(value, where, size * row // rows, notes)
        else:
            notes.add(f"rows left out, no text in column {shown(text_field)}", where)


def _column(file: Path, name: str) -> Iterator[tuple[object, int]]:
    """The values of a column, each with the number of rows there are."""
    pyarrow, parquet = _parquet()
    try:
        table = parquet.ParquetFile(file)
        valid = table.schema_arrow.names
        if name not in valid:
            raise DataError(f"{file}: no column {shown(name)}, valid: {', '.join(valid)}{nearest(name, valid)}")
        for batch in table.iter_batches(batch_size=256, columns=[name]):
            yield from ((value, table.metadata.num_rows) for value in batch.column(0).to_pylist())
    except pyarrow.ArrowException as error:
        raise DataError(f"{file}: cannot be read as parquet: {error}") from error


def _parquet() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError("reading .parquet needs pyarrow: pip install pyarrow") from error
    return pyarrow, pyarrow.parquet
