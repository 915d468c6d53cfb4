"""The figures of a page: plotly takes them as they are, and they say what the files say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from launch.report.bars import goodput_chart, timeline
from launch.report.collect import POINTS
from launch.report.curves import curve_charts
from launch.report.looks import FEW, PALETTE
from launch.report.page import page
from launch.report.parallel import parallel_chart
from launch.report.table import details
from tests.report.made import BEGAN, TOKENS, make_run, make_sweep
from tests.report.test_reading import facts_of

HOSTILE = "</script><img src=x onerror=parent.pwned=1>\"'<b>&lt;\u2028\u202e =cmd()"


def sweep_of(folder: Path, runs: int, rows: int = 60) -> Any:
    sweep = make_sweep(folder, runs, rows)
    return facts_of(*sorted(path.parent for path in sweep.glob("*/run.json")))


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
        assert points <= POINTS.get(chart.name, 0) + POINTS["smooth"] + 1


def test_few_runs_differ_in_colour_or_dash_and_have_a_legend(tmp_path: Path) -> None:
    facts = sweep_of(tmp_path, FEW)
    traces = [one for one in curve_charts(facts)[1].figure["data"] if one["type"] == "scatter"]
    looks = {(trace["line"]["color"], trace["line"]["dash"]) for trace in traces}
    assert len(looks) == FEW and {colour for colour, _ in looks} <= set(PALETTE)
    shown = [trace["name"] for trace in curve_charts(facts)[0].figure["data"] if trace["showlegend"]]
    assert shown == [entry.label for entry in facts.entries]


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
    assert set(axes) == {"lr (log)", "dropout_p", "activation", "validation loss"}
    assert axes["activation"]["ticktext"] == ["gelu", "relu"] and max(axes["lr (log)"]["values"]) < 0


def test_nothing_from_files_becomes_markup(tmp_path: Path) -> None:
    facts = hostile_runs(tmp_path)
    told = "".join(details(entry, life, True) for entry, life in zip(facts.entries, facts.lives, strict=True))
    assert "optimizer.lr=0.01" in told and "optimizer.lr=0.001" in told
    html = page(facts, HOSTILE, BEGAN, HOSTILE).replace(get_plotlyjs(), "")
    assert "<img" not in html.lower() and "\u202e" not in html and "\u2028" not in html
    assert html.count("</script>") == html.count("<script")
    for figure in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', html, re.DOTALL):
        json.loads(figure)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
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
