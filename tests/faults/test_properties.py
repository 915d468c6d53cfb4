"""Whatever is made up, configurations, data sets, run directories: one line or the right answer, nothing written."""

from __future__ import annotations

import dataclasses
import shutil
import string
import tempfile
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launch.find import find_target
from tests.faults.calls import call, hashes
from tests.launch.fake_queue import HandMade
from tests.launch.helpers import write_config, write_data
from tests.train.conftest import pretend_code
from tmrc.config.errors import DataError, UserError
from tmrc.config.load import load_config
from tmrc.config.load import write_config as save_config
from tmrc.config.rundir import RunDir
from tmrc.config.schema import Config
from tmrc.data.dataset import open_dataset

QUICK = settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
LONG = settings(deadline=None, derandomize=False, max_examples=1500, suppress_health_check=list(HealthCheck))
FEW = settings(QUICK, max_examples=15)
MANY = settings(LONG, max_examples=600)

KINDS = typing.get_type_hints(Config)
KEYS = [(section, field.name) for section, kind in KINDS.items() for field in dataclasses.fields(kind)]
TEXTS = st.text(max_size=30) | st.sampled_from(
    ["${training.seed}", "${oc.env:HOME}", "???", "${", "~", "1e400", "\ud800"]
)
PLAIN = (
    st.none() | st.booleans() | st.integers() | st.integers(-3, 300) | st.floats() | st.floats(0, 1) | TEXTS
    | st.dates() | st.binary(max_size=5)
)  # fmt: skip
JUNK = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=8
)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory with a data set and a configuration, and no Slurm: what comes out of a call must not change it."""
    folder = Path(tempfile.mkdtemp(prefix="tmrc-properties-"))
    write_config(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PATH", str(folder / "bin"))
        yield folder
    shutil.rmtree(folder)


@st.composite
def configurations(draw: Callable[..., Any]) -> dict[Any, Any]:
    """Some keys of the schema with some values, and now and then a section or a key that there is not."""
    values: dict[Any, Any] = {}
    for section, name in draw(st.lists(st.sampled_from(KEYS), max_size=8)):
        values.setdefault(section, {})[name] = draw(JUNK)
    for name in draw(st.lists(TEXTS | st.sampled_from([*KINDS, "hydra", "defaults", "_target_"]), max_size=1)):
        values[name] = draw(JUNK)
    return values


def try_configuration(place: Path, values: dict[Any, Any]) -> None:
    base = yaml.safe_load((place / "toy.yaml").read_text())
    merged = {**base, **{k: {**base.get(k, {}), **v} if isinstance(v, dict) and isinstance(base.get(k), dict) else v
                         for k, v in values.items()}}  # fmt: skip
    try:
        text = yaml.safe_dump(merged).encode("utf8", "surrogatepass")
    except yaml.YAMLError:
        return
    try_text(place, text)


def try_text(place: Path, text: bytes) -> None:
    """The text as a configuration, in both kinds of dry run; what loads is written and read back equal."""
    file = place / "made-up.yaml"
    file.write_bytes(text)
    before = hashes(place)
    for more in ([], ["--local"]):
        said = call("tmrc-submit", "--dry-run", *more, str(file))
        assert said.problems() == [] and said.code in (0, 2), said
    assert hashes(place) == before
    with tempfile.TemporaryDirectory() as other:
        try:
            config = load_config(file)
        except UserError:
            return
        save_config(config, Path(other, "config.yaml"))
        assert load_config(Path(other, "config.yaml")) == config


@QUICK
@given(configurations())
def test_any_configuration(place: Path, values: dict[Any, Any]) -> None:
    try_configuration(place, values)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@LONG
@given(configurations())
def test_any_configuration_at_length(place: Path, values: dict[Any, Any]) -> None:
    try_configuration(place, values)


YAML = st.text(
    alphabet=string.ascii_letters + string.digits + " \n\t:-[]{},&*!|>'\"%@`#?~${}.=\0\x1b\u2028é", max_size=200
)


@st.composite
def edited(draw: Callable[..., Any], source: Path = Path("toy.yaml")) -> bytes:
    """The text of a file with some bytes replaced, left out, put in or doubled."""
    data = bytearray(source.read_bytes())
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        size = draw(st.integers(0, 20))
        data[at : at + size] = draw(
            st.binary(max_size=8) | YAML.map(lambda text: text.encode()) | st.just(bytes(data[at:]))
        )
    return bytes(data)


@QUICK
@given(st.data())
def test_any_text_as_a_configuration(place: Path, data: st.DataObject) -> None:
    try_text(place, data.draw(YAML.map(lambda text: text.encode("utf8")) | edited(place / "toy.yaml")))


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@LONG
@given(st.data())
def test_any_text_as_a_configuration_at_length(place: Path, data: st.DataObject) -> None:
    try_text(place, data.draw(YAML.map(lambda text: text.encode("utf8")) | edited(place / "toy.yaml")))


# Damage


@st.composite
def damage(draw: Callable[..., Any], folder: Path) -> str:
    """Do something to one of the files of a directory; returns what."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    file = draw(st.sampled_from(files))
    kind = draw(
        st.sampled_from(
            ["cut", "longer", "empty", "flip", "rename", "directory", "gone", "edit", "link", "loop", "pipe"]
        )
    )
    content = file.read_bytes()
    if kind == "flip" and content:
        at = draw(st.integers(0, len(content) - 1))
        content = content[:at] + bytes([content[at] ^ 1 << draw(st.integers(0, 7))]) + content[at + 1 :]
    content = {
        "cut": lambda: content[: draw(st.integers(0, len(content)))], "empty": lambda: b"",
        "longer": lambda: content + draw(st.binary(min_size=1, max_size=9)), "edit": lambda: draw(edited(file)),
    }.get(kind, lambda: content)()  # fmt: skip
    file.unlink()
    if kind == "rename":
        file.with_name(draw(st.sampled_from(["toy_9.bin", "x.bin", ".hidden", "metadata.json"]))).write_bytes(content)
    elif kind == "directory":
        file.mkdir()
    elif kind == "link":
        file.symlink_to("/dev/zero")
    elif kind == "loop":
        file.symlink_to(file)
    elif kind == "pipe":
        import os

        os.mkfifo(file)
    elif kind != "gone":
        file.write_bytes(content)
    return f"{file.name}: {kind}"


