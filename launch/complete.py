"""What may stand where the cursor is: run ids, paths, configuration keys and their values, for the shells' completion.

It is asked for at every press of the TAB key: no Slurm, no metrics, no slow import. Names that a terminal could not
show as they are (control characters, bytes that are no text) are left out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import time
import typing
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import click
    from click.shell_completion import CompletionItem

    from tmrc.config.schema import Rule

PATIENCE = 0.1  # seconds in which run directories are looked at; names that come after are offered unseen
YAML = (".yaml", ".yml")


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A word that may be meant, and what to say of it."""

    value: str
    help: str = ""


def runs(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Run ids, the newest first, also of runs in sweeps; then directories."""
    return _items(context, parameter, [*_ids(incomplete, sweeps=False), *paths(incomplete)])


def runs_and_sweeps(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Run ids and sweep ids, the newest first, then directories. A sweep's runs come once its id is typed."""
    return _items(context, parameter, [*_ids(incomplete, sweeps=True), *paths(incomplete)])


def directories(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Directories only."""
    return _items(context, parameter, paths(incomplete))


def files(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Files of every kind, and directories."""
    return _items(context, parameter, paths(incomplete, ("",)))


def templates(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Names of site templates, then YAML files."""
    return _items(context, parameter, [*_templates(incomplete), *paths(incomplete, YAML)])


def config_and_overrides(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """CONFIG where it is not given yet, else KEY=VALUE; of a run that is resumed, what can change in it."""
    given = [text for text in context.params.get("arguments") or () if text]
    resumed = bool(context.params.get("resume"))
    found: list[Candidate] = []
    if "=" not in incomplete and not resumed and all("=" in text for text in given):
        found += [*_packaged(incomplete), *paths(incomplete, YAML)]
    if context.params.get("multirun"):
        found += _sweeps(incomplete)
    if "=" in incomplete:
        found += _values(incomplete)
    elif found == [] or incomplete:
        found += _keys(incomplete, resumed, bool(context.params.get("allow_change")))
    return _items(context, None, found)


def _items(
    context: click.Context, parameter: click.Parameter | None, found: Iterable[Candidate]
) -> list[CompletionItem[str]]:
    """Each once, without those that are on the command line already."""
    from click.shell_completion import CompletionItem

    given = context.params.get(parameter.name or "") if parameter is not None else None
    there = set(given) if isinstance(given, tuple) else set()
    shown = {one.value: one for one in reversed(list(found)) if one.value.isprintable() and one.value not in there}
    return [CompletionItem(one.value, help=one.help or None) for one in reversed(shown.values())]


def _ids(incomplete: str, sweeps: bool) -> list[Candidate]:
    """Ids that begin with `incomplete`, of what is in `artifacts` and the working directory, the newest first."""
    from launch.find import ARTIFACTS

    if "/" in incomplete:
        return []
    until = time.monotonic() + PATIENCE
    found = [one for root in (str(ARTIFACTS), ".") for one in _below(root, incomplete, sweeps, until)]
    now = time.time()
    ordered = sorted(found, key=lambda one: (-one[2], one[0]))
    return [Candidate(name, _about(what, when, now)) for name, what, when in ordered]


_Found = tuple[str, str, float]  # id, what it is, unix time when it was made; 0 where that was not looked at


def _below(root: str, incomplete: str, sweeps: bool, until: float) -> Iterator[_Found]:
    """What in the directory `root` is a run or a sweep."""
    for entry in _entries(root):
        name = entry.name
        if name.startswith(".") or not (name.startswith(incomplete) or incomplete.startswith(name)):
            continue
        if time.monotonic() > until:
            yield from [(name, "", 0.0)] if name.startswith(incomplete) else []
            continue
        when = _made(f"{entry.path}/run.json") or _made(f"{entry.path}/events.jsonl")
        if when and name.startswith(incomplete):
            yield name, "", when
        elif not when and (when := _made(f"{entry.path}/sweep.json")):
            yield from [(name, "sweep, ", when)] if sweeps and name.startswith(incomplete) else []
            if not sweeps or incomplete.startswith(name):
                yield from _points(entry.path, incomplete, until)


def _points(sweep: str, incomplete: str, until: float) -> Iterator[_Found]:
    for entry in _entries(sweep):
        if not entry.name.startswith(incomplete) or entry.name.startswith("."):
            continue
        when = _made(f"{entry.path}/run.json") if time.monotonic() < until else 0.0
        if when is not None:
            yield entry.name, "", when


def _made(file: str) -> float | None:
    """When a file was written; None where there is none."""
    with contextlib.suppress(OSError, ValueError):
        return os.stat(file).st_mtime  # noqa: PTH116  thousands of runs: Path objects cost more than the look
    return None


def _about(what: str, when: float, now: float) -> str:
    from launch.progress import duration

    return f"{what}{duration(max(0.0, now - when))} old" if when else ""


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """The directories in `folder`, links to them as well."""
    return [entry for entry in _scanned(folder) if _is_folder(entry)]


def _scanned(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except (OSError, ValueError):
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def paths(incomplete: str, endings: tuple[str, ...] = ()) -> list[Candidate]:
    """Directories, and the files whose names end so. `~` is written out, so that no shell quotes it."""
    if incomplete == "~":
        return []
    typed = os.path.expanduser(incomplete)  # noqa: PTH111  Path would drop the last slash
    head, slash, begin = typed.rpartition("/")
    found = []
    for entry in _scanned(head + slash or "."):
        if not entry.name.startswith(begin) or (entry.name.startswith(".") and not begin.startswith(".")):
            continue
        if _is_folder(entry):
            found.append(Candidate(f"{head}{slash}{entry.name}/"))
        elif endings and entry.name.endswith(endings):
            found.append(Candidate(head + slash + entry.name))
    return found


def _packaged(incomplete: str) -> list[Candidate]:
    from tmrc.config.compose import packaged_folder

    names = sorted(entry.name for entry in _scanned(str(packaged_folder())))
    found = [name.removesuffix(".yaml") for name in names if name.endswith(".yaml")]
    return [Candidate(name, "comes with tmrc") for name in found if name.startswith(incomplete)]


def _templates(incomplete: str) -> list[Candidate]:
    from pathlib import Path  # --help, too, imports this module, and this takes a tenth of its time

    from launch.templates import template_folders

    mine, ours = template_folders(Path())[1:]
    found = []
    for folder, about in ((mine, "your own"), (ours, "comes with tmrc")):
        names = [entry.name for entry in _scanned(str(folder)) if entry.name.endswith(".yaml")]
        found += [Candidate(name.removesuffix(".yaml"), about) for name in names if name.startswith(incomplete)]
    return found


def _keys(incomplete: str, resumed: bool, allow_change: bool) -> list[Candidate]:
    """`optimizer.` for "opt", `optimizer.lr=` for "optimizer.l"."""
    sign, typed = _split_sign(incomplete)
    section, dot, _ = typed.partition(".")
    sections = _sections()
    if not dot:
        found = [Candidate(f"{one}.", (kind.__doc__ or "").split("\n")[0]) for one, kind in sections.items()]
    else:
        fields = dataclasses.fields(sections[section]) if section in sections else ()
        found = [Candidate(f"{section}.{one.name}=", one.metadata["rule"].help) for one in fields]
    if resumed:
        found = [one for one in found if _may_change(one.value.rstrip("="), allow_change)]
    return [Candidate(sign + one.value, one.help) for one in found if one.value.startswith(typed)]


def _may_change(dotted: str, allow_change: bool) -> bool:
    """Whether a key, or one of a section's, can change when a run is resumed."""
    from tmrc.config.changes import COURSE, FREE

    names = (*FREE, *COURSE) if allow_change else FREE
    return any(one.startswith(dotted) or (one.endswith(".") and dotted.startswith(one)) for one in names)


def _sweeps(incomplete: str) -> list[Candidate]:
    """`sweep=` and the names of the sweeps that come with tmrc."""
    from launch.grid import NAMED, packaged_sweeps

    if not incomplete.startswith(NAMED):
        return (
            [Candidate(NAMED, "a file of keys and their values")] if incomplete and NAMED.startswith(incomplete) else []
        )
    names = [f"{NAMED}{name}" for name in packaged_sweeps()]
    paths_below = [f"{NAMED}{one.value}" for one in paths(incomplete.removeprefix(NAMED), YAML)]
    return [Candidate(value) for value in [*names, *paths_below] if value.startswith(incomplete)]


def _values(incomplete: str) -> list[Candidate]:
    """`model.mask=causal` for "model.mask=c", and the next of a list for "model.mask=causal,c"."""
    written, _, value = incomplete.partition("=")
    section, _, name = _split_sign(written)[1].partition(".")
    kind = _sections().get(section)
    rules = {field.name: field.metadata["rule"] for field in dataclasses.fields(kind)} if kind else {}
    if kind is None or name not in rules:
        return []
    if rules[name].path:
        return [Candidate(f"{written}={one.value}") for one in paths(value)]
    before, comma, begin = value.rpartition(",")
    valid = _closed_set(f"{section}.{name}", typing.get_type_hints(kind)[name], rules[name])
    return [Candidate(f"{written}={before}{comma}{one}") for one in valid if one.startswith(begin)]


def _closed_set(dotted: str, expected: Any, rule: Rule) -> Sequence[str]:
    """The values that a key can have, where they can be counted."""
    if rule.registry:
        from tmrc.config.registry import registered

        return sorted(registered(rule.registry))
    if dotted == "launch.template":
        return [one.value for one in _templates("")]
    return list(_words(expected))


def _words(expected: Any) -> Iterator[str]:
    if expected is bool:
        yield from ("true", "false")
    elif expected is type(None):
        yield "null"
    elif typing.get_origin(expected) is Literal:
        yield from map(str, typing.get_args(expected))
    elif not dataclasses.is_dataclass(expected) and typing.get_origin(expected) not in (tuple, list, dict):
        for one in typing.get_args(expected):
            yield from _words(one)


def _sections() -> dict[str, type[Any]]:
    from tmrc.config.schema import Config

    return typing.get_type_hints(Config)


def _split_sign(text: str) -> tuple[str, str]:
    """An override may begin with + or ++."""
    sign = re.match(r"\+{0,2}", text)
    assert sign is not None
    return sign[0], text[sign.end() :]
