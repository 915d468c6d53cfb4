"""The points of a sweep, in Hydra's own grammar."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.grid import expand, packaged_sweeps, text_of
from launch.plainvalues import plain_values
from tmrc.config.errors import ConfigError
from tmrc.config.load import load_config
from tmrc.config.yaml_file import parse_yaml

NOWHERE = Path("x.yaml")


def points(*overrides: str) -> list[list[str]]:
    return [list(point) for point in expand(overrides, NOWHERE).points]


def test_the_last_key_changes_fastest() -> None:
    found = [" ".join(point) for point in points("a.x=1,2", "a.y=choice(p,q)")]
    assert found == ["a.x=1 a.y=p", "a.x=1 a.y=q", "a.x=2 a.y=p", "a.x=2 a.y=q"]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("range(4,9,2)", [4, 6, 8]),
        ("range(3,0,-1)", [3, 2, 1]),
        ("1e-4,3e-4", [1e-4, 3e-4]),
        ("choice(256,512)", [256, 512]),
        ("choice(7)", [7]),
        ("sort(3,1,2)", [1, 2, 3]),
        ("[0.9,0.95],[0.9,0.99]", [[0.9, 0.95], [0.9, 0.99]]),
        ("null,true,'true',\"a,b\",1:30:00", [None, True, "true", "a,b", "1:30:00"]),
        ("tag(log,choice(1,2))", [1, 2]),
    ],
)
def test_values_reach_the_configuration_as_hydra_means_them(text: str, values: list[Any]) -> None:
    found = [parse_yaml(point[0].partition("=")[2], "") for point in points(f"a.b={text}")]
    assert found == values
    assert [type(value) for value in found] == [type(value) for value in values]


def test_what_is_fixed_stays_and_the_last_of_a_key_counts() -> None:
    grid = expand(["a.x=1,2", "b=5", "~c", "datasets.path=~/data", "a.x=3,4", "b=6"], NOWHERE)
    assert grid.swept == ("a.x",) and grid.points == (("a.x=3",), ("a.x=4",))
    assert grid.fixed == ("b=6", "~c", "datasets.path=~/data")


def test_equal_values_are_one_point() -> None:
    assert points("a=0.10,1e-1,0.1,2") == [["a=0.1"], ["a=2"]]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("a=1", "-m: no key has more than one value; valid: such as"),
        ("a=range(1,5", "command line: 'a=range(1,5': "),
        ("a=range(5,1)", "has no value"),
        ("a=range(1,5,0)", "a=range(1,5,0)"),
        ("a=interval(0,1)", "adaptive search"),
        ("a=glob(*)", "glob() is not known here"),
        ("hydra.x=1,2", "python -m launch.sweep"),
        ("a=range(0,1000000000)", "valid: at most 10,000"),
        ("a=range(0,nan,1)", "at most 10,000"),
        ("a=range(0,1,nan)", "at most 10,000"),
        ("a=shuffle(range(0,100000000,1))", "at most 10,000"),
        ("a=1," + "[" * 3000 + "]" * 3000, "command line: 'a="),
        ("sweep=nothing", "sweep: got 'nothing', valid: lr"),
    ],
)
def test_what_is_no_sweep_is_refused_in_one_line(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        expand([override], NOWHERE)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_product_of_many_keys_is_limited_before_it_is_made() -> None:
    with pytest.raises(ConfigError, match=r"the sweep has 100,000 points"):
        expand([f"a.k{n}=range(0,10)" for n in range(10)], NOWHERE)


def test_a_named_sweep_is_found_beside_the_configuration_and_yields_to_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    mine = tmp_path / "sweep/mine.yaml"
    mine.write_text("params:\n  a.x: 1,2\n  a.y: [p, 'q,r']\n  b: 7\nparallel: 3\n")
    config = tmp_path / "x.yaml"
    grid = expand(["sweep=mine", "a.x=5,6"], config)
    assert grid.swept == ("a.x", "a.y") and grid.fixed == ("b=7",) and grid.parallel == 3
    assert grid.points[1] == ("a.x=5", 'a.y="q,r"')
    assert expand([f"sweep={mine}"], NOWHERE).points == expand(["sweep=mine"], config).points


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("params: 3", "params: got 3"),
        ("params: {a: 1}\nx: 1", "unknown key 'x'"),
        ("params: {a: '1,2'}\nparallel: no", "parallel: got"),
        ("params: {a: '1,2'}\nparallel: 999999999999", "parallel: got"),
    ],
)
def test_a_file_that_is_no_sweep_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=f"mine.yaml: {message}"):
        expand([f"sweep={file}"], NOWHERE)


@pytest.mark.parametrize("name", ["lr", "seeds", "lr-depth"])
def test_packaged_sweeps_are_valid_for_the_packaged_configuration(name: str) -> None:
    assert name in packaged_sweeps()
    grid = expand([f"sweep={name}"], NOWHERE)
    for point in grid.points:
        load_config("default", [*grid.fixed, *point, "model.n_head=1"])


plain = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(codec="utf8", exclude_categories=["C", "Z"]), min_size=1, max_size=12)


@given(plain | texts | st.lists(plain | texts, max_size=4))
def test_a_value_as_text_is_read_back_equal(value: Any) -> None:
    back = parse_yaml(text_of(value), "")
    assert back == value and type(back) is type(value), json.dumps(value)


@given(st.lists(st.lists(st.integers(-50, 50), min_size=2, max_size=4, unique=True), min_size=1, max_size=4))
def test_the_points_are_those_of_hydras_own_sweeper(values: list[list[int]]) -> None:
    texts = [f"a.k{n}={','.join(map(str, some))}" for n, some in enumerate(values)]
    parsed = OverridesParser.create().parse_overrides(texts)
    assert points(*texts) == BasicSweeper.split_arguments(parsed, None)[0]


words = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,5}", fullmatch=True) | st.sampled_from(
    [
        "True",
        "null",
        "inf",
        "NaN",
        "yes",
        "no",
        "on",
        "1_000",
        "0x10",
        "007",
        "+5",
        "-0",
        "1.",
        ".5",
        "1e5",
        "-1.50E-2",
        "a b",
    ]
)
numbers = st.integers(-(10**20), 10**20).map(str) | st.floats(allow_nan=False).map(str)
numbers |= st.from_regex(r"[+-]?0{1,2}[0-9]{0,2}(\.[0-9]{0,2})?(e[0-9])?", fullmatch=True, alphabet="+-0123456789.e")


paths = st.from_regex(r"\.{0,2}/[\w./-]{0,20}", fullmatch=True, alphabet=st.characters(max_codepoint=127))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(words | numbers | paths, min_size=1, max_size=3),
    st.sampled_from(["{}", "choice({})", "range({})", "[{}]"]),
)
def test_what_is_read_without_hydras_parser_means_what_it_means_to_hydra(some: list[str], form: str) -> None:
    text = form.format(",".join(some))
    plain = plain_values(text, 1000)
    if plain is None:
        return
    override = OverridesParser.create().parse_override(f"a.b={text}")
    meant = list(override.sweep_iterator()) if override.is_sweep_override() else [override.value()]
    assert plain == meant and list(map(type, plain)) == list(map(type, meant))


@pytest.mark.parametrize(
    "text", ["1e-4,3e-4", "choice(relu,gelu)", "range(4,9,2)", "range(0,3)", "7", "-1,0.5,x", "/data/a-b_1.2/1e5"]
)
def test_common_values_do_not_need_hydra(text: str) -> None:
    assert plain_values(text, 1000)
