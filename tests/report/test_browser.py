"""The page in a real browser: it draws, asks for nothing, lets no text from a file run, and fits a phone and paper."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from launch.report.page import page
from tests.browser import look
from tests.report.made import BEGAN, TOKENS, make_run
from tests.report.test_figures import HOSTILE, hostile_runs, sweep_of
from tests.report.test_reading import facts_of

pytestmark = [pytest.mark.browser, pytest.mark.slow]

# In the page: notes what the policy has stopped, waits until all is drawn, then tells the page around it what there is.
_WATCH = "window.stopped = []; addEventListener('securitypolicyviolation', (e) => stopped.push(e.blockedURI));"
_MEASURE = """
(() => {
  const charts = () => [...document.querySelectorAll('.chart')];
  const lasts = () => document.getElementById('loss')._fullData.map((trace) => trace.x[trace.x.length - 1]);
  const wait = () => {
    if (!document.documentElement.dataset.drawn) { setTimeout(wait, 50); return; }
    const found = {
      drawn: +document.documentElement.dataset.drawn,
      traces: Object.fromEntries(charts().map((chart) =>
        [chart.id, chart.querySelectorAll('.scatterlayer .trace, .barlayer .trace, .parcoords').length])),
      broken: charts().filter((chart) => /could not be drawn/.test(chart.textContent)).length,
      text: document.body.innerText,
      images: document.querySelectorAll('img').length,
      width: document.documentElement.scrollWidth, window: innerWidth,
      asked: performance.getEntriesByType('resource').map((entry) => entry.name), stopped: window.stopped,
      legends: charts().filter((chart) => chart.querySelector('.legend')).map((chart) => {
        const box = chart.querySelector('.legend .bg').getBoundingClientRect(), around = chart.getBoundingClientRect();
        const plot = chart.querySelector('.nsewdrag').getBoundingClientRect();
        return { name: chart.id, bar: +chart.querySelector('.legend .scrollbar').getAttribute('height'),
          inside: box.top >= around.top - 1 && box.bottom <= around.bottom + 1,
          apart: box.bottom <= plot.top + 1 || box.top >= plot.bottom || box.left >= plot.right - 1 };
      }),
      share: document.querySelectorAll('[data-title^="Share"]').length,
      steps: lasts(),
    };
    const loss = document.getElementById('loss');
    loss.emit('plotly_hover', { points: [{ data: loss.data[1] }] });
    found.lit = charts().map((chart) => chart.querySelectorAll('.lit').length);
    loss.emit('plotly_unhover', {});
    found.dark = document.querySelectorAll('.lit, .dimmed').length;
    const click = (selector) => { const one = document.querySelector(selector); if (one) one.click(); };
    click('input[value=tokens]');
    setTimeout(() => {
      found.tokens = lasts();
      found.axis = document.getElementById('loss').layout.xaxis.title.text;
      click('input[value=hours]');
      setTimeout(() => {
        found.hours = lasts();
        click('input[name=log]');
        click('input[name=late]');
        loss.emit('plotly_legendclick', { data: loss.data, curveNumber: 0 });
        setTimeout(() => {
          found.scale = loss.layout.yaxis.type;
          found.range = loss.layout.xaxis.range;
          found.hidden = loss.data.filter((trace) => trace.visible === 'legendonly').map((trace) => trace.legendgroup);
          parent.postMessage(JSON.stringify(found), '*');
        }, 300);
      }, 300);
    }, 300);
  };
  wait();
})();
"""
_AROUND = """<!doctype html><body style="margin:0"><pre id="found"></pre><script>
  addEventListener('message', (event) => { document.getElementById('found').textContent = event.data; });
