"""`defaults:` lists, composed by Hydra."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tmrc.config.errors import ConfigError, nearest


def packaged_folder() -> Path:
    """Where the configurations are that come with tmrc: in the installed package, or at the top of a checkout."""
    package, checkout = (Path(__file__).parents[depth] / "configs" / "train" for depth in (1, 2))
    return package if package.is_dir() else checkout


def compose(file: Path, values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The plain values of `file` with its `defaults:` merged in; `overrides` choose config groups, as in Hydra.

    Files named in the list are looked for beside `file` first, then among the packaged configurations. Values come
    back with `${...}` unresolved. Raises ConfigError.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import MissingConfigException
    from omegaconf import OmegaConf

    folder = file.resolve().parent
    section = values.get("HydraConf")
    version_base = section.get("version_base", "1.1") if isinstance(section, dict) else "1.1"
    quoted = str(packaged_folder()).replace("\\", "\\\\").replace("'", "\\'")
    search = f"hydra.searchpath=['file://{quoted}']"
    outer = GlobalHydra.instance().hydra  # of a search by Hydra, within which a point is composed
    GlobalHydra.instance().clear()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a later Hydra will do
            with initialize_config_dir(str(folder), version_base=version_base):
                composed = hydra_compose(file.stem, overrides=[search, *overrides])
        plain = OmegaConf.to_container(composed, resolve=False)
    except MissingConfigException as error:
        missing = (error.missing_cfg_file or "").removesuffix(".yaml")
        names = [path.stem for path in (*sorted(folder.glob("*.yaml")), *sorted(packaged_folder().glob("*.yaml")))]
        packaged = ", ".join(path.stem for path in sorted(packaged_folder().glob("*.yaml")))
        hint = nearest(missing, names)
        raise ConfigError(f"{file}: defaults: no {missing!r} beside it{hint}; packaged: {packaged}") from None
    except Exception as error:  # Hydra fails in many ways on a list that is none, or that names itself
        raise ConfigError(f"{file}: defaults: {' '.join(str(error).split())[:300]}") from None
    finally:
        GlobalHydra.instance().hydra = outer
    assert isinstance(plain, dict)
    return {str(name): value for name, value in plain.items()}
