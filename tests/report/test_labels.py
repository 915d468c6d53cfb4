"""What runs are called in charts: by what sets a sweep's points apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from launch.report.bars import goodput_chart, timeline
from launch.report.curves import curve_charts
from launch.report.entries import Facts
from launch.report.labels import LONGEST, names, short_labels, short_number
from launch.report.page import page
from launch.report.picture import picture
from tests.report.made import BEGAN, make_run, make_sweep
from tests.report.test_reading import facts_of

POINTS = ["lr=0.0001 dropout_p=0 activation=relu", "lr=0.001 dropout_p=0.1 activation=gelu"]


def runs_of(*sweeps: Path) -> Facts:
    return facts_of(*(path.parent for sweep in sweeps for path in sorted(sweep.glob("*/run.json"))))


def in_charts(facts: Facts) -> dict[str, set[str]]:
    """Chart -> how runs are called in it."""
    lines, attempts, times = curve_charts(facts)[0].figure["data"], timeline(facts), goodput_chart(facts)
    assert attempts is not None and times is not None
    return {
        "losses": {trace["name"] for trace in lines},
        "attempts": {row for trace in attempts.figure["data"] for row in trace["y"]},
        "times": {row for trace in times.figure["data"] for row in trace["y"]},
    }


def test_charts_call_points_by_what_sets_them_apart_and_the_table_by_their_ids(tmp_path: Path) -> None:
    facts = runs_of(make_sweep(tmp_path, 2, 150))
    assert set(in_charts(facts)) == {"losses", "attempts", "times"}
    assert all(found == set(POINTS) for found in in_charts(facts).values()), in_charts(facts)
    hovers = {trace["hovertemplate"] for trace in curve_charts(facts)[1].figure["data"]}
    assert any(f"{POINTS[0]} (000-0000)" in hover for hover in hovers)
    text = page(facts, "a sweep", BEGAN)
    assert all(f">{label}</a></th>" in text for label in ("000-0000", "001-79b1"))


def test_the_picture_calls_points_by_what_sets_them_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    plain = Figure.legend

    def legend(figure: Figure, handles: Any, labels: Any, **more: Any) -> Any:
        shown.extend(label.strip() for label in labels)
        return plain(figure, handles, labels, **more)

    monkeypatch.setattr(Figure, "legend", legend)
    picture(runs_of(make_sweep(tmp_path, 2, 60)), "a sweep")
    assert set(shown) == set(POINTS)


def test_of_several_sweeps_the_ids_are_added(tmp_path: Path) -> None:
    one = make_sweep(tmp_path / "a", 2, 60)
    other = make_sweep(tmp_path / "b", 2, 60)
    for folder in other.iterdir():
        if folder.is_dir():
            folder.rename(other / folder.name.replace("lr-dropout-1a2b3c4d", "x-5"))
    text = (other / "sweep.json").read_text().replace("lr-dropout-1a2b3c4d", "x-5")
    (other / "sweep.json").write_text(text)
    facts = runs_of(one, other)
    found = {entry.run_id: entry.name for entry in facts.entries}
    assert len(set(found.values())) == 4 and found["x-5-000-0000"] == "lr=0.0001 dropout_p=0 ac… (x-5-000-0000)"
    assert all(len(name) <= LONGEST for name in found.values())


def test_a_run_that_is_no_point_keeps_its_id(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, f"solo-{n}", 30) for n in range(2)]
    assert [entry.name for entry in facts_of(*runs).entries] == [entry.label for entry in facts_of(*runs).entries]


def test_sweep_files_of_any_kind_name_runs_by_their_ids(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, 2, 30)
    for broken in ("{", "[]", json.dumps({"points": [{"run_id": 3, "overrides": "x"}, 7]})):
        (sweep / "sweep.json").write_text(broken)
        assert {entry.name for entry in runs_of(sweep).entries} == {"000-0000", "001-79b1"}


def named(*points: str | None, sweeps: str = "") -> list[str]:
    return names([f"{n:03}-ab" for n in range(len(points))], points, sweeps or "s" * len(points))


@pytest.mark.parametrize(
    ("point", "name"),
    [
        ("optimizer.lr=0.0003 model.n_layer=4", "lr=0.0003 n_layer=4"),
        ("optimizer.lr=0.00031622776601683794", "lr=0.0003162"),
        ("optimizer.lr=3e-5 ++training.train_steps=200000", "lr=3e-5 train_steps=200000"),
        ("optimizer.weight_decay=0.10000000000000001", "weight_decay=0.1"),
        ("datasets.path=/data/of/somebody/in/a/deep/place/wikitext", "path=wikitext"),
        ("datasets.name=a name with spaces", "name=a name with spaces"),
        ("model.activation=relu +extra.on=true", "activation=relu on=true"),
        ("datasets.name=" + "x" * 90, "name=xxxxxxxxxx…xxxxxxxxx"),
    ],
)
def test_points_in_short(point: str, name: str) -> None:
    assert named(point) == [name]


def test_points_of_one_name_get_their_ids() -> None:
    assert named("a.lr=0.100001", "a.lr=0.100002", "a.lr=0.2") == ["lr=0.1 (000-ab)", "lr=0.1 (001-ab)", "lr=0.2"]
    long = [" ".join(f"model.key_{k}=12345" for k in range(8)) + f" a.b={n}" for n in range(2)]
    assert len(set(named(*long))) == 2 and max(map(len, named(*long))) <= LONGEST  # they differ where they are cut
    assert named("a.lr=0.1", None) == ["lr=0.1", "001-ab"]
    ids = ["i" * 36, "j" * 36]
    assert names(ids, ["a.lr=1", "a.lr=2"], "ss") == ["lr=1", "lr=2"] and names(ids, ["a.lr=1"] * 2, "ss") == ids


def test_labels_are_what_tells_runs_apart() -> None:
    assert short_labels(["s-1a-000-a1", "s-1a-001-b2"]) == ["000-a1", "001-b2"]
    assert short_labels(["alpha", "beta"]) == ["alpha", "beta"]
    assert short_labels(["s-1", "s-1-2"]) == ["1", "1-2"]
    assert short_labels(["a-b", "a-b"]) == ["a-b", "a-b"] and short_labels(["x-1"]) == ["x-1"]


def test_numbers_in_short() -> None:
    numbers = {
        2000.0: "2,000",
        0.00056234: "0.000562",
        1e-5: "1e-5",
        3.2e9: "3.2e9",
        0.0: "0",
        65536: "65,536",
        64: "64",
    }
    assert {number: short_number(number, 3) for number in numbers} == numbers
