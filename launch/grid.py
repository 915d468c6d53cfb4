"""The points of a sweep, from overrides in Hydra's grammar: `optimizer.lr=1e-4,3e-4 'model.n_layer=range(4,9,2)'`."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.plainvalues import plain_values
from tmrc.config.compose import packaged_folder
from tmrc.config.errors import ConfigError, nearest, shown
from tmrc.config.yaml_file import MAX_STRING, parse_yaml, read_yaml_mapping

MOST_POINTS = 10_000
NAMED = "sweep="  # before the name of a file of overrides
_KEY = re.compile(r"\+{0,2}([^=]*)=(.*)", re.DOTALL)
_PLAIN_KEY = re.compile(r"\+{0,2}[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)


@dataclass(frozen=True)
class Grid:
    """A sweep as it is asked for: what its points share, the swept keys (`model.n_layer`), and each point's own."""

    fixed: tuple[str, ...]
    swept: tuple[str, ...]
    points: tuple[tuple[str, ...], ...]
    parallel: int | None = None  # how many at a time, where a named sweep says so


@dataclass(frozen=True)
class NamedSweep:
    """A file of configs/sweep: overrides in the grammar of the command line, and how many points run at a time."""

    overrides: tuple[str, ...]
    parallel: int | None


def expand(overrides: Sequence[str], config: Path) -> Grid:
    """What `overrides` ask for, the last swept key changing fastest; others go over those of `sweep=NAME`.

    Raises ConfigError for what is not Hydra's grammar, for a sweep that is none, and for one of too many points.
    """
    files = [read_named(text.partition("=")[2], config.parent) for text in overrides if text.startswith(NAMED)]
    texts = [text for file in files for text in file.overrides]
    texts += [text for text in overrides if not text.startswith(NAMED)]
    chosen = {key_of(text): text for text in texts}  # the last one of a key counts
    parsed: dict[str, tuple[str, ...]] = {}
    count = 1
    for key, text in chosen.items():
        parsed[key] = _parse(text)
        count *= len(parsed[key])
        if count > MOST_POINTS:
            raise ConfigError(_too_many(count))
    swept = {key: values for key, values in parsed.items() if len(values) > 1 or _is_written_as_sweep(chosen[key])}
    if not swept:
        raise ConfigError(
            "-m: no key has more than one value; valid: such as optimizer.lr=1e-4,3e-4, 'model.n_layer=range(4,9,2)' "
            "or sweep=NAME"
        )
    parallel = next((file.parallel for file in reversed(files) if file.parallel), None)
    fixed = tuple(text for key, texts in parsed.items() if key not in swept for text in texts)
    return Grid(fixed, tuple(swept), tuple(itertools.product(*swept.values())), parallel)


def read_named(name: str, beside: Path) -> NamedSweep:
    """The sweep in the file `name`, in `sweep/NAME.yaml` beside the configuration, or the packaged one of that name.

    Raises ConfigError when there is none, or it holds something else.
    """
    file = _find_named(name, beside)
    values = read_yaml_mapping(file)
    if unknown := [key for key in values if key not in ("params", "parallel")]:
        raise ConfigError(f"{file}: unknown key {shown(unknown[0])}; valid: params, parallel")
    params, parallel = values.get("params"), values.get("parallel")
    if not isinstance(params, dict) or not params:
        raise ConfigError(
            f"{file}: params: got {shown(params)}, valid: keys with values, such as optimizer.lr: 1e-4,3e-4"
        )
    if parallel is not None and (type(parallel) is not int or not 1 <= parallel <= MOST_POINTS):
        raise ConfigError(f"{file}: parallel: got {shown(parallel)}, valid: 1 to {MOST_POINTS}")
    return NamedSweep(tuple(f"{key}={_choices(value)}" for key, value in params.items()), parallel)


def named_sweeps(folder: Path) -> dict[str, Path]:
    """Name -> file of the sweeps in `folder`."""
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def packaged_sweeps() -> dict[str, Path]:
    """Name -> file of the sweeps that come with tmrc."""
    return named_sweeps(packaged_folder().parent / "sweep")


def plain_override(text: str) -> str:
    """One override of Hydra's, without a sweep in it, as one for `load_config`. Raises ConfigError."""
    found = _parse(text)
    if len(found) != 1:
        raise ConfigError(f"command line: got {shown(text)}, valid: one value")
    return found[0]


