"""Completion as bash, zsh and fish do it themselves: a line is typed, TAB is pressed, and what the shell makes of it is
looked at. Shells that are not installed are skipped."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import time
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

import pytest

from launch.shells import Line, parse
from tests.launch.helpers import ROOT, Done, call

HOSTILE = "it's $(touch pwned) `touch pwned` *;"
needs = {
    name: pytest.mark.skipif(shutil.which(name) is None, reason=f"NO {name.upper()} HERE: its completion is not tested")
    for name in ("bash", "zsh", "fish")
}


def make_run(path: Path, age: float = 0.0) -> Path:
    path.mkdir(parents=True)
    (path / "run.json").write_text("{}")
    os.utime(path / "run.json", (time.time() - age,) * 2)
    return path


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A working directory with runs, a sweep, a configuration, and names that are no names."""
    artifacts = tmp_path / "work/artifacts"
    hours = {"toy-1-old": 3, "toy-2-new": 2, "wide ünï": 4, f"bad {HOSTILE}": 5}
    for name, age in hours.items():
        make_run(artifacts / name, age * 3600.0)
    for name in ("line\nbreak", "escape\x1b[2J", "tab\there", os.fsdecode(b"bytes\xff")):
        make_run(artifacts / name)
    sweep = artifacts / "grid-0123abcd"
    for n in range(3):
        make_run(sweep / f"grid-0123abcd-00{n}-ffff", 100.0 * n)
    (sweep / "sweep.json").write_text(json.dumps({"id": sweep.name}))
    (artifacts / "no-run").mkdir()
    for name in ("my.yaml", "with space.yml", "notes.txt"):
        (tmp_path / "work" / name).write_text("{}\n")
    (tmp_path / "work/configs").mkdir()
    return tmp_path / "work"


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PATH that begins with our commands."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, module in (("tmrc", "launch.cli.main"), ("tmrc-submit", "launch.cli.submit")):
        (folder / name).write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m {module} "$@"\n')
        (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def tmrc(*arguments: str, cwd: Path = ROOT, **env: str) -> Done:
    return call(*arguments, module="launch.cli.main", cwd=cwd, env=env)


def offered(line: str, cwd: Path) -> list[str]:
    """The candidates, without their help."""
    done = tmrc("completion", "zsh", "--line", line, cwd=cwd)
    assert done.code == 0 and done.err == "", done.err
    return [row.partition("\t")[0] for row in done.out.splitlines()]


# What is offered


def test_runs_come_newest_first_and_nothing_that_would_break_a_line(work: Path) -> None:
    runs = ["grid-0123abcd", "toy-2-new", "toy-1-old", "wide ünï", f"bad {HOSTILE}"]
    assert offered("tmrc status ", work) == [*runs, "artifacts/", "configs/"]
    assert offered("tmrc cancel toy-2-new t", work) == ["toy-1-old"]
    help_of = dict(
        row.split("\t") for row in tmrc("completion", "fish", "--line", "tmrc logs toy", cwd=work).out.split("\n")[:-1]
    )
    assert help_of == {"toy-2-new": "2h00m old", "toy-1-old": "3h00m old"}


def test_runs_of_sweeps(work: Path) -> None:
    points = [f"grid-0123abcd-00{n}-ffff" for n in range(3)]
    assert offered("tmrc status g", work) == ["grid-0123abcd"]
    assert offered("tmrc status grid-0123abcd-", work) == points
    for command in ("tmrc logs g", "tmrc generate g", "tmrc-submit --resume g"):
        assert offered(command, work) == points
    assert offered("tmrc logs grid-0123abcd-001", work) == points[1:2]


def test_directories_are_completed_besides(work: Path) -> None:
    assert offered("tmrc status artifacts/to", work) == ["artifacts/toy-1-old/", "artifacts/toy-2-new/"]
    assert offered("tmrc status artifacts/l", work) == []  # the name with a line break
    assert offered("tmrc status nowhere/", work) == []
    (work / ".hidden").mkdir()
    assert ".hidden/" not in offered("tmrc status ", work) and offered("tmrc status .h", work) == [".hidden/"]


def test_configurations_then_keys_then_values(work: Path) -> None:
    assert offered("tmrc-submit ", work) == [
        "default", "drill", "gpt2-124m", "quickstart", "artifacts/", "configs/", "my.yaml", "with space.yml",
    ]  # fmt: skip
    assert offered("tmrc-submit my.yaml optim", work) == ["optimizer."]
    assert offered("tmrc-submit my.yaml optimizer.lr=1 optimizer.l", work) == ["optimizer.lr="]
    assert offered("tmrc-submit my.yaml ++model.act", work) == ["++model.activation="]
    assert "training." in offered("tmrc-submit my.yaml ", work) and "default" not in offered(
        "tmrc-submit my.yaml ", work
    )


@pytest.mark.parametrize(
    ("written", "values"),
    [
        ("model.activation=g", ["gelu"]), ("model.mask=causal", ["causal", "causal_document"]),
        ("model.flex=", ["true", "false"]), ("training.compile=", ["true", "false", "auto"]),
        ("optimizer.precision=", ["float32", "bfloat16"]), ("wandb_log.group=", ["null"]), ("optimizer.lr=", []),
        ("model.activation=relu,ge", ["relu,gelu"]), ("training.artifacts_path=art", ["artifacts/"]),
        ("model.nothing=", []), ("nothing.here=", []), ("launch.template=gen", ["generic"]),
    ],
)  # fmt: skip
def test_values_that_can_be_counted(work: Path, written: str, values: list[str]) -> None:
    key = written.partition("=")[0]
    assert offered(f"tmrc-submit my.yaml {written}", work) == [f"{key}={value}" for value in values]


def test_a_run_that_is_resumed_offers_what_can_change_in_it(work: Path) -> None:
    sections = offered("tmrc-submit --resume toy-1-old ", work)
    assert sections == ["training.", "wandb_log.", "launch."]
    assert "training.train_steps=" in offered("tmrc-submit --resume toy-1-old training.", work)
    assert "training.seed=" not in offered("tmrc-submit --resume toy-1-old training.", work)
    for flag, there in (("", False), ("--allow-change ", True)):
        assert ("optimizer.lr=" in offered(f"tmrc-submit --resume toy-1-old {flag}optimizer.", work)) == there


def test_a_sweep_offers_files_of_values(work: Path) -> None:
    assert offered("tmrc-submit -m my.yaml sw", work) == ["sweep="] and offered("tmrc-submit my.yaml sw", work) == []
    assert "sweep=my.yaml" in offered("tmrc-submit -m my.yaml sweep=", work)


def test_options_templates_and_subcommands(work: Path) -> None:
    assert offered("tmrc-submit --res", work) == ["--resume"]
    assert offered("tmrc-submit --resume=toy-1", work) == ["--resume=toy-1-old"]
    assert offered("tmrc-submit --template g", work) == ["generic"]
    assert offered("tmrc st", work) == ["status"] and "train" not in offered("tmrc ", work)
    assert offered("tmrc data ", work) == ["inspect", "prepare"]
    assert offered("tmrc generate x --tokenizer m", work) == ["my.yaml"]
    assert offered("FOO=1 /some/where/tmrc status toy-2", work) == ["toy-2-new"]
    assert offered("ls ", work) == [] and offered("", work) == []


def test_thousands_of_runs_are_all_offered(tmp_path: Path) -> None:
    for n in range(3000):
        (tmp_path / f"artifacts/run-{n:04}").mkdir(parents=True)
        (tmp_path / f"artifacts/run-{n:04}/run.json").touch()
    assert len(offered("tmrc status run", tmp_path)) == 3000


def test_nothing_slow_is_imported(work: Path) -> None:
    code = (
        "import sys; from launch.shells import parse; from launch.cli.completion import _candidates\n"
        "for line in sys.argv[1:]: assert _candidates(parse(line)), line\n"
        "print([name for name in ('torch', 'hydra', 'omegaconf', 'numpy', 'rich', 'submitit') if name in sys.modules])"
    )
    lines = ["tmrc ", "tmrc status ", "tmrc logs ", "tmrc-submit ", "tmrc-submit a b.", "tmrc-submit a model.mask="]
    lines[4] = "tmrc-submit a model."
    done = subprocess.run(
        [sys.executable, "-c", code, *lines], cwd=work, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("tmrc  status ", Line(("tmrc", "status"), "")), ("tmrc st", Line(("tmrc",), "st")),
        (r"tmrc logs my\ ru", Line(("tmrc", "logs"), "my ru")),
        ("tmrc logs 'my ru", Line(("tmrc", "logs"), "my ru", "", True)),
        ("tmrc '' \"a b\" c", Line(("tmrc", "", "a b"), "c")),
        ("x a.b=c", Line(("x",), "a.b=c", "a.b=")), ("x a=b:c", Line(("x",), "a=b:c", "a=b:")),
        ("x 'a=b", Line(("x",), "a=b", "", True)), ("x a='b=", Line(("x",), "a=b=", "a=", True)), ("", Line((), "")),
        (r"x a\=b", Line(("x",), "a=b")), ("x a=b c", Line(("x", "a=b"), "c")),
    ],
)  # fmt: skip
def test_lines_as_they_are_typed(line: str, found: Line) -> None:
    assert parse(line, "=:") == found


