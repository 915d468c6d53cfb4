"""The page: one HTML file with everything in it, that asks the network for nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from pathlib import Path

from launch.progress import amount, duration
from launch.report.bars import goodput_chart, timeline
from launch.report.curves import Chart, curve_charts
from launch.report.entries import Entry, Facts
from launch.report.labels import short_value
from launch.report.output import PAGE
from launch.report.parallel import parallel_chart
from launch.report.settings import shown_value
from launch.report.table import details, hours, moment, notes, share, state_words, table, text
from launch.table import number

WIDE = ("loss", "timeline", "goodput", "parallel")
MANY_NOTES = 5
# What a script could be tricked into, the browser refuses: only our two scripts run, and nothing is loaded or sent.
# eval is what parallel coordinates are drawn with (regl makes its shaders' functions at run time).
_POLICY = (
    "default-src 'none'; script-src {scripts} 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)


def page(facts: Facts, title: str, now: float, problem: str = "") -> str:
    """The whole page. `title` names what is shown, `now` is when it was read, `problem` why Slurm said nothing."""
    from plotly.offline import get_plotlyjs

    curves = curve_charts(facts)
    after = [chart for chart in (timeline(facts), goodput_chart(facts)) if chart is not None]
    parallel = parallel_chart(facts)
    plotly, own = get_plotlyjs(), _file("page.js")
    policy = _POLICY.format(scripts=" ".join(map(_digest, (plotly, own))))
    several = len(facts.entries) > 1
    small = [chart for chart in curves if chart.name not in WIDE]
    odd = small[-1] if len(small) % 2 else None  # has a row for itself
    charts = [*curves, *([parallel] if parallel else []), *after]
    body = [
        _header(facts, title, now, problem),
        _choices(facts) if curves else '<p class="warning">No run has logged anything yet.</p>',
        f'<div class="charts">{"".join(_section(chart, alone=chart is odd) for chart in curves)}</div>',
        f'<section class="flows"><h2>Runs, the lowest validation loss first</h2>{_tall(facts, table(facts))}</section>'
        if several
        else "",
        _same(facts) if several else "",
        *map(_section, charts[len(curves) :]),
        _runs(facts),
        _footer(now),
    ]
    data = "\n".join(map(_figure, charts))
    axes = _data("axes", json.dumps({"steps": "step", "tokens": "tokens", "hours": facts.hours_unit}))
    return (
        f'<!doctype html>\n{PAGE.decode()}\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{text(title)} - tmrc report</title>\n<style>\n{_file('page.css')}</style>\n</head>\n<body>\n"
        + "\n".join(filter(None, body))
        + f"\n{axes}\n{data}\n<script>{plotly}</script>\n<script>{own}</script>\n</body>\n</html>\n"
    )


def _header(facts: Facts, title: str, now: float, problem: str) -> str:
    states = Counter(state_words(entry) for entry in facts.entries)
    said = ", ".join(f"{count:,} {state}" for state, count in states.most_common())
    lines = [f"<header><h1>{text(title)}</h1>", f'<p class="note">{text(said)} - as of {moment(now)} UTC</p>']
    if problem:
        lines.append(f'<p class="warning">{text(f"The queue could not be asked: {problem}")}</p>')
    odd = [(entry, note) for entry in facts.entries for note in notes(entry)]
    lines += [f'<p class="warning">{text(f"{entry.label}: {note}")}</p>' for entry, note in odd[:MANY_NOTES]]
    if len(odd) > MANY_NOTES:
        lines.append(f'<p class="warning">{len(odd) - MANY_NOTES:,} more such notes are with the runs below.</p>')
    cells = "".join(
        f"<div><dt>{text(label)}</dt><dd>{text(value)}{f'<small>{text(more)}</small>' if more else ''}</dd></div>"
        for label, value, more in headline(facts)
    )
    return "\n".join([*lines, f'<dl class="facts">{cells}</dl></header>'])


def headline(facts: Facts) -> list[tuple[str, str, str]]:
    """(what, how much, more words) of the facts that a reader wants first."""
    entries = facts.entries
    found = [("runs", f"{len(entries):,}", "")] if len(entries) > 1 else []
    found += _best(entries)
    tokens = [entry.tokens for entry in entries if entry.tokens is not None]
    if tokens:
        found.append(("tokens", amount(sum(tokens)), ""))
    found.append((facts.hours_unit, hours(sum(entry.device_hours for entry in entries)), ""))
    measured = [entry for entry in entries if entry.goodput is not None]
    if measured:
        waited = sum(entry.seconds["queue"] for entry in measured)
        held = sum(entry.wall for entry in measured) - waited
        steps = sum(entry.seconds["step"] for entry in measured)
        found.append(("goodput", share(steps / held), f"{duration(waited)} more in the queue" if waited >= 1 else ""))
    attempts = sum(entry.attempts for entry in entries)
    lost = sum(entry.seconds["lost"] for entry in entries)
    found.append(("attempts", f"{attempts:,}", f"{duration(lost)} lost and done again" if lost >= 1 else ""))
    return found


def _best(entries: tuple[Entry, ...]) -> list[tuple[str, str, str]]:
    first = entries[0]
    if len(entries) == 1:
        found = [("training loss", number(first.loss), "")]
        if first.best_val_loss is not None:
            best = first.best_val_loss != first.val_loss
            more = f"best {number(first.best_val_loss)} at step {first.best_val_step:,}" if best else ""
            found.append(("validation loss", number(first.val_loss), more))
        return found
    if first.val_loss is None:
        return []
    differs = list(first.differs.items())[:4]
    own = [f"{key.rpartition('.')[2]}={short_value(shown_value(value))}" for key, value in differs]
    return [("lowest validation loss", number(first.val_loss), " ".join([first.label, *own]))]


def _choices(facts: Facts) -> str:
    options = (("steps", "steps"), ("tokens", "tokens"), ("hours", facts.hours_unit))
    radio = '<label><input type="radio" name="axis" value="{}"{}> {}</label>'
    axes = "".join(radio.format(value, " checked" if value == "steps" else "", text(label)) for value, label in options)
    return (
        f'<form class="choices"><fieldset><legend>Curves by</legend>{axes}</fieldset>'
        '<label><input type="checkbox" name="log"> logarithmic losses</label>'
        '<label><input type="checkbox" name="late"> without the first tenth</label></form>'
    )


def _section(chart: Chart, alone: bool = False) -> str:
    curve = chart.name == "loss" or chart.name not in WIDE
    shape = "wide" if chart.name in WIDE else "row" if alone else ""
    log = " data-log" if chart.name in ("loss", "val_loss") else ""
    note = f'<p class="note">{text(chart.note)}</p>' if chart.note else ""
    return (
        f'<section class="{shape}"><h2>{text(chart.title)}</h2>{note}'
        f'<div class="chart" id="{chart.name}" data-kind="{"curve" if curve else "other"}"{log} role="img" '
        f'aria-label="{text(chart.alt)}"></div></section>\n'
    )


def _tall(facts: Facts, inner: str) -> str:
    return inner.replace('class="scroll"', 'class="scroll tall"', 1) if len(facts.entries) > 30 else inner


def _same(facts: Facts) -> str:
    """The settings that all runs share, for whoever opens the list."""
    settings = [life.settings for life in facts.lives if life.settings]
    if not settings:
        return ""
    shared = {
        key: value for key, value in settings[0].items() if all(key in one and one[key] == value for one in settings)
    }
    lines = "\n".join(f"{text(key)}: {text(shown_value(value))}" for key, value in shared.items())
    summary = f"{len(shared):,} settings that are the same in all runs"
    return f"<details><summary>{summary}</summary><pre class=settings>{lines}</pre></details>"


def _runs(facts: Facts) -> str:
    alone = len(facts.entries) == 1
    parts = "\n".join(details(entry, life, alone) for entry, life in zip(facts.entries, facts.lives, strict=True))
    return f'<section class="flows"><h2>{"How it was run" if alone else "How each was run"}</h2>\n{parts}</section>'


def _footer(now: float) -> str:
    return (
        f"<footer>Written by tmrc report, {moment(now)} UTC. The page holds everything it shows and asks the network "
        "for nothing. Losses are in nats a token. Of each stretch of a long curve the lowest and highest value stay. "
        "<noscript>The charts need JavaScript.</noscript></footer>"
    )


def _figure(chart: Chart) -> str:
    """The figure, checked by plotly, its arrays in base64."""
    import plotly.graph_objects as go

    look = {**chart.figure["layout"], "template": {}}  # plotly's own template would repeat its defaults in each figure
    return _data(f"data-{chart.name}", str(go.Figure({"data": chart.figure["data"], "layout": look}).to_json()))


def _data(name: str, body: str) -> str:
    """JSON in a script element that no browser runs and that nothing in it can close."""
    for character in "<>&\u2028\u2029":
        body = body.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" id="{name}">{body}</script>'


def _digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _file(name: str) -> str:
    return Path(__file__).with_name(name).read_text("utf8")
