"""`tmrc report` as it is typed: files, text, JSON, and what it refuses."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest

from launch.report.collect import collect
from launch.report.entries import make_facts
from launch.report.terminal import report_lines, sparkline
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
    done = report(sweep, other, point, sweep, other, "--json")
    assert len(done.json["runs"]) == 6


def test_text_fits_the_width_and_has_the_curve_the_table_and_the_causes(tmp_path: Path) -> None:
    run = make_run(tmp_path, "solo-1", rows=200, preempted_at=(80,))
    done = report(run)
    assert done.code == 0 and "solo-1" in done.out and "preempted, requeued" in done.out
    assert "█" in done.out and "training steps" in done.out and f"tmrc-submit {run}/config.yaml" in done.out
    plain = report(run, env={"PYTHONIOENCODING": "ascii"})
    assert plain.code == 0 and plain.out.isascii() and "@" in plain.out


def lines_of(folder: Path, width: int | None) -> list[str]:
    from launch.find import find_runs

    return report_lines(make_facts(collect(find_runs([str(folder)]))), "runs", width, True)


def head_of(lines: list[str]) -> list[str]:
    (head,) = [line for line in lines if line.startswith("RUN")]
    return head.split()


@pytest.fixture(scope="module")
def many_settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that differ in a long path and in five other settings."""
    folder = tmp_path_factory.mktemp("settings")
    for n in range(2):
        settings = {
            "datasets.path": f"/data/somebody/with/a/long/path/that/takes/all/the/width/corpus-{n}",
            "model.n_layer": 4 + n, "model.dropout_p": n / 10, "optimizer.lr": 1e-4 * (n + 1),
            "optimizer.weight_decay": 0.1 + n / 20, "training.train_steps": 20_000 + n,
        }  # fmt: skip
        make_run(folder, f"a-{n}", 120, settings, bottom=3.0 + n)
    return folder


@pytest.mark.parametrize("width", [200, 140, 120, 100, 80, 50])
def test_settings_that_differ_are_shown_or_named(many_settings: Path, width: int) -> None:
    lines = lines_of(many_settings, width)
    told = " ".join(lines).partition("also differ in:")[2]
    for key in ("datasets.path", "model.n_layer", "model.dropout_p", "optimizer.lr", "training.train_steps"):
        assert (key.rpartition(".")[2].upper() in head_of(lines)) != (key in told), key
    assert max(len(line) for line in lines if "tmrc-submit" not in line) <= width


def test_settings_stay_longer_than_what_matters_less(many_settings: Path) -> None:
    lines = lines_of(many_settings, 120)
    assert "PATH" in head_of(lines) and "corpus-1" in "".join(lines) and "/data" not in "".join(lines)
    assert not {"TOKENS", "HOURS", "BEST", "ATT"} & set(head_of(lines))


def test_paths_that_end_alike_keep_more_than_their_end(tmp_path: Path) -> None:
    for n in range(2):
        make_run(tmp_path, f"a-{n}", 20, {"datasets.path": f"/data/{n}/somebody/corpora/wikitext"})
    shown = "\n".join(lines_of(tmp_path, 120))
    assert "…" in shown and "/data/0" in shown and "/data/1" in shown


def test_without_a_width_everything_is_shown_uncut(many_settings: Path) -> None:
    lines = lines_of(many_settings, None)
    assert {"PATH", "TRAIN_STEPS", "TOKENS", "HOURS", "BEST", "ATT", "STATE"} <= set(head_of(lines))
    assert "all/the/width/corpus-1" in "".join(lines) and "also differ" not in "".join(lines)


def test_in_a_pipe_the_text_is_uncut(many_settings: Path) -> None:
    done = report(many_settings, env={"COLUMNS": "50"})
    assert "all/the/width/corpus-1" in done.out and " TOKENS " in done.out


def test_the_text_has_the_causes_of_runs_that_failed(tmp_path: Path) -> None:
    for n in range(6):
        run = make_run(tmp_path, f"a-{n}", 30, state="held" if n == 5 else "failed")
        ending = run / "attempts" / "1" / "job.json"
        cause = "there is no directory /data/x" if n else "RuntimeError: CUDA out of memory; " + "x" * 300
        ending.write_text(json.dumps({**json.loads(ending.read_text()), "kind": "error", "message": cause}))
    lines = lines_of(tmp_path, 110)
    assert any(line.endswith(" and 1 more failed: there is no directory /data/x") for line in lines)
    assert "5 held: there is no directory /data/x" in lines
    assert any(line.startswith("0 failed: RuntimeError: CUDA out of memory;") and len(line) <= 110 for line in lines)
    assert any(line.endswith("x" * 300) for line in lines_of(tmp_path, None))
    assert "failed: there is no directory /data/x" in lines_of(tmp_path / "a-1", 110)


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
    refused(report(run, "-o", tmp_path / "no" / "x.html"), "-o", "no directory")
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
    from launch.report import collect as reading

    runs = find_runs([str(sweep)])
    alone = make_facts(collect(runs)).entries
    monkeypatch.setattr(reading, "SMALL", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert make_facts(collect(runs)).entries == alone


def test_losses_beyond_all_measure_are_told_of_and_not_drawn(tmp_path: Path) -> None:
    run = make_run(tmp_path, "huge-1")
    sane = [{"step": n, "loss": 3.0, "grad_norm": 1.0, "lr": 0.1, "tokens": n} for n in range(3)]
    huge = {"grad_norm": 1e308, "lr": 1e300}
    rows = [{"step": n, "loss": 1.7e308 * (-1) ** n, "tokens": n, **huge} for n in range(3, 200)]
    write_rows(run / "metrics.jsonl", [*sane, *rows])
    done = report(run, "-o", tmp_path / "x.html", "--png", tmp_path / "x.png", "--csv", tmp_path / "x.csv", "--text")
    assert done.code == 0, done.err
    assert (tmp_path / "x.html").stat().st_size > 10**6
