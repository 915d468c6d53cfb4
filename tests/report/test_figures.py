"""The figures of a page: plotly takes them as they are, and they say what the files say."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from launch.report.bars import goodput_chart, timeline
from launch.report.collect import POINTS
from launch.report.curves import ROWS_BEHIND, curve_charts
from launch.report.life import MEANS
from launch.report.looks import FEW, PALETTE
from launch.report.page import page
from launch.report.parallel import STROKES, parallel_chart
from launch.report.table import SHOWN_CAUSE, details, table
from tests.report.made import BEGAN, TOKENS, make_run, make_sweep, write_rows
from tests.report.test_reading import facts_of

HOSTILE = "</script><img src=x onerror=parent.pwned=1>\"'<b>&lt;\u2028\u202e =cmd()"


def sweep_of(folder: Path, runs: int, rows: int = 60) -> Any:
    return runs_in(make_sweep(folder, runs, rows))


def test_all_figures_are_valid_and_within_their_budget(tmp_path: Path) -> None:
    facts = sweep_of(tmp_path, 30, rows=400)
    charts = [*curve_charts(facts), timeline(facts), goodput_chart(facts), parallel_chart(facts)]
    for chart in charts:
        assert chart is not None
        go.Figure(chart.figure)  # raises for anything that plotly does not know
    names = [chart.name for chart in charts if chart]
    assert names == ["loss", "val_loss", "lr", "grad_norm", "tokens_per_s", "timeline", "goodput", "parallel"]
    for chart in curve_charts(facts):
        points = sum(len(trace["x"]) for trace in chart.figure["data"])
        assert points <= POINTS.get(chart.name, 0) + POINTS.get(MEANS.get(chart.name, ""), 0) + 1


def test_few_runs_differ_in_colour_or_dash_and_have_a_legend(tmp_path: Path) -> None:
    facts = sweep_of(tmp_path, FEW)
    traces = [one for one in curve_charts(facts)[1].figure["data"] if one["type"] == "scatter"]
    looks = {(trace["line"]["color"], trace["line"]["dash"]) for trace in traces}
    assert len(looks) == FEW and {colour for colour, _ in looks} <= set(PALETTE)
    shown = [trace["name"] for trace in curve_charts(facts)[0].figure["data"] if trace["showlegend"]]
    assert shown == [entry.name for entry in facts.entries]


def test_many_runs_are_coloured_by_loss_without_a_legend(tmp_path: Path) -> None:
    facts = sweep_of(tmp_path, FEW + 1)
    figure = curve_charts(facts)[0].figure
    assert figure["layout"]["showlegend"] is False
    assert any(trace.get("marker", {}).get("showscale") for trace in figure["data"])


def test_one_run_has_both_losses_in_one_chart(tmp_path: Path) -> None:
    charts = curve_charts(facts_of(make_run(tmp_path, "solo-1", rows=200)))
    assert [chart.name for chart in charts] == ["loss", "lr", "grad_norm", "tokens_per_s"]
    assert [trace["name"] for trace in charts[0].figure["data"] if trace["showlegend"]] == ["training", "validation"]


def test_tokens_are_a_number_a_step_where_they_are_in_proportion(tmp_path: Path) -> None:
    facts = facts_of(make_run(tmp_path, "solo-1", rows=50))
    assert all(trace["meta"]["tokens"] == TOKENS for trace in curve_charts(facts)[0].figure["data"])


def test_the_timeline_has_attempts_waits_and_causes(tmp_path: Path) -> None:
    chart = timeline(facts_of(make_run(tmp_path, "solo-1", rows=100, preempted_at=(30, 60))))
    assert chart is not None
    bars = {trace["name"]: trace for trace in chart.figure["data"]}
    assert set(bars) == {"in the queue", "preempted or requeued", "finished"}
    assert len(bars["preempted or requeued"]["x"]) == 2 and len(bars["in the queue"]["x"]) == 3
    assert min(bars["in the queue"]["base"]) >= BEGAN * 1000
    assert "preempted, requeued" in bars["preempted or requeued"]["hovertext"][0]
    patterns = [trace["marker"]["pattern"]["shape"] for trace in chart.figure["data"]]
    assert len(set(patterns)) == len(patterns)  # colour is not the only sign


def test_goodput_shares_add_up(tmp_path: Path) -> None:
    facts = sweep_of(tmp_path, 3)
    chart = goodput_chart(facts)
    assert chart is not None
    for n in range(3):
        assert abs(sum(trace["x"][n] for trace in chart.figure["data"]) - 1) < 1e-3


def test_parallel_coordinates_need_two_runs_and_something_that_differs(tmp_path: Path) -> None:
    same = [make_run(tmp_path, f"a-{n}", rows=30) for n in range(2)]
    assert parallel_chart(facts_of(*same)) is None and parallel_chart(facts_of(same[0])) is None
    chart = parallel_chart(sweep_of(tmp_path, 6))
    assert chart is not None
    axes = {axis["label"]: axis for axis in chart.figure["data"][0]["dimensions"]}
    assert axes["lr (log)"]["range"][1] < 0
    assert set(axes) == {"lr (log)", "dropout_p", "activation", "validation loss"}
    assert axes["activation"]["ticktext"] == ["gelu", "relu"] and max(axes["lr (log)"]["values"]) < 0


@pytest.mark.parametrize("runs", [3, 6, FEW + 1])
def test_spikes_of_the_gradient_norm_are_drawn_and_noise_of_the_throughput_is_not(tmp_path: Path, runs: int) -> None:
    sweep = make_sweep(tmp_path, runs, 400)
    file = next(sweep.glob("*-001-*")) / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    write_rows(file, [{**row, "grad_norm": 777.0} if row["step"] == 200 and "loss" in row else row for row in rows])
    charts = {chart.name: chart for chart in curve_charts(runs_in(sweep))}
    norms = [trace for trace in charts["grad_norm"].figure["data"] if trace["uid"] != "scale"]
    assert len(norms) == 2 * runs and max(trace["y"].max() for trace in norms) == 777.0
    assert sum(trace["y"].max() > 700 for trace in norms) == 1  # the mean has it flat
    assert all(trace["opacity"] < 0.5 for trace in norms if trace["uid"].endswith("raw"))
    rates = charts["tokens_per_s"].figure["data"]
    assert len(rates) == (2 * runs if runs <= ROWS_BEHIND else runs)
    assert "spike" in charts["grad_norm"].note and ("Faint" in charts["tokens_per_s"].note) == (runs <= ROWS_BEHIND)


def test_ticks_of_parallel_coordinates_are_numbers_as_people_write_them(tmp_path: Path) -> None:
    settings = [{"training.train_steps": steps, "optimizer.lr": rate} for steps, rate in ((2000, 1e-5), (48000, 1e-3))]
    chart = parallel_chart(facts_of(*(make_run(tmp_path, f"a-{n}", 30, one) for n, one in enumerate(settings))))
    assert chart is not None
    ticks = {axis["label"]: axis.get("ticktext") for axis in chart.figure["data"][0]["dimensions"]}
    assert ticks["train_steps (log)"] == ["2,000", "48,000"] and ticks["lr (log)"] == ["1e-5", "0.001"]


def test_lines_of_parallel_coordinates_are_broad_where_they_are_few(tmp_path: Path) -> None:
    chart = parallel_chart(sweep_of(tmp_path, 6))
    assert chart is not None
    (trace,) = chart.figure["data"]
    strokes = [[tuple(axis["values"][n::6]) for axis in trace["dimensions"]] for n in range(6)]
    assert len(trace["line"]["color"]) == 6 * len(STROKES) and all(len(set(values)) == len(STROKES)
                                                                   for run in strokes for values in run)  # fmt: skip
    for axis in trace["dimensions"]:  # a stroke is no other value
        assert max(axis["values"]) - axis["range"][1] < 0.01 * (axis["range"][1] - axis["range"][0])


def test_the_table_has_the_causes_of_runs_that_failed(tmp_path: Path) -> None:
    cause = "RuntimeError: <b>CUDA</b> out of memory. " + "Tried to allocate 20 GiB. " * 8
    runs = [make_run(tmp_path, f"a-{n}", 30, state=state) for n, state in enumerate(("failed", "held", "finished"))]
    for run in runs:
        ending = run / "attempts" / "1" / "job.json"
        ending.write_text(json.dumps({**json.loads(ending.read_text()), "kind": "error", "message": cause}))
    made = table(facts_of(*runs))
    assert made.count("<small>RuntimeError: &lt;b&gt;CUDA") == 2 and "<b>CUDA" not in made
    assert html.escape(" ".join(cause.split())) in made  # as title, whole
    shown = re.findall("<small>(.*?)</small>", made)
    assert all(len(html.unescape(one)) <= SHOWN_CAUSE and one.endswith("…") for one in shown)
    alone = facts_of(runs[0])
    assert "failed: RuntimeError" in details(alone.entries[0], alone.lives[0], True)


def runs_in(sweep: Path) -> Any:
    return facts_of(*sorted(path.parent for path in sweep.glob("*/run.json")))


def test_nothing_from_files_becomes_markup(tmp_path: Path) -> None:
    facts = hostile_runs(tmp_path)
    told = "".join(details(entry, life, True) for entry, life in zip(facts.entries, facts.lives, strict=True))
    assert "optimizer.lr=0.01" in told and "optimizer.lr=0.001" in told
    text = page(facts, HOSTILE, BEGAN, HOSTILE).replace(get_plotlyjs(), "")
    assert "<img" not in text.lower() and "\u202e" not in text and "\u2028" not in text
    assert text.count("</script>") == text.count("<script")
    for figure in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL):
        json.loads(figure)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy and "default-src 'none'" in policy[1] and "http" not in policy[1]
    assert "unsafe-inline" not in policy[1].partition("script-src")[2].partition(";")[0]


def hostile_runs(folder: Path) -> Any:
    """Two runs whose every text tries to be markup."""
    runs = []
    for n in range(2):
        name = f"run-{n}<img src=x onerror=parent.pwned=1>"
        settings = {"datasets.name": f"{HOSTILE}{n}", "optimizer.lr": 10.0 ** -(2 + n)}
        run = make_run(folder, name, 60, settings, n, (20,), "failed", ["tmrc-submit", HOSTILE, "$(x)"])
        ending = run / "attempts" / "2" / "job.json"
        ending.write_text(
            json.dumps({**json.loads(ending.read_text()), "message": HOSTILE, "kind": HOSTILE, "node": HOSTILE})
        )
        about = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps({**about, "python": HOSTILE, "versions": {HOSTILE: HOSTILE}}))
        runs.append(run)
    return facts_of(*runs)