# The command


def test_the_script_is_for_the_shell_that_is_named_or_in_use(tmp_path: Path) -> None:
    assert tmrc("completion", SHELL="/usr/bin/fish").out == tmrc("completion", "fish").out
    for shell, word in (("bash", "complete "), ("zsh", "compdef"), ("fish", "function")):
        done = tmrc("completion", shell, PATH=str(tmp_path))  # no shell, no tmrc
        assert done.code == 0 and done.err == "" and word in done.out and "tmrc-submit" in done.out
        assert f"{Path(sys.executable).parent}/tmrc completion {shell}" in done.out
    for wrong in ("", "/bin/tcsh"):
        done = tmrc("completion", SHELL=wrong)
        assert done.code == 2 and "bash, zsh, fish" in done.err and len(done.err.splitlines()) == 1
    shown = tmrc("completion", "--help").out
    assert 'eval "$(tmrc completion bash)"' in shown and "tmrc completion fish | source" in shown


# Real shells


class Shell:
    """An interactive shell in a terminal of its own, with completion switched on."""

    def __init__(self, command: list[str], work: Path, path: str, start: str) -> None:
        self.shown = ""
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            os.chdir(work)
            env = {"PATH": path, "TERM": "dumb", "HOME": str(work.parent), "LANG": "C.UTF-8", "PS1": "> "}
            os.execvpe(command[0], command, env)
        ioctl(self.descriptor, TIOCSWINSZ, struct.pack("HHHH", 30, 400, 0, 0))
        self.type(f"{start}; echo READY''NOW\n")
        self.read_until("READYNOW")

    def type(self, keys: str) -> None:
        os.write(self.descriptor, keys.encode())

    def read_until(self, pattern: str, patience: float = 30.0) -> str:
        deadline = time.monotonic() + patience
        while not (found := re.search(pattern, self.shown)):
            assert time.monotonic() < deadline, self.shown
            if select.select([self.descriptor], [], [], 0.1)[0]:
                self.shown += os.read(self.descriptor, 65536).decode("utf8", "replace")
        return found[0]

    def completed(self, line: str) -> list[str]:
        """The words of the line after one TAB, as the shell gives them to a command; the last may be empty."""
        self.shown = ""
        # Behind the TAB, an x shows whether a space was put there; at the line's begin, what prints its words.
        self.type(f"{line}\tx\x01printf '<%s>' BEGIN'' \x05; echo ''END\n")
        found = self.read_until(r"<BEGIN>(<.*>)END")
        return re.findall("<(.*?)>", found)[1:]

    def leave(self) -> None:
        self.type("\x03exit\n")
        os.close(self.descriptor)
        os.waitpid(self.pid, 0)


