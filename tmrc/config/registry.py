"""Named implementations (activations, masks, models, optimizers, schedules), known by name without importing torch.

An implementation registers itself with a decorator in its own file:

    @ACTIVATIONS.register("relu")
    def relu(x): ...

The submit command must refuse an unknown name without loading torch, so the names are read from the decorator lines of
the package's source; the module is imported only when the implementation is asked for.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from tmrc.config.errors import ConfigError, nearest, shown

T = TypeVar("T")

# kind -> (package whose files are searched, the registry's variable name, the config key that names it)
KINDS: dict[str, tuple[str, str, str]] = {
    "activation": ("model", "ACTIVATIONS", "model.activation"),
    "mask": ("model", "MASKS", "model.mask"),
    "model": ("model", "MODELS", "model.name"),
    "optimizer": ("train", "OPTIMIZERS", "optimizer.name"),
    "scheduler": ("train", "SCHEDULES", "training.scheduler"),
}


@functools.cache
def registered(kind: str) -> dict[str, str]:
    """Name -> module of every implementation of `kind`, read from the source without importing it."""
    package, variable, _ = KINDS[kind]
    decorator = re.compile(rf'^@{variable}\.register\("([^"]+)"\)', re.MULTILINE)
    found: dict[str, str] = {}
    for file in sorted((Path(__file__).parents[1] / package).glob("*.py")):
        for name in decorator.findall(file.read_text("utf8")):
            found[name] = f"tmrc.{package}.{file.stem}"
    return found


class Registry(Generic[T]):
    """The implementations of one kind."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._found: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that makes `name` mean the decorated object. Raises ValueError when the name is taken."""

        def add(implementation: T) -> T:
            if name in self._found:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._found[name] = implementation
            return implementation

        return add

    def get(self, name: str) -> T:
        """The implementation called `name`. Raises ConfigError that lists the valid names."""
        if name not in self._found:
            modules = registered(self.kind)
            if name not in modules:
                key = KINDS[self.kind][2]
                valid = sorted(modules)
                raise ConfigError(f"{key}: got {shown(name)}, valid: {', '.join(valid)}{nearest(name, valid)}")
            importlib.import_module(modules[name])
        return self._found[name]