</script><iframe src="page.html" style="border:0;width:{width}px;height:2000px"></iframe>"""


def measured(folder: Path, text: str, width: int = 1280) -> dict[str, Any]:
    """What the page is like in a window of `width` pixels. The scripts that look are let in by their digests."""
    watch, measure = (f"{script}".replace("\r", "") for script in (_WATCH, _MEASURE))
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in (watch, measure)]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    text = text.replace("script-src ", f"script-src {allowed} ", 1)
    text = text.replace("<style>", f"<script>{watch}</script><style>", 1)
    (folder / "page.html").write_text(text.replace("</body>", f"<script>{measure}</script></body>"), "utf8")
    (folder / "around.html").write_text(_AROUND.replace("{width}", str(width)))
    printed, said = look(folder / "around.html", "--dump-dom")
    assert said == []
    match = re.search(r'<pre id="found">(.+?)</pre>', printed, re.DOTALL)
    assert match, "the page has not told what it is like"
    found = json.loads(html.unescape(match[1]))
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("sweep")
    return folder, measured(folder, page(sweep_of(folder, 6, 300), "a sweep", BEGAN))


def test_all_charts_are_drawn_and_nothing_is_asked_for(sweep: tuple[Path, dict[str, Any]]) -> None:
    found = sweep[1]
    assert found["drawn"] == 8 and found["broken"] == 0
    assert found["traces"]["loss"] == 12 and found["traces"]["val_loss"] == 6  # the rows and their mean
    assert all(found["traces"].values()), found["traces"]
    assert found["asked"] == [] and found["stopped"] == []
    assert found["share"] == 0  # plotly's button that sends a chart to its makers


def test_the_axis_the_scale_and_the_legend_can_be_chosen(sweep: tuple[Path, dict[str, Any]]) -> None:
    found = sweep[1]
    assert found["tokens"] == [step * TOKENS for step in found["steps"]] and found["axis"] == "tokens"
    assert all(0 < hours < 10 for hours in found["hours"]) and found["scale"] == "log"
    assert found["range"][0] > 0 and len(set(found["hidden"])) == 1 and len(found["hidden"]) == 2


def test_the_run_that_is_pointed_at_stands_out_in_all_charts(sweep: tuple[Path, dict[str, Any]]) -> None:
    assert sweep[1]["lit"] == [2, 1, 1, 2, 1, 0, 0, 0] and sweep[1]["dark"] == 0


def test_text_from_files_is_inert(tmp_path: Path) -> None:
    found = measured(tmp_path, page(hostile_runs(tmp_path / "runs"), HOSTILE, BEGAN, HOSTILE))
    assert found["broken"] == 0 and found["images"] == 0 and found["stopped"] == [] and found["asked"] == []
    assert "<img src=x onerror=parent.pwned=1>" in found["text"] and "&lt;" in found["text"]
    assert all(found["traces"].values()), found["traces"]


def test_a_script_that_gets_in_all_the_same_does_not_run(tmp_path: Path) -> None:
    text = page(facts_of(make_run(tmp_path / "runs", "solo-1", 30)), "a run", BEGAN)
    text = text.replace("<header>", '<header><img src="https://example.invalid/x.png" onerror="document.title=1">'
                        "<script>document.body.dataset.pwned = 1</script>", 1)  # fmt: skip
    (tmp_path / "page.html").write_text(text, "utf8")
    printed, said = look(tmp_path / "page.html", "--dump-dom")
    assert "data-pwned" not in printed and "<title>a run" in printed
    assert said and all("Content Security Policy" in line for line in said)


@pytest.mark.parametrize(("width", "runs"), [(390, 2), (520, 3), (900, 12), (1280, 3)])
def test_no_legend_is_cut_or_lies_over_its_chart(tmp_path: Path, width: int, runs: int) -> None:
    found = measured(tmp_path, page(sweep_of(tmp_path, runs, 120), "a sweep", BEGAN), width)
    assert [one["name"] for one in found["legends"]] == ["loss", "timeline", "goodput"]
    for one in found["legends"]:
        assert one["bar"] == 0 and one["inside"] and one["apart"], one


@pytest.mark.parametrize("runs", [1, 6, 30])
def test_a_phone_does_not_scroll_sideways(tmp_path: Path, runs: int) -> None:
    facts = sweep_of(tmp_path, runs, 120) if runs > 1 else facts_of(make_run(tmp_path / "runs", "solo-1" * 12, 120))
    found = measured(tmp_path, page(facts, "a sweep with a long name " * 6, BEGAN), width=390)
    assert found["window"] == 390 and found["width"] <= 390
    assert found["broken"] == 0 and all(found["traces"].values())


def test_it_can_be_printed_and_pictured(sweep: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    look(sweep[0] / "page.html", f"--print-to-pdf={tmp_path / 'page.pdf'}", f"--screenshot={tmp_path / 'page.png'}")
    look(sweep[0] / "page.html", f"--screenshot={tmp_path / 'page.png'}", "--window-size=1280,2000")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF") and (tmp_path / "page.pdf").stat().st_size > 50_000
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "page.png").stat().st_size > 50_000  # not a white page


def test_a_run_without_a_row_has_a_page_that_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", "solo-1", 20)
    (run / "metrics.jsonl").unlink()
    (tmp_path / "page.html").write_text(page(facts_of(run), "a run", BEGAN), "utf8")
    printed, said = look(tmp_path / "page.html", "--dump-dom")
    assert said == [] and "No run has logged anything yet." in printed and 'data-drawn="2"' in printed