CASES = [
    ("tmrc stat", ["tmrc", "status", "x"]),
    ("tmrc status toy-1", ["tmrc", "status", "toy-1-old", "x"]),
    ("tmrc status wi", ["tmrc", "status", "wide ünï", "x"]),
    ("tmrc status 'wide ", ["tmrc", "status", "wide ünï", "x"]),
    ("tmrc status bad", ["tmrc", "status", f"bad {HOSTILE}", "x"]),
    ("tmrc logs grid-0123abcd-002", ["tmrc", "logs", "grid-0123abcd-002-ffff", "x"]),
    ("tmrc-submit --resume toy-2", ["tmrc-submit", "--resume", "toy-2-new", "x"]),
    ("tmrc-submit --resume=toy-2", ["tmrc-submit", "--resume=toy-2-new", "x"]),
    ("tmrc-submit wit", ["tmrc-submit", "with space.yml", "x"]),
    ("tmrc-submit quick", ["tmrc-submit", "quickstart", "x"]),
    ("tmrc-submit conf", ["tmrc-submit", "configs/x"]),
    ("tmrc-submit my.yaml optim", ["tmrc-submit", "my.yaml", "optimizer.x"]),
    ("tmrc-submit my.yaml optimizer.l", ["tmrc-submit", "my.yaml", "optimizer.lr=x"]),
    ("tmrc-submit my.yaml model.activation=ge", ["tmrc-submit", "my.yaml", "model.activation=gelu", "x"]),
    ("tmrc-submit my.yaml model.mask=causal_", ["tmrc-submit", "my.yaml", "model.mask=causal_document", "x"]),
    (
        "tmrc-submit my.yaml training.artifacts_path=art",
        ["tmrc-submit", "my.yaml", "training.artifacts_path=artifacts/x"],
    ),
    ("tmrc data insp", ["tmrc", "data", "inspect", "x"]),
    ("tmrc status line", ["tmrc", "status", "linex"]),  # its name cannot be shown: nothing is inserted
    ("tmrc status ~/work/conf", ["tmrc", "status", "~/work/configs/x"]),
]


