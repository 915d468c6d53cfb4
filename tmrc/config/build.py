"""From plain values to the typed configuration, with one-line errors that say what is valid."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from tmrc.config.errors import ConfigError, nearest, shown
from tmrc.config.registry import registered
from tmrc.config.schema import Rule

_LARGEST = 2**63 - 1  # of integers: what is computed from them must still be a number
_LARGEST_FLOAT = 1e300  # so that sums and products of a few stay finite
C = TypeVar("C")
# From a dotted key to where its value stands: the file, or the command line.
Where = Callable[[str], str]


def build(cls: type[C], values: Any, where: Where, prefix: str = "") -> C:
    """An instance of the dataclass `cls` from a mapping. Raises ConfigError: place, key, value and what is valid."""
    if values is None:
        values = {}
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if not isinstance(values, Mapping):
        raise _refusal(where, prefix, values, f"a section with keys such as {', '.join(list(fields)[:3])}")
    for name in values:
        if name not in fields:
            dotted = f"{prefix}.{name}" if prefix else str(name)
            hint = nearest(str(name), fields) or f"; valid: {', '.join(fields)}"
            raise ConfigError(f"{where(dotted)}: unknown key {shown(dotted)}{hint}")
    types_of = _types(typing.cast(typing.Hashable, cls))
    built: dict[str, Any] = {}
    for name, value in values.items():
        dotted = f"{prefix}.{name}" if prefix else name
        if dataclasses.is_dataclass(types_of[name]):
            built[name] = build(typing.cast(type[Any], types_of[name]), value, where, dotted)
        else:
            built[name] = _convert(types_of[name], fields[name].metadata["rule"], value, where, dotted)
    return cls(**built)


@functools.cache
def _types(cls: Any) -> dict[str, Any]:
    """The type of each field; looking it up takes a while, and a sweep has many configurations."""
    return typing.get_type_hints(cls)


def _refusal(where: Where, dotted: str, value: Any, valid: str) -> ConfigError:
    return ConfigError(f"{where(dotted)}: {dotted}: got {shown(value)}, valid: {valid}")


def _convert(expected: Any, rule: Rule, value: Any, where: Where, dotted: str) -> Any:
    """`value` as the type `expected`, within the bounds of `rule`."""
    matched, result = _match(expected, value)
    if not matched or not _within(rule, result):
        raise _refusal(where, dotted, value, _too_large(value) or describe(expected, rule))
    if rule.registry and result not in registered(rule.registry):
        names = sorted(registered(rule.registry))
        raise _refusal(where, dotted, value, ", ".join(names) + nearest(str(result), names))
    if rule.path and isinstance(result, str):
        if not result:
            raise _refusal(where, dotted, value, "a path")
        return _absolute(result, where, dotted)
    return result


def _absolute(path: str, where: Where, dotted: str) -> str:
    try:
        return os.path.abspath(Path(path).expanduser())  # noqa: PTH100 - lexical: links stay as the user wrote them
    except (RuntimeError, OSError) as error:  # no such user's home; the working directory is gone
        raise ConfigError(f"{where(dotted)}: {dotted}: got {shown(path)}: {error}") from None


def _too_large(value: Any) -> str:
    """What is valid instead of a number that is beyond all bounds; empty for anything else."""
    if isinstance(value, int) and abs(value) > _LARGEST:
        return "a number below 2**63"
    return f"a number below {_LARGEST_FLOAT:g}" if isinstance(value, float) and value >= _LARGEST_FLOAT else ""


def _match(expected: Any, value: Any) -> tuple[bool, Any]:
    """Whether `value` is of type `expected`, and the value as that type."""
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if origin in (typing.Union, types.UnionType):
        return next((found for found in (_match(one, value) for one in arguments) if found[0]), (False, None))
    if origin is Literal:
        return any(value == one and type(value) is type(one) for one in arguments), value
    if origin in (tuple, list):
        return _match_sequence(origin, arguments, value)
    if origin is dict:
        return _match_mapping(arguments, value)
    if expected is types.NoneType:
        return value is None, None
    if expected is bool or isinstance(value, bool):
        return expected is bool and isinstance(value, bool), value
    if expected in (int, float) and isinstance(value, int) and not -_LARGEST <= value <= _LARGEST:
        return False, None
    if expected is float:
        usable = isinstance(value, int | float) and math.isfinite(value) and abs(value) < _LARGEST_FLOAT
        return usable, float(value) if usable else None
    if expected is str:  # `name: 2024` is text that looks like a number
        return isinstance(value, str | int | float), str(value)
    return isinstance(value, expected), value


def _match_sequence(origin: type, arguments: tuple[Any, ...], value: Any) -> tuple[bool, Any]:
    if not isinstance(value, list | tuple) or (origin is tuple and len(value) != len(arguments)):
        return False, None
    wanted = arguments if origin is tuple else arguments * len(value)
    found = [_match(one, item) for one, item in zip(wanted, value, strict=True)]
    return all(ok for ok, _ in found), origin(item for _, item in found)


def _match_mapping(arguments: tuple[Any, ...], value: Any) -> tuple[bool, Any]:
    if not isinstance(value, Mapping):
        return False, None
    found = [(_match(arguments[0], name), _match(arguments[1], item)) for name, item in value.items()]
    return all(k[0] and v[0] for k, v in found), {k[1]: v[1] for k, v in found}


def _within(rule: Rule, value: Any) -> bool:
    numbers = [value] if isinstance(value, int | float) and not isinstance(value, bool) else []
    if isinstance(value, tuple):
        numbers = [item for item in value if isinstance(item, int | float)]
    return all(
        (rule.at_least is None or number >= rule.at_least)
        and (rule.at_most is None or number <= rule.at_most)
        and (rule.above is None or number > rule.above)
        and (rule.below is None or number < rule.below)
        for number in numbers
    )


def describe(expected: Any, rule: Rule) -> str:
    """What is valid for a key, in words: 'an integer of at least 1'."""
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(one, rule) for one in arguments)
    if origin is Literal:
        return " or ".join(", ".join(map(str, arguments)).rsplit(", ", 1))
    if origin is tuple:
        return f"a list of {len(arguments)} numbers{_bounds(rule)}"
    if origin is list:
        return "a list of texts"
    if origin is dict:
        return "names with values"
    if expected is types.NoneType:
        return "null"
    words = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}
    return words[expected] + (_bounds(rule) if expected in (int, float) else "")


def _bounds(rule: Rule) -> str:
    parts = [
        f"{word} {bound:g}"
        for word, bound in (
            ("of at least", rule.at_least),
            ("above", rule.above),
            ("of at most", rule.at_most),
            ("below", rule.below),
        )
        if bound is not None
    ]
    return " " + " and ".join(parts) if parts else ""
