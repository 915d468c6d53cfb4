"""Adaptive search through Hydra: `python -m launch.sweep CONFIG --multirun hydra/sweeper=optuna KEY=interval(...)`.

Hydra's sweeper proposes points, our launchers (launch.hydra_launcher) run them as `tmrc-submit -m` does, and the
sweeper gets their validation losses back. Everything but CONFIG is Hydra's own command line.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from launch.grid import NAMED, is_sweep, key_of, read_named
from launch.trust import keep_others_out
from tmrc.config.errors import UserError
from tmrc.config.load import config_dict, find_config, load_config
from tmrc.config.schema import Config

TRAINER = "tmrc.train"
USAGE = "usage: python -m launch.sweep CONFIG --multirun [hydra/launcher=tmrc_slurm|tmrc_local] [KEY=VALUES]..."
_MULTIRUN = ("--multirun", "-m")
_SHOW_ONLY = ("--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i")
_TAKES_VALUE = ("--cfg", "-c", "--info", "-i", "--package", "-p", "--config-dir", "-cd")
_PARAMS = "hydra.sweeper.params."  # keys behind this are swept, as those with several values are


def main(arguments: Sequence[str], trainer: str = TRAINER) -> None:
    """Run Hydra on the arguments of a command line. Raises UserError; for the rest it exits as Hydra does."""
    if not arguments or arguments[0] in ("--help", "-h"):
        print(f"{USAGE}\nwith CONFIG and --help, Hydra's own options are shown")
        return
    source, rest = split_config(arguments)
    if not any(text in (*_MULTIRUN, *_SHOW_ONLY) for text in rest):
        raise UserError(f"--multirun is missing (tmrc-submit starts single runs); {USAGE}")
    beside = find_config(source).parent
    rest = [part for text in rest for part in _unfolded(text, beside)]
    swept = {key_of(text) for text in rest if _is_ours(text) and is_sweep(text)}
    swept |= {key_of(text).removeprefix(_PARAMS) for text in rest if key_of(text).startswith(_PARAMS)}
    _register(load_config(source), source, sorted(swept), trainer)
    overrides = [text for text in rest if _is_override(text)]  # all in one place, as Hydra wants them
    sys.argv = ["launch.sweep", *(text for text in rest if not _is_override(text)), *overrides]
    import hydra

    hydra.main(version_base="1.3", config_path=None, config_name="tmrc")(_never)()


def split_config(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """CONFIG, which is the first argument that is neither an option nor an override, and all others."""
    rest = list(arguments)
    for place, text in enumerate(rest):
        follows = place > 0 and rest[place - 1] in _TAKES_VALUE
        if not text.startswith(("-", "~", "+")) and "=" not in text and not follows:
            del rest[place]
            return text, rest
    raise UserError(f"CONFIG is missing; {USAGE}")


def _unfolded(text: str, beside: Path) -> Sequence[str]:
    """An argument, or what the file of a named sweep holds."""
    return read_named(text.removeprefix(NAMED), beside).overrides if text.startswith(NAMED) else [text]


def _is_override(text: str) -> bool:
    return text.startswith("~") or ("=" in text and not text.startswith("-"))


def _is_ours(text: str) -> bool:
    """Whether an argument sets a key of a configuration, rather than one of Hydra's."""
    return _is_override(text) and not key_of(text).startswith(("hydra.", "hydra/"))


def _register(config: Config, source: str, swept: list[str], trainer: str) -> None:
    """Tell Hydra of the configuration and of our launchers."""
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    from launch import hydra_launcher

    # Hydra takes plugins from one package alone. Put there at run time, ours burden no other program that uses Hydra.
    sys.modules[hydra_launcher.PLUGIN] = hydra_launcher
    for launcher in (hydra_launcher.SlurmPoints, hydra_launcher.LocalPoints):
        launcher.__module__ = hydra_launcher.PLUGIN
        Plugins.instance().register(launcher)
    store = ConfigStore.instance()
    for name, conf in (("tmrc_slurm", hydra_launcher.SlurmConf), ("tmrc_local", hydra_launcher.LocalConf)):
        store.store(group="hydra/launcher", name=name, node=conf(source, swept, trainer), provider="tmrc")
    folder = str(Path(config.training.artifacts_path) / "searches" / "${now:%Y%m%d-%H%M%S}")
    hydra = {"sweep": {"dir": folder}, "run": {"dir": folder}, "output_subdir": None}
    defaults = [{"override hydra/launcher": "tmrc_slurm"}, "_self_"]
    store.store(name="tmrc", node={"defaults": defaults, "hydra": hydra, **config_dict(config)}, provider="tmrc")


def _never(config: object) -> NoReturn:
    """What Hydra calls only with a launcher that is not ours."""
    from hydra.errors import CompactHydraException

    raise CompactHydraException("error: hydra/launcher: valid: tmrc_slurm, tmrc_local")


def run(arguments: Sequence[str], trainer: str = TRAINER) -> None:
    """The same, but a mistake of the user's is one line and its exit code."""
    keep_others_out()
    try:
        main(arguments, trainer)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    run(sys.argv[1:])