def is_sweep(text: str) -> bool:
    """Whether an override has several values, or a range of them, in Hydra's grammar."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return bool(OverridesParser.create().parse_override(text).is_sweep_override())
    except HydraException:
        return False  # Hydra itself says what is wrong with it


def text_of(value: Any) -> str:
    """A value as an override's text: YAML reads it back equal, and so does Hydra but for mappings."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(text_of, value))}]"
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    text = str(getattr(value, "text", value))  # Hydra has a class for a text in quotes
    if len(text) > MAX_STRING:
        return json.dumps(text, ensure_ascii=False)  # the configuration refuses it, and names the key
    plain = re.fullmatch(r"[\w./+$-][\w./:+$ -]*", text) is not None and not text.endswith((" ", ":"))
    if isinstance(value, int | float) or (plain and parse_yaml(text, "") == text):
        return text
    return json.dumps(text, ensure_ascii=False)


def _find_named(name: str, beside: Path) -> Path:
    there = {**packaged_sweeps(), **named_sweeps(beside / "sweep")}
    if name in there:
        return there[name]
    try:
        if name and Path(name).is_file():
            return Path(name)
    except (OSError, ValueError):
        pass
    raise ConfigError(f"sweep: got {shown(name)}, valid: {', '.join(there)}, or a file{nearest(name, there)}")


def _choices(value: Any) -> str:
    """A list is one value after the other; a text is the grammar of the command line."""
    if not isinstance(value, list):
        return value if isinstance(value, str) else text_of(value)
    return f"choice({','.join(map(text_of, value))})"


def key_of(text: str) -> str:
    """`optimizer.lr` of `optimizer.lr=1`, `+optimizer.lr=1` or `~optimizer.lr`."""
    match = _KEY.match(text)
    return match[1] if match else text.lstrip("~")


def _is_written_as_sweep(text: str) -> bool:
    """Whether a single value stands in the grammar of a sweep, as in `choice(1)`."""
    return re.match(r"[^=]*=\s*(choice|range)\(", text) is not None


def _parse(text: str) -> tuple[str, ...]:
    """The overrides that one in Hydra's grammar stands for."""
    match = _KEY.match(text)
    if match is None:  # ~key, or what the configuration refuses
        return (text,)
    key = text[: match.start(2) - 1]
    if key_of(text).startswith("hydra."):
        raise ConfigError(f"command line: {shown(text)}: Hydra's own settings are for python -m launch.sweep")
    if match[2].lstrip().startswith("glob("):
        raise ConfigError(
            f"command line: {shown(text)}: glob() is not known here, valid: the values with commas between"
        )
    values = plain_values(match[2], MOST_POINTS) if _PLAIN_KEY.fullmatch(key) else None
    if values is None:
        return _ask_hydra(text, key, match[2])
    return tuple(dict.fromkeys(f"{key}={text_of(value)}" for value in values))


def _ask_hydra(text: str, key: str, right: str) -> tuple[str, ...]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(text)
        if not override.is_sweep_override():
            return (f"{key}={text_of(override.value())}",)
        if not override.is_discrete_sweep():
            raise ConfigError(
                f"command line: {shown(text)}: a range without steps is for adaptive search (python -m launch.sweep); "
                "valid: values with commas between, choice(...), range(first,end,step)"
            )
        _refuse_long(override.value())
        values = list(_at_most(override.sweep_iterator()))
    except (HydraException, ValueError, ArithmeticError, RecursionError) as error:
        if not re.search(r"[,(]", right):  # as ~/data: no sweep, so the configuration judges it
            return (text,)
        words = " ".join(str(error).split("\n")[0].split())
        raise ConfigError(f"command line: {shown(text)}: {words or 'not in the grammar of Hydra'}") from None
    if not values:
        raise ConfigError(f"command line: {shown(text)}: has no value")
    return tuple(dict.fromkeys(f"{key}={text_of(value)}" for value in values))


def _refuse_long(sweep: Any) -> None:
    """Raise ConfigError for a range that is too long even to be looked at: Hydra would make a list of it to mix it."""
    start, stop, step = (getattr(sweep, name, None) for name in ("start", "stop", "step"))
    if start is None or stop is None or not step:
        return
    count = (float(stop) - float(start)) / float(step)
    if not count <= MOST_POINTS:  # NaN neither
        raise ConfigError(_too_many(None))


def _at_most(values: Iterable[Any]) -> Iterable[Any]:
    """`values`, but an error when they do not end in time."""
    for number, value in enumerate(values):
        if number >= MOST_POINTS:
            raise ConfigError(_too_many(None))
        yield value


def _too_many(count: int | None) -> str:
    return f"the sweep has {'too many' if count is None else f'{count:,}'} points, valid: at most {MOST_POINTS:,}"
