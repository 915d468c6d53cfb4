"""What a tokenized data set says about itself, and its shards. No numpy: the launcher reads this on a login node.

A data set is a directory with a metadata file (the first there is of metadata.json, .yaml, .yml) and flat binary shards
whose names begin with `tokenized_info.file_prefix`. The format is tatm's (github.com/KempnerInstitute/tatm).
"""

from __future__ import annotations

import functools
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from tmrc.config.errors import DataError, nearest, shown
from tmrc.config.paths import expanded
from tmrc.data.store import look_up
from tmrc.data.textend import text_end

Dtype = Literal["uint16", "uint32"]
ITEM_BYTES: dict[Dtype, int] = {"uint16": 2, "uint32": 4}
METADATA_FILES = ("metadata.json", "metadata.yaml", "metadata.yml")
MAX_FILE_BYTES = 16_000_000
SIDE_FILE = "tmrc.json"  # what `tmrc data prepare` knows beyond tatm's keys, which admit no further ones
_REQUIRED: Any = object()


@dataclass(frozen=True)
class Metadata:
    """A data set's description. `vocab_size` and `eos_token` are None where the data does not say."""

    file: Path
    name: str
    tokenizer: str
    file_prefix: str
    dtype: Dtype
    file_extension: str
    vocab_size: int | None
    eos_token: int | None = None
    description: str = ""
    parent_datasets: tuple[str, ...] = ()

    @property
    def item_bytes(self) -> int:
        """Bytes of one token on disk."""
        return ITEM_BYTES[self.dtype]

    @property
    def tokenizer_file(self) -> Path:
        """Where writers leave a copy of the tokenizer. It may be missing."""
        return self.file.parent / "tokenizer.json"


@dataclass(frozen=True)
class Shard:
    """One file of tokens. `text_tokens` counts up to the last non-zero one; the rest was preallocated, not written."""

    path: Path
    tokens: int
    text_tokens: int


def load_metadata(path: str | Path) -> Metadata:
    """Read the metadata of the data set in a directory, or the metadata file itself.

    What is no path that exists and could be a name is looked up in tatm's metadata store, where tatm is installed.
    Raises DataError when there is no metadata, it is not valid JSON or YAML, lacks a key or is of no tokenized data.
    """
    where = expanded(path)
    if str(path)[:1] not in ("/", ".", "~", "") and not os.path.lexists(where):
        content, file = look_up(str(path))
    else:
        file = _metadata_file(where)
        content = _parse(file)
    side_file = file.parent / SIDE_FILE
    side = _parse(side_file) if os.path.lexists(side_file) else {}
    return metadata_from_dict(content, file, _field(side, "eos_token", int, side_file, None))


def metadata_from_dict(content: dict[str, Any], file: Path, eos_token: int | None = None) -> Metadata:
    """Check tatm's keys and keep the ones that are used here. `file` is named in errors. Raises DataError."""
    if not content.get("tokenized_info"):
        raise DataError(
            f"{file}: no tokenized_info, so this data set is not tokenized; `tmrc data prepare` tokenizes text"
        )
    info = _field(content, "tokenized_info", dict, file)
    where = f"{file}: tokenized_info"
    dtype = _field(info, "dtype", str, where, "uint16")
    if dtype not in ITEM_BYTES:
        raise DataError(
            f"{where}.dtype: got {shown(dtype)}, valid: {', '.join(ITEM_BYTES)}{nearest(dtype, ITEM_BYTES)}"
        )
    vocab_size = _field(info, "vocab_size", int, where, None)
    if vocab_size is not None and vocab_size < 1:
        raise DataError(f"{where}.vocab_size: got {vocab_size}, valid: 1 and above")
    parents = _field(info, "parent_datasets", list, where, [])
    return Metadata(
        file=file,
        name=_field(content, "name", str, file, file.resolve().parent.name),
        tokenizer=_field(info, "tokenizer", str, where),
        file_prefix=_field(info, "file_prefix", str, where),
        dtype=cast(Dtype, dtype),
        file_extension=_field(info, "file_extension", str, where, "bin").lstrip("."),
        vocab_size=vocab_size,
        eos_token=eos_token,
        description=_field(content, "description", str, file, ""),
        parent_datasets=tuple(str(parent) for parent in parents if isinstance(parent, str)),
    )


