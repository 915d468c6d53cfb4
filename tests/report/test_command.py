"""`tmrc report` as it is typed: files, text, JSON, and what it refuses."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest

from launch.report.terminal import sparkline
from tests.launch.helpers import Done, call
from tests.report.made import make_run, make_sweep, write_rows

TMRC = "launch.cli.main"


def report(*arguments: object, env: dict[str, str] | None = None) -> Done:
    return call("report", *arguments, module=TMRC, env=env)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sweep(tmp_path_factory.mktemp("runs"), runs=5, rows=150)


def refused(done: Done, *words: str) -> None:
    assert done.code == 2 and done.out == "" and len(done.err.splitlines()) == 1
    assert all(word in done.err for word in words), done.err


def test_everything_at_once(sweep: Path, tmp_path: Path) -> None:
    files = {"html": tmp_path / "r.html", "png": tmp_path / "r.png", "csv": tmp_path / "r.csv"}
    done = report(sweep, "-o", files["html"], "--png", files["png"], "--csv", files["csv"], "--json")
    assert done.code == 0, done.err
    assert done.json["written"] == {kind: str(path) for kind, path in files.items()}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert files["html"].read_text("utf8").startswith("<!doctype html>")
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader(files["csv"].open()))
    runs = done.json["runs"]
    assert [row["run"] for row in rows] == [run["run_id"] for run in runs] and len(rows) == 5
    assert float(rows[0]["val_loss"]) == runs[0]["val_loss"] and rows[0]["optimizer.lr"]
    assert all(run["reproduce"] == f"tmrc-submit {run['directory']}/config.yaml" for run in runs)
    again = report(sweep, "-o", files["html"], "--png", files["png"], "--csv", files["csv"])
    assert again.code == 0 and again.out.split() == [str(path) for path in files.values()]


def test_several_targets_are_compared_each_run_once(sweep: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path, "other-1", rows=30)
    point = next(sweep.glob("*-001-*"))
    done = report(sweep, other, point, "--json")
    assert len(done.json["runs"]) == 6


def test_text_fits_the_width_and_has_the_curve_the_table_and_the_causes(tmp_path: Path) -> None:
    run = make_run(tmp_path, "solo-1", rows=200, preempted_at=(80,))
    done = report(run)
    assert done.code == 0 and "solo-1" in done.out and "preempted, requeued" in done.out
    assert "█" in done.out and "training steps" in done.out and f"tmrc-submit {run}/config.yaml" in done.out
    plain = report(run, env={"PYTHONIOENCODING": "ascii"})
    assert plain.code == 0 and plain.out.isascii() and "@" in plain.out


def test_sparklines() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8, True) == "▁▂▃▄▅▆▇█"
    assert sparkline([1.0, float("nan"), 2.0], 3, True) == "▁ █"
    assert sparkline([], 8, True) == "" and sparkline([2.0] * 30, 4, False) == "____"


def test_files_that_are_not_ours_are_not_replaced(tmp_path: Path) -> None:
    run = make_run(tmp_path, "solo-1", rows=20)
    for option in ("-o", "--png", "--csv"):
        file = tmp_path / "thesis"
        file.write_text("chapter one")
        refused(report(run, option, file), option, "--force")
        assert file.read_text() == "chapter one"
        assert report(run, option, file, "--force").code == 0 and file.read_bytes() != b"chapter one"
        assert report(run, option, file).code == 0  # now it is ours
        file.unlink()


def test_targets_that_cannot_be_written_are_one_line(tmp_path: Path) -> None:
    run = make_run(tmp_path, "solo-1", rows=20)
    refused(report(run, "-o", tmp_path), "is a directory")
    refused(report(run, "--csv", tmp_path / "no" / "x.csv"), "no directory")
    refused(report(run, "--png", "/dev/null"), "no ordinary file")
    refused(report(run, "-o", tmp_path / "x", "--csv", tmp_path / "x"), "is the file of -o")
    refused(report(run, "-o", tmp_path / ("x" * 300)), "-o")


def test_through_a_link_its_target_is_replaced(tmp_path: Path) -> None:
    run = make_run(tmp_path, "solo-1", rows=20)
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    assert report(run, "--csv", tmp_path / "link.csv").code == 0
    assert (tmp_path / "link.csv").is_symlink() and (tmp_path / "real.csv").read_text().startswith("run,state")


def test_nothing_to_report(tmp_path: Path) -> None:
    refused(report(tmp_path / "none", "--text"), "is no run")
    refused(report(tmp_path, "--text"), "no runs")
    run = make_run(tmp_path, "solo-1", rows=20)
    write_rows(run / "metrics.jsonl", [])
    refused(report(run, "--png", tmp_path / "x.png"), "no losses logged yet")
    assert report(run).code == 0 and report(run, "-o", tmp_path / "x.html").code == 0


def test_a_cell_that_a_spreadsheet_would_run_gets_an_apostrophe(tmp_path: Path) -> None:
    one = make_run(tmp_path / "runs", "a-1", rows=20, settings={"datasets.name": "=cmd|'/c calc'!A1"})
    make_run(tmp_path / "runs", "a-2", rows=20, settings={"datasets.name": '@SUM(1)\nx,"y'})
    (one / "run.json").write_text(json.dumps({"command": ["+evil", "-x"]}))
    assert report(tmp_path / "runs", "--csv", tmp_path / "x.csv").code == 0
    rows = {row["run"]: row for row in csv.DictReader((tmp_path / "x.csv").open())}
    assert rows["a-1"]["datasets.name"].startswith("'=cmd") and rows["a-2"]["datasets.name"] == "'@SUM(1)\nx,\"y"
    assert rows["a-1"]["command"] == "'+evil -x" and float(rows["a-1"]["loss"]) > 0


def test_terminals_get_no_control_characters(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "a-1", rows=20, settings={"datasets.name": "\x1b]0;owned\x07"})
    make_run(tmp_path / "runs", "a-2", rows=20)
    done = report(tmp_path / "runs")
    assert done.code == 0 and "\x1b" not in done.out and "\x07" not in done.out


def test_a_name_with_dollars_is_no_formula_in_the_picture(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "runs", f"a$\\frac{{$-{n}", rows=20) for n in range(2)]
    assert report(*runs, "--png", tmp_path / "x.png").code == 0


def test_many_runs_are_read_by_several_processes_with_the_same_result(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from launch.find import find_runs
    from launch.report import collect
    from launch.report.entries import make_facts

    runs = find_runs([str(sweep)])
    alone = make_facts(collect.collect(runs)).entries
    monkeypatch.setattr(collect, "SMALL", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert make_facts(collect.collect(runs)).entries == alone
