"""`defaults:` lists, composed by Hydra."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tmrc.config.errors import ConfigError, nearest
from tmrc.config.interpolate import check_interpolations
from tmrc.config.yaml_file import read_yaml_mapping


def packaged_folder() -> Path:
    """Where the configurations are that come with tmrc: in the installed package, or at the top of a checkout."""
    package, checkout = (Path(__file__).parents[depth] / "configs" / "train" for depth in (1, 2))
    return package if package.is_dir() else checkout


def check_defaults(file: Path, values: dict[str, Any]) -> None:
    """Raise ConfigError for a `defaults:` list or a `hydra:` section that would have Hydra do more than merge files.

    Its search path can name a Python package, which it imports; what it shows of a missing file, it has resolved.
    """
    names = [name for item in _items(values.get("defaults")) for name in item]
    if "hydra" in values or any(re.match(r"(override\s+)?/?hydra(/|@|:|$)", name) for name in names):
        raise ConfigError(f"{file}: hydra: Hydra's own settings are for the command line of python -m launch.sweep")
    check_interpolations({"defaults": values.get("defaults")}, lambda _: str(file))


def _items(defaults: Any) -> Iterator[list[str]]:
    """The names in each item of a `defaults:` list."""
    for item in defaults if isinstance(defaults, list) else ():
        yield [str(name) for name in item] if isinstance(item, dict) else [str(item)]


@contextlib.contextmanager
def our_reader() -> Iterator[None]:
    """Hydra reads files through `read_yaml_mapping` within: no aliases, no endless nesting, no devices."""
    from hydra._internal.core_plugins.file_config_source import FileConfigSource
    from hydra._internal.sources_registry import SourcesRegistry
    from hydra.plugins.config_source import ConfigResult, ConfigSource
    from omegaconf import OmegaConf

    class Source(FileConfigSource):
        def load_config(self, config_path: str) -> Any:
            file = Path(self.path, self._normalize_file_name(config_path))
            values = read_yaml_mapping(file)
            check_defaults(file, values)
            with file.open(encoding="utf8") as stream:
                header = ConfigSource._get_header_dict(stream.read(512))
            where = f"file://{self.path}"
            return ConfigResult(provider=self.provider, path=where, config=OmegaConf.create(values), header=header)

    types = SourcesRegistry.instance().types
    before = types["file"]
    types["file"] = Source
    try:
        yield
    finally:
        types["file"] = before


def compose(file: Path, values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The plain values of `file` with its `defaults:` merged in; `overrides` choose config groups, as in Hydra.

    Files named in the list are looked for beside `file` first, then among the packaged configurations. Values come
    back with `${...}` unresolved. Each file is read and checked by us, not by Hydra. Raises ConfigError.
    """
    check_defaults(file, values)
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
            with initialize_config_dir(str(folder), version_base=version_base), our_reader():
                composed = hydra_compose(file.stem, overrides=[search, *overrides])
        plain = OmegaConf.to_container(composed, resolve=False)
    except ConfigError:
        raise
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
