"""The table of runs and the details of each, as HTML. Every text from a file is escaped."""

from __future__ import annotations

import datetime
import html
import shlex
from collections.abc import Sequence

from launch.facts import word
from launch.plaintext import harmless, one_line
from launch.progress import amount, duration
from launch.report.bars import ending_words
from launch.report.entries import Entry, Facts
from launch.report.labels import cut_end
from launch.report.life import Life
from launch.report.settings import shown_value
from launch.table import number

MOST_KEYS = 12  # settings that get a column each
SHOWN_CAUSE = 60  # characters of a cause in the table


def text(value: object) -> str:
    """`value` for HTML, on one line, without characters that reorder or hide what is shown."""
    return html.escape(one_line(str(value)))


def table(facts: Facts) -> str:
    """All runs, the best validation loss first, with the settings in which they differ in bold."""
    keys = facts.keys[:MOST_KEYS]
    measures = ["validation loss", "best", "loss", "step", "tokens", facts.hours_unit, "goodput", "attempts"]
    own = [f'<th scope="col" title="{text(key)}">{text(key.rpartition(".")[2])}</th>' for key in keys]
    numbers = [f'<th scope="col" class="n">{text(name)}</th>' for name in measures]
    head = "".join(['<th scope="col">run</th>', *own, *numbers, '<th scope="col">state</th>'])
    rows = [_row(n, entry, keys) for n, entry in enumerate(facts.entries)]
    left_out = len(facts.keys) - len(keys)
    more = f"They differ in {left_out:,} settings more, which --csv and --json have."
    note = f'<p class="note">{more}</p>' if left_out else ""
    return scrolling("Runs", f"<table><thead><tr>{head}</tr></thead>", rows) + note


def details(entry: Entry, life: Life, is_open: bool) -> str:
    """How one run was started, how to start it again, and its attempts."""
    lines = [f'<details id="{anchor(entry)}"{" open" if is_open else ""}><summary>{text(entry.run_id)}</summary>']
    if entry.command:
        lines.append(_command("As it was typed", entry.command))
    if point := _point(life):
        lines.append(_command("Its point of the sweep", point))
    lines.append(_command("The same run again, whatever has become of its configuration file", entry.reproduce))
    lines.append(_origin(life, entry))
    if entry.trouble:
        lines.append(f'<p class="warning">{text(f"{state_words(entry)}: {entry.trouble}")}</p>')
    lines += [f'<p class="warning">{text(note)}</p>' for note in notes(entry)]
    lines.append(_attempts(life))
    return "\n".join(filter(None, lines)) + "\n</details>"


def notes(entry: Entry) -> list[str]:
    """What is odd about a run's files or losses."""
    found = []
    if entry.no_number is not None:
        rows, step = entry.no_number
        found.append(f"The loss is no number in {rows:,} row{'s' * (rows != 1)}, first at step {step:,}.")
    if entry.damaged_rows:
        found.append(f"{entry.damaged_rows:,} damaged line{'s' * (entry.damaged_rows != 1)} of metrics.jsonl left out.")
    return found


def anchor(entry: Entry) -> str:
    """An id for links within the page."""
    return "run-" + "".join(c if (c.isalnum() and c.isascii()) or c in "-_." else "_" for c in entry.run_id)


def moment(time: float) -> str:
    """A unix time, as the page tells it to readers anywhere."""
    try:
        return datetime.datetime.fromtimestamp(time, datetime.UTC).strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):
        return "-"


def share(value: float | None) -> str:
    """A share in percent."""
    return "-" if value is None else f"{value:.1%}"


def hours(value: float) -> str:
    """Hours with as many digits as say something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def state_words(entry: Entry) -> str:
    """The state, with a question mark where only files tell of it."""
    return entry.state + ("" if entry.sure else "?")


def _row(place: int, entry: Entry, keys: Sequence[str]) -> str:
    name = f'<th scope="row"><a href="#{anchor(entry)}" title="{text(entry.run_id)}">{text(entry.label)}</a></th>'
    differs = "".join(f"<td><b>{text(shown_value(entry.differs[key]))}</b></td>" for key in keys)
    best = number(entry.best_val_loss)
    if entry.best_val_step is not None and entry.best_val_loss != entry.val_loss:
        best += f" at {entry.best_val_step:,}"
    cells = [
        number(entry.val_loss), best, number(entry.loss), _steps(entry),
        "-" if entry.tokens is None else amount(entry.tokens), hours(entry.device_hours), share(entry.goodput),
        str(entry.attempts),
    ]  # fmt: skip
    why = f"<small>{text(cut_end(entry.trouble, SHOWN_CAUSE))}</small>" if entry.trouble else ""
    state = f'<td class="state" title="{text(entry.cause)}">{text(state_words(entry))}{why}</td>'
    first = ' class="first"' if place == 0 and entry.val_loss is not None else ""
    numbers = "".join(f'<td class="n">{text(cell)}</td>' for cell in cells)
    return f"<tr{first}>{name}{differs}{numbers}{state}</tr>"


def _point(life: Life) -> str:
    """What a sweep has set for this run."""
    sweep = life.about.get("sweep")
    found = sweep.get("overrides") if isinstance(sweep, dict) else None
    return shlex.join(one for one in found if isinstance(one, str)) if isinstance(found, list) else ""


def _steps(entry: Entry) -> str:
    done = "-" if entry.step is None else f"{entry.step:,}"
    return done if entry.total_steps in (None, entry.step) else f"{done}/{entry.total_steps:,}"


def _command(label: str, command: str) -> str:
    return f'<p class="label">{text(label)}</p>\n<pre><code>{html.escape(harmless(command))}</code></pre>'


def _origin(life: Life, entry: Entry) -> str:
    about = life.about
    git = about.get("git")
    dirty = " with uncommitted changes (in run.json)" if isinstance(git, dict) and git.get("dirty") is True else ""
    versions = about.get("versions")
    shown = [f"{name} {version}" for name, version in versions.items() if version] if isinstance(versions, dict) else []
    python = [f"Python {word(about, 'python')}"] if word(about, "python") else []
    parts = [f"in {word(about, 'directory')}"] if word(about, "directory") else []
    parts += [f"commit {entry.commit[:12]}{dirty}"] if entry.commit else []
    return f'<p class="note">{text("; ".join([*parts, ", ".join([*python, *shown])]))}</p>' if parts or shown else ""


def _attempts(life: Life) -> str:
    if not life.spans:
        return ""
    ends = {one.number: one for one in life.attempts}
    rows = []
    for span in life.spans:
        attempt = ends.get(span.attempt)
        where = ", ".join(attempt.nodes) if attempt else ""
        cells = [
            moment(span.began), duration(span.ended - span.began), where,
            f"{life.first[span.attempt]:,}" if span.attempt in life.first else "-",
            f"{attempt.step:,}" if attempt and attempt.step is not None else "-",
            ending_words(attempt, span),
        ]  # fmt: skip
        cells_html = "".join(f"<td>{text(cell)}</td>" for cell in cells)
        rows.append(f'<tr><th scope="row">{span.attempt}</th>{cells_html}</tr>')
    heads = ("attempt", "began (UTC)", "took", "where", "from step", "to step", "how it ended")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return scrolling("Attempts", f'<table class="attempts"><thead><tr>{head}</tr></thead>', rows)


def scrolling(label: str, head: str, rows: Sequence[str]) -> str:
    """A table in a box of its own, which scrolls where the page is too narrow."""
    body = "\n".join(rows)
    box = f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">'
    return f"{box}{head}\n<tbody>\n{body}\n</tbody></table></div>"
