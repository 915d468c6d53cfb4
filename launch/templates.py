"""Site templates: YAML files with the names of the `launch:` section, for what a site or partition always needs."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from tmrc.config.build import build
from tmrc.config.errors import ConfigError, nearest, shown
from tmrc.config.paths import expanded
from tmrc.config.schema import LaunchConfig
from tmrc.config.yaml_file import read_yaml_mapping


def load_template(name: str, beside: Path) -> dict[str, Any]:
    """The settings in template `name`, checked. Raises ConfigError: file, key, what was given and what is valid."""
    file = find_template(name, beside)
    values = read_yaml_mapping(file)
    if "template" in values:
        raise ConfigError(f"{file}: template: a template cannot name another one")
    settings = build(LaunchConfig, values, lambda dotted: str(file))
    return {key: getattr(settings, key) for key in values}


def find_template(name: str, beside: Path) -> Path:
    """The file of a template given as a path, or as a name looked up in `template_folders`. Raises ConfigError."""
    if "/" in name or name.endswith((".yaml", ".yml")):
        files = [expanded(name), beside / name]
        found = next((file for file in files if _is_file(file)), None)
        if found is None:
            raise ConfigError(f"launch.template: {shown(name)}: no such file")
        return found
    names: dict[str, Path] = {}
    for folder in template_folders(beside):
        for file in sorted(folder.glob("*.yaml")) if folder.is_dir() else ():
            names.setdefault(file.stem, file)
    if name not in names or not re.fullmatch(r"[\w.-]+", name):
        ours = {file.stem for folder in template_folders(beside)[1:] for file in folder.glob("*.yaml")}
        raise ConfigError(
            f"launch.template: got {shown(name)}, valid: a file or {', '.join(sorted(ours))}{nearest(name, names)}"
        )
    return names[name]


def template_folders(beside: Path) -> list[Path]:
    """Where templates are looked for, nearest first: beside the configuration, the user's own, tmrc's."""
    settings = expanded(os.environ.get("XDG_CONFIG_HOME") or "~/.config")
    package = Path(__file__).parent / "slurm_templates"  # in an installed package
    checkout = Path(__file__).parents[1] / "slurm_templates"
    return [beside, settings / "tmrc" / "templates", package if package.is_dir() else checkout]


def _is_file(file: Path) -> bool:
    try:
        return file.is_file()
    except (OSError, ValueError):
        return False
