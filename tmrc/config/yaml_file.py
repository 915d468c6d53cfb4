"""YAML as configurations need it: safe, `1e-8` a number, `1:30:00` a time and not 5,400, no key twice."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from tmrc.config.errors import ConfigError, shown

MAX_FILE_BYTES = 1_000_000
MAX_STRING = 10_000
MAX_DEPTH = 50  # lists and mappings in one another; what reads a value after us calls itself for each

_INT = re.compile(r"^[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0o?[0-7_]+)$")
_FLOAT = re.compile(
    r"^([-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?"
    r"|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
)
# Of these, the numbers that Python reads as YAML does
_PLAIN_NUMBER = re.compile(
    r"-?(0|[1-9][0-9]{0,17}|[0-9]{1,17}\.[0-9]{0,17}([eE][-+]?[0-9]{1,3})?|[0-9]{1,17}[eE][-+]?[0-9]{1,3})\Z"
)


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's numbers.

    Refuses a key that stands twice, any tag that would build an object, aliases, and values that are nested too deep.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.events.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases are not used here; ${key} repeats a value", mark)
        if self.depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, f"nested deeper than {MAX_DEPTH}", mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            name = self.construct_object(key_node, deep=True)
            if not isinstance(name, str | int | float | bool | None):
                raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", key_node.start_mark)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {name!r} stands twice", key_node.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


_NUMBER_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NUMBER_TAGS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]  # five times as fast in C
    """Quotes every text that this loader or a plain YAML 1.1 one would take for a number."""


for _tag, _pattern in ((_NUMBER_TAGS[0], _INT), (_NUMBER_TAGS[1], _FLOAT)):
    _Dumper.add_implicit_resolver(_tag, _pattern, list("-+.0123456789"))


def dump_yaml(values: dict[str, Any]) -> str:
    """`values` as YAML text that `parse_yaml` reads back equal."""
    text: str = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def parse_yaml(text: str, where: str) -> Any:
    """The plain Python value of `text`. Raises ConfigError, which begins with `where` and names the line."""
    if _PLAIN_NUMBER.match(text):  # most overrides, a hundred times as fast
        return int(text) if text.lstrip("-").isdecimal() else float(text)
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f" line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{where}:{line} {error.problem}") from None
    except Exception as error:  # tags such as `!!bool foo` fail within the library in many ways
        raise ConfigError(f"{where}: not valid YAML: {shown(str(error))}") from None
    _refuse_long(value, where)
    return value


def check_nesting(text: str, aliases: bool = True) -> None:
    """Raise YAMLError for what PyYAML's loader in C would die of or never finish.

    It calls itself for each list in a list and overruns the stack of the process, and it copies what `<<` merges, which
    a few lines can multiply without bounds. The events that are looked at here come one after the other. Without
    `aliases` none may be there: what goes through all values would go through theirs again and again.
    """
    depth = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        line = event.start_mark.line + 1 if event.start_mark else 0
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise yaml.YAMLError(f"line {line}: nested deeper than {MAX_DEPTH}")
        if isinstance(event, yaml.AliasEvent) and not aliases:
            raise yaml.YAMLError(f"line {line}: aliases are not used here")
        if isinstance(event, yaml.ScalarEvent) and event.value == "<<":
            raise yaml.YAMLError(f"line {line}: `<<` is not used here")


def read_yaml_mapping(file: Path) -> dict[str, Any]:
    """The mapping in `file`. Raises ConfigError when it cannot be read, is no YAML or no mapping."""
    try:
        if file.exists() and not file.is_file():  # a pipe would be waited for, a device has no end
            raise ConfigError(f"{file}: is not a file")
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{file}: larger than {MAX_FILE_BYTES:,} bytes; not a configuration")
        text = file.read_text("utf8")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: not UTF-8 text") from None
    value = parse_yaml(text, str(file))
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{file}: holds {shown(value)}, valid: sections such as `model:` with keys below them")
    return value


def _refuse_long(value: Any, where: str) -> None:
    if isinstance(value, str) and len(value) > MAX_STRING:
        raise ConfigError(f"{where}: a text of {len(value):,} characters ({shown(value, 30)}), valid: {MAX_STRING:,}")
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in children:
        _refuse_long(name, where)
        _refuse_long(child, where)