def try_data(draw: Callable[..., Any], folder: Path) -> None:
    data = write_data(folder / "data", tokens=200)
    (data / "toy_1.bin").write_bytes(bytes(100))
    config = write_config(folder)
    done = [draw(damage(data)) for _ in range(draw(st.integers(1, 2)))]
    before = hashes(folder)
    for line in (
        ["tmrc", "data", "inspect", str(data)], ["tmrc", "data", "inspect", str(data), "--sample", "1"],
        ["tmrc-submit", "--dry-run", "--local", str(config)],
    ):  # fmt: skip
        said = call(*line)
        assert said.problems() == [] and said.code in (0, 1, 2), (done, line, said)
    try:
        dataset = open_dataset(data, 16)
        items = [item.token_ids for item in dataset]
    except DataError as error:
        assert "\n" not in str(error)
    else:  # then they are what the files hold
        kind = np.dtype(dataset.metadata.dtype)
        for number, shard in enumerate(dataset.shards):
            tokens = np.frombuffer(shard.path.read_bytes(), kind)
            first = dataset.layout.starts[number]
            for item in range(-(-len(tokens) // 16)):
                chunk = tokens[item * 16 : item * 16 + 16]
                assert (items[first + item][: len(chunk)] == chunk).all() and not items[first + item][
                    len(chunk) :
                ].any(), done
    assert hashes(folder) == before, done


@FEW
@given(st.data())
def test_a_damaged_data_set(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try_data(data.draw, Path(folder))


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@MANY
@given(st.data())
def test_a_damaged_data_set_at_length(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try_data(data.draw, Path(folder))


def try_run(draw: Callable[..., Any], folder: Path) -> None:
    config = write_config(folder)
    run = (
        HandMade(folder / "artifacts", began=1.7e9)
        .submitted("7", "local")
        .began(1, None)
        .trains()
        .ended(status="failed", message="m")
    )
    (run.path / "config.yaml").write_text(config.read_text())
    pretend_code(RunDir(run.path))
    done = [draw(damage(run.path)) for _ in range(draw(st.integers(1, 3)))]
    before = hashes(run.path)
    name = str(run.path)
    looks = (["tmrc", "status", name], ["tmrc", "status", str(folder / "artifacts")], ["tmrc", "report", name],
    ["tmrc", "logs", name],
             ["tmrc", "report", "--json", str(folder / "artifacts")],
             ["tmrc-submit", "--dry-run", "--local", "--resume", name])  # fmt: skip
    for line in looks:
        said = call(*line)
        assert said.problems() == [] and said.code in (0, 2), (done, line, said)
        if "--resume" not in line:
            assert hashes(run.path) == before, (done, line)
    try:
        find_target(name)
    except UserError as error:
        assert "\n" not in str(error)


@FEW
@given(st.data())
def test_a_damaged_run(place: Path, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try_run(data.draw, Path(folder))


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@MANY
@given(st.data())
def test_a_damaged_run_at_length(place: Path, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try_run(data.draw, Path(folder))
