"""The settings of a run from their three sources: template < the configuration's `launch:` section < flags."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.templates import load_template
from launch.times import TIME
from tmrc.config.compose import compose
from tmrc.config.errors import ConfigError, shown
from tmrc.config.interpolate import texts_of
from tmrc.config.load import config_dict, find_config, load_config
from tmrc.config.schema import Config, LaunchConfig
from tmrc.config.secrets import looks_secret, secrets_in
from tmrc.config.waiting import waiting
from tmrc.config.yaml_file import parse_yaml, read_yaml_mapping

_LIST = r"[A-Za-z0-9_.,@-]+"
# What a setting may look like before it is written into a script. Quoting alone does not help there: a line break ends
# the #SBATCH comment, and the rest of the text would be run.
ALLOWED: dict[str, tuple[str, str]] = {
    "name": (r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "up to 64 letters, digits, . _ -"),
    "partition": (_LIST, "names of letters, digits, . _ - with commas between"),
    "account": (_LIST, "letters, digits, . _ @ -"),
    "qos": (_LIST, "letters, digits, . _ @ -"),
    "mem": (r"\d{1,12}[KMGTkmgt]?", "a number with K, M, G or T, such as 360G"),
    "time": (TIME, "minutes, h:m:s or days-h:m:s, such as 2-00:00:00"),
    "constraint": (r"[A-Za-z0-9_.,&|*()\[\]=-]+", "feature names joined by & | , * ( ) [ ]"),
    "exclude": (r"[A-Za-z0-9_.,\[\]-]+", "node names such as node[1-3],node7"),
    "python": (
        r"[A-Za-z0-9_./][A-Za-z0-9_./:@=+, -]*",  # a dash in front would make options of srun's of them
        "words of letters, digits and . _ / : @ = + , -, which no shell reads",
    ),
}  # fmt: skip
_SBATCH_VALUE = (r"[A-Za-z0-9_./:@=+,&|*()\[\] -]*", "letters, digits, spaces and . _ / : @ = + , & | * ( ) [ ] -")
MAX_LENGTH = 1000
_FOR_SBATCH = ("#SBATCH", "#PBS", "#BSUB")  # comments that are options to it
# sbatch parameters that have a key of their own, or that the launcher depends on (None)
OWN_KEY: dict[str, str | None] = {
    "job-name": "name", "partition": "partition", "account": "account", "qos": "qos", "nodes": "nodes",
    "gpus-per-node": "gpus_per_node", "cpus-per-task": "cpus_per_task", "mem": "mem", "time": "time",
    "constraint": "constraint", "exclude": "exclude", **dict.fromkeys((
        "output", "error", "open-mode", "requeue", "no-requeue", "signal", "ntasks", "ntasks-per-node", "array", "wrap",
        "export", "export-file", "parsable", "quiet", "test-only", "wait", "help", "usage", "version", "clusters",
        "no-kill", "get-user-env", "ntasks-per-gpu", "ntasks-per-core", "ntasks-per-socket",
    )),
}  # fmt: skip


def load_settings(source: str | Path, overrides: Sequence[str], flags: Mapping[str, Any]) -> Config:
    """The configuration `source` with template, overrides and flags (`launch` key -> value) merged in and checked.

    Raises ConfigError, one line that names where the value stands, the key, what was given and what is valid.
    """
    lower = _template_overrides(source, overrides, flags)
    config = load_config(source, [*lower, *overrides, *flag_overrides(flags)])
    check_launch(config.launch)
    check_secrets(config)
    return config


def load_points(
    source: str | Path, fixed: Sequence[str], points: Sequence[Sequence[str]], flags: Mapping[str, Any]
) -> list[Config]:
    """As `load_settings`, for each of the points of a sweep: `fixed` overrides for all, and its own for each.

    Raises ConfigError, which names the first point that is not valid when the configuration without it is.
    """
    lower, values = _template_overrides(source, fixed, flags), read_yaml_mapping(find_config(source))

    def load(own: Sequence[str]) -> Config:
        try:
            return load_config(source, [*lower, *fixed, *own, *flag_overrides(flags)], values)
        except ConfigError as error:
            raise ConfigError(f"point {' '.join(own)}: {error}") from None

    with waiting(f"{len(points):,} points to be read"):
        found = [load(own) for own in points]
    check_launch(found[0].launch)
    check_secrets(*found)
    return found


def _template_overrides(source: str | Path, overrides: Sequence[str], flags: Mapping[str, Any]) -> list[str]:
    """What the template says that nothing above it does."""
    section = _launch_section(source, overrides)
    given = {**section, **{name: value for name, value in flags.items() if value is not None}}
    given_names = {name for name, value in given.items() if value is not None}
    template: dict[str, Any] = {}
    if isinstance(given.get("template"), str):
        template = load_template(given["template"], find_config(source).parent)
    return [_override(name, value) for name, value in template.items() if name not in given_names]


def flag_overrides(flags: Mapping[str, Any]) -> list[str]:
    """The options that were given, as overrides of the `launch:` section."""
    return [_override(name, value) for name, value in flags.items() if value is not None]


def resume_overrides(overrides: Sequence[str], flags: Mapping[str, Any]) -> list[str]:
    """All that a resumed run shall change: a template that is named anew, what is written, and options over both."""
    given = {**_overridden(overrides), **{name: value for name, value in flags.items() if value is not None}}
    named = given.get("template")
    template = load_template(named, Path.cwd()) if isinstance(named, str) else {}
    lower = [_override(name, value) for name, value in template.items() if name not in given]
    return [*lower, *overrides, *flag_overrides(flags)]


def check_launch(launch: LaunchConfig) -> None:
    """Raise ConfigError for a setting that may not reach a script."""
    for name, (pattern, valid) in ALLOWED.items():
        value = getattr(launch, name)
        if value is not None:
            _check_text(f"launch.{name}", value, pattern, valid)
    for name, value in launch.sbatch.items():
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,63}", name):
            raise ConfigError(
                f"launch.sbatch: got the name {shown(name)}, valid: a long sbatch option such as mail-type"
            )
        if name in OWN_KEY:
            key = OWN_KEY[name]
            why = f"use launch.{key}" if key else "the launcher sets it"
            raise ConfigError(f"launch.sbatch.{name}: {why}")
        _check_text(f"launch.sbatch.{name}", value, *_SBATCH_VALUE)
    for line in launch.setup:
        if not line.isprintable() or line.lstrip().startswith(_FOR_SBATCH) or line.endswith("\\"):
            raise ConfigError(
                f"launch.setup: got {shown(line)}, valid: one whole shell command a line, and no #SBATCH line (nor "
                "#PBS or #BSUB, which sbatch reads too)"
            )


def check_secrets(*configs: Config) -> None:
    """Raise ConfigError for a text that holds a secret: the configuration is saved with the run, and so is the script.

    It is one of the environment's (a shell has filled in `$WANDB_API_KEY`), or looks like one.
    """
    secrets = secrets_in(os.environ)
    texts: dict[str, str] = {}  # each once, with where it stands first
    for config in configs:
        for dotted, text in texts_of(config_dict(config)):
            texts.setdefault(text, dotted)
    for text, dotted in texts.items():
        if looks_secret(text, secrets):
            raise ConfigError(
                f"{dotted}: holds what looks like a secret, and would be saved with the run; programs read it from the "
                "environment themselves, which jobs inherit"
            )


def check_script_path(key: str, path: Path) -> None:
    """Raise ConfigError for a path that cannot stand in a batch script (Slurm gives `%` a meaning of its own)."""
    if not re.fullmatch(r"[\w./:@=+, -]{1,4096}", str(path)):  # letters of any script
        raise ConfigError(f"{key}: got {shown(str(path))}, valid: letters, digits, spaces and . _ / : @ = + , -")


def _check_text(key: str, value: str, pattern: str, valid: str) -> None:
    if len(value) > MAX_LENGTH or not re.fullmatch(pattern, value, re.ASCII):
        raise ConfigError(f"{key}: got {shown(value)}, valid: {valid}")


def _launch_section(source: str | Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The `launch:` keys that the file itself and the overrides give, before defaults are filled in."""
    file = find_config(source)
    values = read_yaml_mapping(file)
    if "defaults" in values:
        groups = [text for text in overrides if "." not in text.partition("=")[0]]
        values = compose(file, values, groups)
    section = values.get("launch")
    return {**(section if isinstance(section, dict) else {}), **_overridden(overrides)}


def _overridden(overrides: Sequence[str]) -> dict[str, Any]:
    """The `launch:` keys that the overrides give."""
    matches = (re.match(r"\+{0,2}launch\.(\w+)=(.*)", text, re.DOTALL) for text in overrides)
    return {match[1]: parse_yaml(match[2], f"command line: launch.{match[1]}") for match in matches if match}


def _override(name: str, value: Any) -> str:
    """An override in YAML's own quoting, so that no text can mean something else."""
    return f"launch.{name}={json.dumps(value, ensure_ascii=False)}"
