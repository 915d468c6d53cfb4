"""`${...}` in configurations: other keys, and environment variables that hold no secret."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from tmrc.config.build import Where
from tmrc.config.errors import ConfigError, shown
from tmrc.config.growth import refuse_growth
from tmrc.config.secrets import NAME

_RESOLVER = re.compile(r"\$\{\s*([^}{:$]*?)\s*:")
_ENVIRONMENT = re.compile(r"\$\{\s*oc\.env\s*:\s*([A-Za-z_][A-Za-z0-9_]*)\s*(?:,[^{}$]*)?\}")
_NESTED = re.compile(r"\$\{[^}]*\$\{")
_DEFAULTS = re.compile(r"\$\{\s*oc\.env\s*:\s*(\w+)\s*(,?)")
MOST = 200  # of `${...}` in one configuration


def has_interpolation(values: Any) -> bool:
    """Whether any text in `values` holds `${`."""
    return any("${" in text for _, text in texts_of(values))


def resolve(values: dict[str, Any], where: Where) -> dict[str, Any]:
    """`values` with every `${...}` replaced. Raises ConfigError for unknown keys, secrets and other resolvers."""
    check_interpolations(values, where)
    refuse_growth(values, where)
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        resolved = OmegaConf.to_container(OmegaConf.create(values), resolve=True)
    except OmegaConfBaseException as error:
        dotted = getattr(error, "full_key", None) or "a value"
        raise ConfigError(
            f"{where(dotted)}: {dotted}: {(str(error).splitlines() or ['cannot be resolved'])[0]}"
        ) from None
    except RecursionError:
        raise ConfigError(f"{where('a value')}: ${{...}} lead from one to the next without an end") from None
    assert isinstance(resolved, dict)
    return {str(name): value for name, value in resolved.items()}


def check_interpolations(values: dict[str, Any], where: Where) -> None:
    """Raise ConfigError for the first `${...}` that may not be resolved, and for too many of them."""
    found = 0
    for dotted, text in texts_of(values):
        found += text.count("${")
        if found > MOST:
            raise ConfigError(f"{where(dotted)}: {dotted}: more than {MOST} of ${{...}} in one configuration")
        _check(dotted, text, where)


def _check(dotted: str, text: str, where: Where) -> None:
    """Only `${key}` and `${oc.env:NAME}` with a literal name pass, so that what is read can be judged here."""
    if _NESTED.search(text):
        raise ConfigError(f"{where(dotted)}: {dotted}: got {shown(text)}, valid: no ${{...}} within another")
    names = _ENVIRONMENT.findall(text)
    if len(_RESOLVER.findall(text)) != len(names):
        raise ConfigError(
            f"{where(dotted)}: {dotted}: got {shown(text)}, valid: ${{key}} and ${{oc.env:NAME}} or with a default"
        )
    for name in names:
        if NAME.search(name):
            raise ConfigError(
                f"{where(dotted)}: {dotted}: {shown(name)} looks like a secret and would be saved with the run; "
                "programs read it from the environment themselves"
            )
    for name, default in _DEFAULTS.findall(text):
        if not default and name not in os.environ:
            raise ConfigError(
                f"{where(dotted)}: {dotted}: the environment variable {name} is not set "
                f"(${{oc.env:{name},x}} would then be x)"
            )


def texts_of(values: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, text) of every text in `values`, keys among them."""
    if isinstance(values, str):
        yield prefix, values
    pairs = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for name, child in pairs:
        dotted = f"{prefix}.{name}" if prefix else str(name)
        if isinstance(name, str):
            yield dotted, name
        yield from texts_of(child, dotted)
