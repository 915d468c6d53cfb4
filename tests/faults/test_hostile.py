"""Hostile texts in every option, environment variable and configuration key: nothing runs, and there is one line.

The options are those of the commands, the keys those of the schema and the variables those that the sources read, so
that a new one is tried without anybody thinking of it.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
import subprocess
import typing
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from launch.gpus import slurm_resources
from launch.script import batch_script
from launch.settings import ALLOWED, check_launch, load_settings
from tests.faults.calls import CANARY, MORE, QUICK, ROOT, call, commands
from tests.launch.fake_queue import HandMade
from tests.launch.helpers import write_config
from tmrc.config.errors import ConfigError, UserError
from tmrc.config.load import load_config
from tmrc.config.rundir import RunDir
from tmrc.config.schema import Config

SOME = {"sources": "toy.yaml", "path": "data", "shell": "bash", "config": "no-such.yaml"}  # of arguments beside


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with data, a configuration and a run; no Slurm, and no hub of tokenizers."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path)
    HandMade(tmp_path / "artifacts").submitted("7").began(1, None).trains().ended()
    return tmp_path


def executed() -> bool:
    return any(folder.joinpath(CANARY).exists() for folder in (Path(), Path("artifacts"), ROOT, Path.home()))


def valued(command: click.Command) -> list[click.Parameter]:
    """The options and arguments that take a text."""
    return [one for one in command.params if not getattr(one, "is_flag", False)]


def lines(words: tuple[str, ...], command: click.Command, param: click.Parameter, text: str) -> Iterator[list[str]]:
    """Command lines in which `param` is `text`."""
    if words == ("tmrc-submit",):
        starts = (["--dry-run"], ["--dry-run", "--local"], ["--dry-run", "-m"])
        if isinstance(param, click.Argument):
            more = [[text], ["toy.yaml", f"wandb_log.name={text}"], ["toy.yaml", f"{text}=1"], ["toy.yaml", f"~{text}"]]
            yield from ([*start, "--", *one] for start in starts for one in more)
        else:
            yield [*starts[len(text) % 2], f"{max(param.opts, key=len)}={text}", "toy.yaml"]
        return
    others = [SOME.get(one.name or "", "artifacts/toy-20260101-000000-abcd") for one in valued(command)
              if isinstance(one, click.Argument) and one is not param]  # fmt: skip
    needed = ["--out=new"] if words[-1] == "prepare" and param.name != "out" else []
    if isinstance(param, click.Argument):
        yield [*words[1:], *needed, "--", *others, text]
    else:
        yield [*words[1:], f"{max(param.opts, key=len)}={text}", *needed, *others]


COMMANDS = {" ".join(words): (words, command) for words, command in commands() if words[-1] != "train"}


def try_options(name: str, texts: dict[str, str]) -> None:
    words, command = COMMANDS[name]
    for param in valued(command):
        for label, text in texts.items():
            for line in lines(words, command, param, text):
                said = call(words[0], *line)
                assert said.problems() == [], (param.name, label, line[0], said.err[:300])
                assert not executed(), (param.name, label)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_every_command(home: Path, name: str) -> None:
    try_options(name, QUICK)


@pytest.mark.campaign
@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_with_every_text(home: Path, name: str) -> None:
    try_options(name, MORE)


def read_variables() -> set[str]:
    """The environment variables that the sources name, and those that the libraries below read for us."""
    found = {"HOME", "USER", "LOGNAME", "COLUMNS", "LINES", "LANG", "TZ", "SBATCH_ACCOUNT", "PYTHONPATH", "SLURM_CONF"}
    for file in [*(ROOT / "launch").rglob("*.py"), *(ROOT / "tmrc").rglob("*.py")]:
        found |= set(re.findall(r"environ(?:\.get|\.pop)?[\[(]\"([A-Z][A-Z0-9_]+)\"", file.read_text("utf8")))
    return found


def try_environment(names: set[str], texts: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = (
        ["tmrc-submit", "--dry-run", "toy.yaml"], ["tmrc-submit", "--dry-run", "--local", "toy.yaml"],
        ["tmrc", "status"], ["tmrc", "completion"], ["tmrc", "status", "artifacts/toy-20260101-000000-abcd"],
    )  # fmt: skip
    for name in sorted(names):
        for label, text in texts.items():
            for line in calls if name != "PATH" else calls[:1]:
                with monkeypatch.context() as patch:
                    patch.setenv(name, text)
                    said = call(*line)
                assert said.problems() == [], (name, label, line, said.err[:300])
                assert said.code in (0, 2) and not executed(), (name, label)


def test_every_environment_variable_that_is_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = read_variables()
    assert {"CUDA_VISIBLE_DEVICES", "XDG_CONFIG_HOME", "SBATCH_PARTITION", "SHELL", "SLURM_JOB_ID"} <= names
    try_environment(names, {name: QUICK[name] for name in ("directive", "terminal", "bytes", "number")}, monkeypatch)


@pytest.mark.campaign
def test_every_environment_variable_with_every_text(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try_environment(read_variables(), {**QUICK, **MORE}, monkeypatch)


def keys() -> Iterator[tuple[str, str]]:
    """Section and name of every configuration key."""
    for section, kind in typing.get_type_hints(Config).items():
        yield from ((section, field.name) for field in dataclasses.fields(kind))


def try_keys(home: Path, texts: dict[str, str]) -> int:
    """Every key with every text: alone, in a list, as the value and as the key of a mapping. Returns how many pass."""
    base = yaml.safe_load((home / "toy.yaml").read_text())
    passed = 0
    for section, name in keys():
        for label, text in texts.items():
            for value in (text, [text], {"a": text}, {text: "a"}):
                values = {**base, section: {**base.get(section, {}), name: value}}
                try:
                    config = load_config(home / "toy.yaml", [], values)
                    check_launch(config.launch)
                except UserError as error:
                    assert "\n" not in str(error) and len(str(error)) <= 2000, (section, name, label)
                    continue
                passed += 1
                if section == "launch" and name != "setup":  # which is shell
                    assert is_inert(batch_script(RunDir(home / "artifacts/x"), config.launch, slurm_resources(config)))
    return passed


def is_inert(script: str) -> bool:
    """Whether the lines of a script without set-up are those that we write: no text has become one of its own."""
    written = (
        r"#!/bin/bash|#SBATCH --[a-z-]+(=.*)?|(# .*)?|trap .*|export TMRC_PATH=.*"
        r"|tmrc_run=.*|tmrc_start(\(\) \{)?|  .*|\}"
    )
    return all(re.fullmatch(written, line) for line in script.splitlines())


def test_every_configuration_key(home: Path) -> None:
    assert try_keys(home, {name: QUICK[name] for name in ("directive", "shell", "terminal", "option")}) > 20
    assert not executed()


@pytest.mark.campaign
def test_every_configuration_key_with_every_text(home: Path) -> None:
    try_keys(home, {**QUICK, **MORE, "nul": "a\0b"})
    assert not executed()


def test_every_template_value(home: Path) -> None:
    for name in ALLOWED:
        for text in (QUICK[label] for label in ("directive", "shell", "terminal", "option")):
            (home / "site.yaml").write_text(yaml.safe_dump({name: text}), "utf8", errors="surrogatepass")
            with pytest.raises(ConfigError) as error:
                load_settings("toy.yaml", [], {"template": "site"})
            assert "\n" not in str(error.value) and len(str(error.value)) <= 2000, (name, text[:50])


ODD = {
    "name": "a.b_c-D", "partition": "p-1,p_2", "account": "a@b.c", "qos": "q.1", "constraint": "a&[b*2|c](d)",
    "exclude": "n[1-3,7]", "python": "apptainer exec --nv /a,b:c=d@e+f/x.sif python", "time": "1-02:03:04", "mem": "3G",
    "sbatch": {"comment": "a & b | c * [x] (y)", "mail-type": "ALL"},
}  # fmt: skip


def test_the_oddest_values_that_pass_are_inert(home: Path) -> None:
    """Bash runs the script in a directory whose files every glob matches; sbatch reads each value as it was given."""
    write_config(home, launch=ODD)
    config = load_config(home / "toy.yaml")
    run = RunDir(home / "artifacts" / "a run & = @,é")
    with pytest.raises(ConfigError):
        batch_script(run, config.launch, slurm_resources(config))
    run = RunDir(home / "artifacts" / "a run = @,é")
    (run.code / "launch").mkdir(parents=True)
    (run.code / "launch/__init__.py").touch()
    (run.code / "launch/supervise.py").write_text("import sys; print(sys.argv[1:])")
    script = batch_script(run, config.launch, slurm_resources(config))
    read = [shlex.split(line)[1:] for line in script.splitlines() if line.startswith("#SBATCH")]
    found = dict(word.removeprefix("--").partition("=")[::2] for words in read for word in words)
    assert all(len(words) == 1 for words in read)
    given = {name: value for name, value in ODD.items() if name not in ("name", "python", "sbatch")}
    assert {**given, **ODD["sbatch"]}.items() <= found.items()  # type: ignore[attr-defined]
    folder = home / "sandbox"
    folder.mkdir()
    for name in ("a", "b", "n1", "ax", "x"):
        (folder / name).touch()
    (folder / "script.sh").write_text(script)
    ran = subprocess.run(["/bin/bash", "script.sh"], cwd=folder, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "") and ran.stdout == f"{[str(run.path)]}\n"
    assert sorted(path.name for path in folder.iterdir()) == ["a", "ax", "b", "n1", "script.sh", "x"]


def test_a_working_directory_whose_name_is_no_text(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = home / "a\udcff\x1b[2J"
    folder.mkdir()
    monkeypatch.chdir(folder)
    HandMade(Path("artifacts")).submitted("7").began(1, None).trains().ended()
    for line in (
        ["status"],
        ["status", "--json"],
        ["status", "toy"],
        ["report", "toy"],
        ["report", "toy", "-o", "x.html"],
    ):
        said = call("tmrc", *line)
        assert said.problems() == [] and said.code == 0, (line, said)
    said = call("tmrc-submit", "--dry-run", "--local", "../toy.yaml", "training.artifacts_path=runs")
    assert said.code == 2 and "printable" in said.err and said.problems() == []
