"""From a file and overrides to a validated configuration.

Plain files are read with PyYAML alone; OmegaConf is imported for `${...}` and Hydra for a `defaults:` list, so that
the usual submit stays fast.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tmrc.config.build import build
from tmrc.config.compose import compose, packaged_folder
from tmrc.config.errors import ConfigError, nearest, shown
from tmrc.config.interpolate import has_interpolation, resolve
from tmrc.config.schema import Config
from tmrc.config.validate import check
from tmrc.config.yaml_file import MAX_DEPTH, dump_yaml, parse_yaml, read_yaml_mapping

_OVERRIDE = re.compile(r"^(?:\+{0,2}([A-Za-z_][\w.\-]*)=(.*)|~([A-Za-z_][\w.\-]*))$", re.DOTALL)


def load_config(source: str | Path, overrides: Sequence[str] = (), values: Mapping[str, Any] | None = None) -> Config:
    """The configuration in the file (or packaged configuration) `source`, with `key=value` overrides applied.

    `values` is what the file holds, where it has been read already. Raises ConfigError, one line that names the file,
    the key, what was given and what is valid.
    """
    file = find_config(source)
    values = read_yaml_mapping(file) if values is None else _plain(dict(values))
    parsed = [_parse_override(text) for text in overrides]
    if "defaults" in values:
        groups = [text for text, (dotted, _, _) in zip(overrides, parsed, strict=True) if "." not in dotted]
        values = compose(file, values, groups)
        parsed = [override for override in parsed if "." in override[0]]
    for dotted, value, remove in parsed:
        if remove and not _stands_in(values, dotted):
            build(Config, _nested(dotted), lambda _: "command line")  # refuses a key that there is not
        _apply(values, dotted, value, remove)
    given = [dotted for dotted, _, _ in parsed]

    def where(dotted: str) -> str:
        from_override = any(name == dotted or name.startswith(f"{dotted}.") for name in given)
        return "command line" if from_override else str(file)

    if has_interpolation(values):
        values = resolve(values, where)
    config = build(Config, values, where)
    check(config, where)
    return config


def config_dict(config: Config) -> dict[str, Any]:
    """The configuration as plain dicts, lists and numbers, as YAML and JSON hold them."""
    plain = {name: _plain(section) for name, section in vars(config).items()}
    plain["optimizer"]["betas"] = list(config.optimizer.betas)
    return plain


def write_config(config: Config, path: Path, written: dict[str, str] | None = None) -> None:
    """Write every key of `config` to the YAML file `path`, so that `load_config` gives back an equal one.

    `written` keeps the text of each key for whoever writes many configurations that are nearly equal.
    """
    known = {} if written is None else written
    texts = []
    for section, values in config_dict(config).items():
        texts.append(f"{section}:\n")
        for name, value in values.items():
            key = f"{section}.{name}={value!r}"
            if key not in known:
                known[key] = dump_yaml({section: {name: value}}).partition("\n")[2]
            texts.append(known[key])
    path.write_text("".join(texts), "utf8")


def packaged_configs() -> dict[str, Path]:
    """Name -> file of the configurations that come with tmrc."""
    return {file.stem: file for file in sorted(packaged_folder().glob("*.yaml"))}


def find_config(source: str | Path) -> Path:
    """The file meant by a path or by the name of a packaged configuration. Raises ConfigError when there is none."""
    file = Path(source)
    try:
        if file.is_file():
            return file
        exists = file.exists()
    except (OSError, ValueError) as error:  # too long, or a character that no path has
        raise ConfigError(f"{shown(str(source))}: not a path: {error.args[-1]}") from None
    names = packaged_configs()
    if str(source) in names:
        return names[str(source)]
    if exists:
        raise ConfigError(f"{file}: is not a file")
    raise ConfigError(
        f"{shown(str(source))}: no such file{nearest(str(source), names)}; packaged configurations: {', '.join(names)}"
    )


def _plain(value: Any) -> Any:
    """As dataclasses.asdict, ten times as fast: it is asked for each point of a sweep, again and again."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, dict):
        return {name: _plain(child) for name, child in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    return {name: _plain(child) for name, child in vars(value).items()}


def _parse_override(text: str) -> tuple[str, Any, bool]:
    """(dotted key, value, whether to remove the key) of `key=value`, `+key=value`, `++key=value` or `~key`."""
    dotted, value, remove = _parsed(text)
    return dotted, _plain(value), remove


@functools.lru_cache(256)  # the points of a sweep share most of theirs
def _parsed(text: str) -> tuple[str, Any, bool]:
    match = _OVERRIDE.match(text)
    if match is None:
        raise ConfigError(f"command line: got {shown(text)}, valid: key=value, such as optimizer.lr=3e-4")
    if (match[1] or match[3]).count(".") > MAX_DEPTH:
        raise ConfigError(f"command line: got {shown(text)}, valid: a key such as optimizer.lr")
    if match[3]:
        return match[3], None, True
    return match[1], parse_yaml(match[2], f"command line: {match[1]}") if match[2] else "", False


def _stands_in(values: Any, dotted: str) -> bool:
    section, _, rest = dotted.partition(".")
    there = isinstance(values, dict) and section in values
    return there and (not rest or _stands_in(values[section], rest))


def _nested(dotted: str) -> dict[str, Any]:
    """`{"model": {"n_head": <its default>}}` for "model.n_head", a whole section for "model"."""
    section, _, key = dotted.partition(".")
    default = getattr(Config(), section, None)
    return {section: {key: getattr(default, key, None)} if key else None}


def _apply(values: dict[str, Any], dotted: str, value: Any, remove: bool) -> None:
    """Set or remove `dotted` in the nested dict `values`."""
    *sections, name = dotted.split(".")
    for depth, section in enumerate(sections):
        if values.get(section) is None:
            values[section] = {}
        values = values[section]
        if not isinstance(values, dict):
            raise ConfigError(f"command line: {dotted}: {'.'.join(sections[: depth + 1])} has no keys below it")
    if remove:
        values.pop(name, None)
    else:
        values[name] = value
