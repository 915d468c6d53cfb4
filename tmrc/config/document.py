"""docs/configuration.md, written from the schema: python -m tmrc.config.document > docs/configuration.md."""

from __future__ import annotations

import dataclasses
import sys
import typing
from typing import Any

from tmrc.config.build import describe
from tmrc.config.registry import registered
from tmrc.config.schema import Config, Rule

INTRODUCTION = """\
# Configuration

One YAML file describes a run. Every key has a default; a file gives those that differ. `configs/train/` has complete ones, which
can be named without their path: `tmrc-submit --local quickstart`.

- **Overrides** follow the file on the command line: `optimizer.lr=3e-4 'optimizer.betas=[0.9,0.95]'`. `~key` goes back to the default.
- **`defaults:`** lists, as in Hydra, merge other files into this one: `defaults: [default, _self_]` starts from the packaged
  `default`, and `defaults: [optimizer: fast, _self_]` from `optimizer/fast.yaml` beside the file, which `optimizer=slow` exchanges.
- **`${training.batch_size}`** is the value of another key, and `${oc.env:SCRATCH}` or `${oc.env:SCRATCH,/tmp}` an environment variable.
  Names that look like secrets (KEY, TOKEN, SECRET, PASSWORD, CREDENTIAL) are refused, since a run keeps its configuration.
- Relative paths are relative to the directory that the command is typed in; `~` is the home directory.
- YAML's anchors and merge keys are refused; `defaults:` and `${...}` do their work.
- Unknown keys, keys given twice, wrong types, values out of range and contradictions are one line with the file, the key, what was given and
  what is valid, and exit code 2. Nothing in a file can run code.

This page is written from `tmrc/config/schema.py` (`python -m tmrc.config.document`).
"""

NOTES = {
    "model": """\
- `flash` and `flex` together are refused. A mask other than `causal` needs `flex`. Neither is plain SDPA with an explicit mask.
- FlexAttention has no backward pass on a CPU: there the same mask runs through SDPA. See [model.md](model.md).
""",
    "training": """\
- `batch_size` is global: the number of processes never changes what is learnt. `micro_batch_size` divides each process's share
  of it, and gradients are accumulated over the rest. With dropout, set it, so that it does not follow the number of processes.
- `auto` for `micro_batch_size` takes the largest that stays within a fixed number of tokens a forward pass, and on GPUs tries before the
  first step whether it fits, on all of them. `exact_reduction` needs a number. See [elastic.md](elastic.md).
""",
}


def page() -> str:
    """The whole page."""
    sections = [_section(field.name) for field in dataclasses.fields(Config)]
    return "\n".join([INTRODUCTION, *sections])


def _section(name: str) -> str:
    cls = typing.get_type_hints(Config)[name]
    types = typing.get_type_hints(cls)
    default = cls()
    rows = [
        f"| `{field.name}` | {_show(getattr(default, field.name))} | {_valid(types[field.name], field.metadata['rule'])} "
        f"| {field.metadata['rule'].help} |"
        for field in dataclasses.fields(cls)
    ]
    head = f"## {name}\n\n{cls.__doc__}\n\n| key | default | valid | meaning |\n|---|---|---|---|\n"
    notes = f"\n{NOTES[name]}" if name in NOTES else ""
    return head + "\n".join(rows) + "\n" + notes


def _valid(expected: Any, rule: Rule) -> str:
    if rule.registry:
        return ", ".join(f"`{name}`" for name in sorted(registered(rule.registry)))
    return describe(expected, rule)


def _show(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value)


if __name__ == "__main__":
    sys.stdout.write(page())