def check_in(shell: Shell, work: Path) -> None:
    try:
        for line, words in CASES:
            expected = [word.replace("~", str(work.parent)) for word in words]
            assert shell.completed(line) == expected, line
    finally:
        shell.leave()
    assert not list(work.parent.rglob("pwned"))


@needs["bash"]
def test_bash(work: Path, path: str) -> None:
    command = ["bash", "--norc", "--noprofile", "-i"]
    check_in(Shell(command, work, path, 'bind "set bell-style none"; eval "$(tmrc completion bash)"'), work)


@needs["zsh"]
def test_zsh(work: Path, path: str) -> None:
    start = 'bindkey -e; unsetopt prompt_sp; eval "$(tmrc completion zsh)"'
    check_in(Shell(["zsh", "-f", "-i"], work, path, start), work)


@needs["fish"]
def test_fish(work: Path, path: str) -> None:
    env = {**os.environ, "PATH": path, "HOME": str(work.parent), "LANG": "C.UTF-8"}
    for line, words in CASES:
        if "~" in line or words[-1].endswith("linex"):
            continue
        code = "tmrc completion fish | source; complete -C (string collect -- $argv[1])"
        done = subprocess.run(
            ["fish", "--no-config", "-c", code, "--", line], cwd=work, env=env, capture_output=True, text=True
        )  # fmt: skip
        values = [row.partition("\t")[0] for row in done.stdout.splitlines()]
        assert values == [words[-1].removesuffix("x") if words[-1] != "x" else words[-2]], (line, done.stderr)
    assert not list(work.parent.rglob("pwned"))
