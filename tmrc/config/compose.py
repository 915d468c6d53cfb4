"""`defaults:` lists, composed by Hydra."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tmrc.config.errors import ConfigError
from tmrc.config.yaml_file import read_yaml_mapping


def compose(file: Path, values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The plain values of `file` with its `defaults:` merged in; `overrides` choose config groups, as in Hydra.

    Files named in the list are looked for beside `file` first, then among the packaged configurations. Values come
    back with `${...}` unresolved. Raises ConfigError.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    folder = file.resolve().parent
    _refuse_repeated_keys(folder)
    section = values.get("HydraConf")
    version_base = section.get("version_base", "1.1") if isinstance(section, dict) else "1.1"
    packaged = Path(__file__).parents[1] / "configs" / "train"
    checkout = Path(__file__).parents[2] / "configs" / "train"
    search = f"hydra.searchpath=[file://{packaged if packaged.is_dir() else checkout}]"
    try:
        with warnings.catch_warnings(), initialize_config_dir(str(folder), version_base=version_base):
            warnings.simplefilter("ignore")
            composed = hydra_compose(file.stem, overrides=[search, *overrides])
        plain = OmegaConf.to_container(composed, resolve=False)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"{file}: defaults: {error}") from None
    assert isinstance(plain, dict)
    return {str(name): value for name, value in plain.items()}


def _refuse_repeated_keys(folder: Path) -> None:
    """Read each neighbour once with our own loader: it names a key that stands twice, where Hydra's error is long."""
    for neighbour in sorted(folder.glob("*.yaml")):
        read_yaml_mapping(neighbour)
