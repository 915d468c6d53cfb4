"""The timeline of runs over their attempts, and where their time went, as plotly figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from launch.facts import Attempt
from launch.plaintext import one_line
from launch.progress import duration
from launch.report.curves import Chart, Figure
from launch.report.entries import Entry, Facts
from launch.report.hours import Span
from launch.report.life import Life
from launch.report.looks import INK, axis, escaped, layout
from tmrc.config.goodput import BUCKETS

WRAP = 60  # characters of a cause in one line of a label
ROW, TALLEST = 22, 900  # pixels of a run's row, and of all of them
_MARGIN = {"l": 56, "r": 28, "t": 60, "b": 44}
# name -> words, colour, pattern: colour is never the only sign
OUTCOMES = {
    "wait": ("in the queue", "#FFFFFF", "."),
    "running": ("goes on", "#56B4E9", ""),
    "finished": ("finished", "#009E73", ""),
    "preempted": ("preempted or requeued", "#E69F00", "/"),
    "time_limit": ("time limit", "#0072B2", "\\"),
    "node_failure": ("lost its node", "#D55E00", "x"),
    "stopped": ("stopped or cancelled", "#999999", "-"),
    "failed": ("failed or lost", "#CC79A7", "+"),
}
_KINDS = {
    "preempted": "preempted", "requeued": "preempted", "time_limit": "time_limit", "node_failure": "node_failure",
    "cancelled": "stopped", "stopped": "stopped",
}  # fmt: skip
# bucket -> words, colour, pattern
SHARES = {
    "step": ("training steps", "#0072B2", ""),
    "data_wait": ("waiting for data", "#56B4E9", "\\"),
    "validation": ("validation", "#009E73", "/"),
    "save": ("saving", "#CC79A7", "x"),
    "compile": ("compiling", "#E69F00", "-"),
    "start": ("starting", "#F0E442", "|"),
    "lost": ("lost and done again", "#D55E00", "+"),
    "idle": ("idle", "#999999", ""),
    "queue": ("in the queue", "#FFFFFF", "."),
}


@dataclass(frozen=True)
class _Segment:
    row: str
    span: Span
    outcome: str
    words: str


def outcome(attempt: Attempt | None, span: Span) -> str:
    """Which of OUTCOMES an attempt came to."""
    if span.going_on:
        return "running"
    if attempt is None or not attempt.over:
        return "failed"
    if attempt.status == "finished":
        return "finished"
    return _KINDS.get(attempt.kind) or ("stopped" if attempt.status in ("cancelled", "stopped") else "failed")


def ending_words(attempt: Attempt | None, span: Span) -> str:
    """How an attempt ended and why, on one line."""
    if span.going_on:
        return "goes on"
    if attempt is None or not attempt.over:
        return "ended without a word"
    kind = attempt.kind.replace("_", " ") if attempt.status != "finished" else ""
    done = attempt.action if attempt.action not in ("", "none", kind) else ""
    where = f"on {attempt.node}" if attempt.node else ""
    cause = attempt.cause if attempt.status != "finished" and attempt.cause != kind else ""
    head = ", ".join(part for part in (kind or attempt.status, done, where) if part)
    return one_line(f"{head}: {cause}" if cause else head)


def timeline(facts: Facts) -> Chart | None:
    """A row a run, with its attempts and waits by the clock (UTC)."""
    labels = _unique(facts.entries)
    pairs = zip(labels, facts.lives, strict=True)
    segments = [segment for label, life in pairs for segment in _segments(label, life)]
    if not segments:
        return None
    traces = [_bar(name, [one for one in segments if one.outcome == name]) for name in OUTCOMES]
    shape = layout(
        barmode="overlay",
        bargap=0.25 if len(labels) <= 40 else 0.05,
        xaxis=axis("time (UTC)", type="date"),
        yaxis=axis("", categoryorder="array", categoryarray=labels[::-1], **_names(len(labels) <= TALLEST // 14)),
        margin=_MARGIN,
        legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
        showlegend=True,
        height=min(TALLEST, ROW * len(labels)) + 150,
    )
    figure = {"data": [trace for trace in traces if trace["base"]], "layout": shape}
    attempts = sum(one.outcome != "wait" for one in segments)
    return Chart("timeline", "Attempts", f"Timeline of {attempts:,} attempts, by how each ended.", figure)


def goodput_chart(facts: Facts) -> Chart | None:
    """A row a run, in the order of the timeline: shares of its wall time."""
    pairs = [pair for pair in zip(_unique(facts.entries), facts.entries, strict=True) if pair[1].goodput is not None]
    if not pairs:
        return None
    assert set(SHARES) == set(BUCKETS)
    traces = [_shares(bucket, pairs) for bucket in SHARES]
    labels = [label for label, _ in pairs]
    label = axis("", type="category", categoryorder="array", categoryarray=labels[::-1])
    shape = layout(
        barmode="stack",
        bargap=0.25 if len(pairs) <= 40 else 0.0,
        xaxis=axis("share of the wall time", tickformat=".0%", range=[0, 1]),
        yaxis=label | _names(len(pairs) <= TALLEST // 14),
        margin=_MARGIN,
        legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
        showlegend=True,
        height=min(TALLEST, (34 if len(pairs) <= 12 else ROW) * len(pairs)) + 150,
    )
    return Chart(
        "goodput", "Where the time went", f"Shares of the wall time of {len(pairs):,} runs.",
        {"data": [trace for trace in traces if any(trace["text"])], "layout": shape},
    )  # fmt: skip


def _segments(label: str, life: Life) -> list[_Segment]:
    attempts = {one.number: one for one in life.attempts}
    found = [
        _Segment(label, wait, "wait", "waits in the queue" if wait.going_on else "waited in the queue")
        for wait in life.waits
    ]
    for span in life.spans:
        attempt = attempts.get(span.attempt)
        words = f"attempt {span.attempt}: {ending_words(attempt, span)}"
        found.append(_Segment(label, span, outcome(attempt, span), words))
    return found


def _bar(name: str, segments: Sequence[_Segment]) -> Figure:
    words, colour, pattern = OUTCOMES[name]
    return {
        "type": "bar",
        "orientation": "h",
        "name": words,
        "y": [one.row for one in segments],
        "base": [round(1000 * one.span.began) for one in segments],
        "x": [max(1, round(1000 * (one.span.ended - one.span.began))) for one in segments],
        "hovertext": [_label(one) for one in segments],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "marker": _marker(colour, pattern),
    }


def _label(segment: _Segment) -> str:
    import textwrap

    lines = textwrap.wrap(segment.words, WRAP) or [""]
    return "<br>".join([segment.row, *map(escaped, lines), f"for {duration(segment.span.ended - segment.span.began)}"])


def _shares(bucket: str, pairs: Sequence[tuple[str, Entry]]) -> Figure:
    words, colour, pattern = SHARES[bucket]
    seconds = [entry.seconds.get(bucket, 0.0) for _, entry in pairs]
    return {
        "type": "bar",
        "orientation": "h",
        "name": words,
        "y": [label for label, _ in pairs],
        "x": [round(part / entry.wall, 5) for part, (_, entry) in zip(seconds, pairs, strict=True)],
        "text": [duration(part) if part else "" for part in seconds],
        "textposition": "none",
        "hovertemplate": f"%{{hovertext}}<br>{words}: %{{text}}<extra></extra>",
        "hovertext": [label for label, _ in pairs],
        "marker": _marker(colour, pattern),
    }


def _marker(colour: str, pattern: str) -> dict[str, Any]:
    ink = "#888888" if colour == "#FFFFFF" else INK if colour == "#F0E442" else "#FFFFFF"
    look = {"shape": pattern, "fillmode": "overlay", "fgcolor": ink, "size": 6, "solidity": 0.25}
    return {"color": colour, "line": {"color": "#555555", "width": 0.5}, "pattern": look}


def _names(shown: bool) -> dict[str, Any]:
    """Names of runs along an axis, or neither names nor ticks where there are too many."""
    return {} if shown else {"showticklabels": False, "ticks": ""}


def _unique(entries: Sequence[Entry]) -> list[str]:
    """The name of each run; a number is put behind one that there is already, since plotly joins rows of one name."""
    seen: dict[str, int] = {}
    found = []
    for entry in entries:
        label = escaped(entry.name)
        seen[label] = seen.get(label, 0) + 1
        found.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return found