def find_shards(metadata: Metadata) -> list[Shard]:
    """The shards of a data set, sorted by name as strings (so `_10` comes before `_2`).

    Where the recorded prefix matches nothing, the data set has moved: the same names beside the metadata file are
    used, and that is said once; as is that a copy's own shards are not the ones that are read. Raises DataError when
    there is no shard or one is empty, cut off or unreadable.
    """
    beside = str(metadata.file.parent / Path(metadata.file_prefix).name)
    recorded = metadata.file_prefix
    if not Path(recorded).is_absolute():
        recorded = str(metadata.file.parent / recorded)
    paths, copies = (_matching(prefix, metadata.file_extension) for prefix in (recorded, beside))
    if paths and copies and os.path.realpath(paths[0].parent) != os.path.realpath(copies[0].parent):
        _say_once(f"{metadata.file}: reading the shards in {paths[0].parent}, as file_prefix says, not those beside it")
    if not paths and copies:
        paths = copies
        _say_once(f"{metadata.file}: file_prefix {recorded} matches nothing; reading the shards beside the metadata")
    if not paths:
        nor = "" if recorded == beside else f", nor {beside}*.{metadata.file_extension}"
        raise DataError(
            f"{metadata.file}: no shard found: nothing matches file_prefix {recorded}*.{metadata.file_extension}{nor}"
        )
    return [_shard(path, metadata) for path in paths]


def _shard(path: Path, metadata: Metadata) -> Shard:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path}: a shard must be a file")
        if status.st_size == 0:
            raise DataError(f"{path}: the shard is empty")
        if status.st_size % metadata.item_bytes:
            raise DataError(
                f"{path}: the shard is cut off: {status.st_size} bytes are no whole number of {metadata.dtype} tokens"
            )
        text_bytes = text_end(path, status.st_size)
    except OSError as error:
        raise DataError(f"{path}: the shard cannot be read: {error.strerror or error}") from error
    item = metadata.item_bytes
    return Shard(path, status.st_size // item, -(-text_bytes // item))


def _matching(prefix: str, extension: str) -> list[Path]:
    """Files that the pattern `prefix*.extension` means, with the prefix taken literally."""
    directory, base = os.path.split(prefix)
    try:
        names = os.listdir(directory or ".")  # noqa: PTH208 (names are wanted, not paths)
    except (OSError, ValueError):
        return []
    hidden = not base  # a bare `*` leaves hidden files out, as in a shell
    ending = f".{extension}"
    kept = [n for n in names if n.startswith(base) and n[len(base) :].endswith(ending)]
    return [Path(directory, name) for name in sorted(kept) if not (hidden and name.startswith("."))]


@functools.cache
def _say_once(message: str) -> None:
    import logging  # 10 ms, seldom needed

    logging.getLogger("tmrc.data").warning(message)


def _metadata_file(path: Path) -> Path:
    try:
        if path.is_file():
            if path.suffix not in (".json", ".yaml", ".yml"):
                raise DataError(f"{path}: a metadata file ends in .json, .yaml or .yml (or give its directory)")
            return path
        found = [path / name for name in METADATA_FILES if (path / name).is_file()]
        there = path.is_dir()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: the data set cannot be read: {error}") from error
    if not there:
        raise DataError(f"{path}: no such data set (a directory with metadata.yaml and shards is wanted)")
    if not found:
        raise DataError(f"{path}: no metadata: none of {', '.join(METADATA_FILES)} is in this directory")
    return found[0]


def _parse(file: Path) -> dict[str, Any]:
    """The mapping in a JSON or YAML file. YAML tags that build objects are refused."""
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for, a device has no end
            raise DataError(f"{file}: is not a file")
        if status.st_size > MAX_FILE_BYTES:
            raise DataError(f"{file}: larger than {MAX_FILE_BYTES:,} bytes; not a data set's metadata")
        text = file.read_text("utf8")
        content = json.loads(text) if file.suffix == ".json" else _parse_yaml(text)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        kind = "JSON" if file.suffix == ".json" else "YAML"
        raise DataError(f"{file}: not valid {kind}: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{file}: keys and values are wanted, got {_described(content)}")
    return content


def _parse_yaml(text: str) -> Any:
    import yaml  # 15 ms that readers of JSON and --help do not pay

    from tmrc.config.yaml_file import check_nesting

    try:
        check_nesting(text)
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except Exception as error:  # tags such as `!!bool foo` fail within the library in many ways
        raise ValueError(str(error)) from error


def _field(mapping: dict[str, Any], key: str, kind: type, where: object, default: Any = _REQUIRED) -> Any:
    """`mapping[key]`, checked to be a `kind`. A missing or null key is the default, or an error without one."""
    separator = "." if isinstance(where, str) else ": "
    value = mapping.get(key)
    if value is None:
        if default is _REQUIRED:
            raise DataError(f"{where}{separator}{key}: the key is missing")
        return default
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DataError(f"{where}{separator}{key}: got {_described(value)}, valid: {kind.__name__}")
    return value


def _described(value: object) -> str:
    # The repr of nested YAML aliases can be exponentially long, so containers are named by type alone.
    return f"a {type(value).__name__}" if isinstance(value, dict | list | tuple | set) else shown(value)
