"""One run in full: its attempts, its log, and the command that helps next."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from launch.facts import Attempt, Row, attempt_numbers, integer, read_attempt, read_events, word
from launch.goodput import account_of, goodput_lines
from launch.goodput import as_object as goodput_object
from launch.logs import log_files
from launch.plaintext import one_line
from launch.progress import amount, duration
from launch.status import RunStatus
from launch.table import STARTS, note_of, number, painted, since, state_of
from launch.words import clock
from tmrc.config.rundir import RunDir

ALL_EVENTS = 1 << 24  # bytes of events.jsonl that are read for one run
SHOWN = 20  # attempts that are listed
LABEL = 12


def as_object(one: RunStatus, run: RunDir) -> dict[str, Any]:
    """The run for `--json`."""
    first = first_steps(run)
    attempts = [{**asdict(attempt), "first_step": first.get(attempt.number)} for attempt in history(run)]
    return {
        **asdict(one),
        "history": attempts,
        "goodput": goodput_object(account_of(one, run)),
        "logs": [str(path) for path in log_files(run)],
        "next": next_command(one),
    }


def history(run: RunDir) -> list[Attempt]:
    """All attempts, oldest first. Of one that could not say how it ended, somebody else's word may be in the events."""
    found = [read_attempt(run, number) for number in attempt_numbers(run)]
    said = {integer(row, "attempt"): row for row in read_events(run, ALL_EVENTS) if row["event"] == "cancelled"}
    return [_cancelled(one, said[one.number]) if one.number in said and _silent(one) else one for one in found]


def _silent(attempt: Attempt) -> bool:
    return not attempt.over or attempt.kind == "lost"


def _cancelled(attempt: Attempt, said: Row) -> Attempt:
    step = attempt.step if attempt.step is not None else integer(said, "step")
    return replace(attempt, status="cancelled", kind="cancelled", cause=word(said, "cause"), step=step)


def first_steps(run: RunDir) -> Mapping[int, int]:
    """Attempt -> the step that it went on from."""
    found = {}
    for row in read_events(run, ALL_EVENTS):
        attempt, step = integer(row, "attempt"), integer(row, "step")
        if row["event"] in ("started", "resumed") and attempt is not None and step is not None:
            found[attempt] = step
    return found


def page(one: RunStatus, run: RunDir, width: int | None, colour: bool) -> list[str]:
    """Lines about one run. What is longer than `width` goes on in the next line, at a space."""
    state = painted(state_of(one), one.state) if colour else state_of(one)
    pairs = [("run", one_line(one.run_id)), ("directory", one_line(typed(Path(one.run_dir))))]
    note = note_of(one)
    pairs.append(("state", state + (f": {note}" if note else "")))
    if one.job_id:
        pairs.append(("job", one_line(one.job_id)))
    pairs += [*_progress(one), *_halved(run), *goodput_lines(account_of(one, run), run)]
    lines = [line for label, text in pairs for line in _wrapped(label, text, width)]
    attempts = history(run)
    if attempts:
        first = first_steps(run)
        lines.append("attempts" + (f"    the last {SHOWN} of {len(attempts):,}" if len(attempts) > SHOWN else ""))
        for attempt in attempts[-SHOWN:]:
            newest = attempt is attempts[-1]
            lines += _wrapped(f"{attempt.number:>4}", _attempt(attempt, first, one if newest else None), width)
    logs = log_files(run)
    if logs:
        lines += _wrapped("log", one_line(typed(logs[-1])), width)
    command = next_command(one)
    hint = f"  # {STARTS}" if "--resume" in command.split() and one.checkpoint_step is None else ""
    return [*lines, *_wrapped("next", command + hint, width)]


def next_command(one: RunStatus) -> str:
    """What somebody who looks at the run is likely to want to type."""
    run = shlex.quote(typed(Path(one.run_dir)))
    if one.state == "pending":
        return f"tmrc cancel {run}"
    if one.active:
        return f"tmrc logs {run} -f"
    if one.state == "finished":
        saved = one.checkpoint_step is not None
        return f'tmrc generate {run} --prompt "..."' if saved else f"tmrc report {run}"
    return f"tmrc-submit {'--local ' if one.executor == 'local' else ''}--resume {run}"


def typed(path: Path) -> str:
    """A path as somebody here would type it: relative where it is below the working directory."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def _progress(one: RunStatus) -> list[tuple[str, str]]:
    step = "-" if one.step is None else f"{one.step:,}"
    if one.total_steps:
        step += f" of {one.total_steps:,}" + (f" ({one.step / one.total_steps:.1%})" if one.step is not None else "")
    if one.eta is not None:
        step += f", {duration(one.eta)} left"
    saved = "-" if one.checkpoint_step is None else f"step {one.checkpoint_step:,}, {since(one.checkpoint_time)} ago"
    speed = "-" if one.tokens_per_s is None else f"{amount(one.tokens_per_s)} tokens/s"
    losses = f"{number(one.loss)}, validation {number(one.val_loss)}"
    return [("step", step), ("loss", losses), ("speed", speed), ("checkpoint", saved)]


def _halved(run: RunDir) -> list[tuple[str, str]]:
    """The last time that `micro_batch_size: auto` had to go down for want of memory."""
    last = next((row for row in reversed(read_events(run, ALL_EVENTS)) if row["event"] == "micro_batch_size"), None)
    if last is None:
        return []
    before, after, rank, attempt = (integer(last, name) for name in ("from", "to", "rank", "attempt"))
    if None in (before, after, rank, attempt):
        return []
    where = f"rank {rank} ({word(last, 'device') or '-'}) had no room for {before} in attempt {attempt}"
    return [("micro-batch", one_line(f"{after} sequences: {where}"))]


def _attempt(attempt: Attempt, first: Mapping[int, int], now: RunStatus | None) -> str:
    """When, where, which steps, and how it ended; `now` is the run when this is its newest attempt."""
    over = attempt.over or now is None or not now.active or now.state == "pending"
    words = [clock(attempt.began) if attempt.began else "-"]
    if attempt.began and attempt.ended:
        words.append(f"for {duration(max(0.0, attempt.ended - attempt.began))}")
    if attempt.nodes:
        words.append(f"on {','.join(attempt.nodes)}")
    if attempt.job_id and attempt.executor == "slurm":
        words.append(f"job {attempt.job_id}")
    last = now.step if now is not None and attempt.step is None else attempt.step
    if (begun := first.get(attempt.number)) is not None:
        words.append(f"steps {begun:,} to {'-' if last is None else f'{last:,}'}")
    return one_line(
        f"{'  '.join(words)}  {_ending(attempt, now) if over else now.state if now else ''}".replace("  ", " · ")
    )


def _ending(attempt: Attempt, now: RunStatus | None) -> str:
    if not attempt.over:
        return (now.cause or now.state) if now is not None and not now.active else "ended without a word"
    kind = attempt.kind.replace("_", " ")
    cause = attempt.cause if attempt.status != "finished" else ""
    how = kind if kind and attempt.status != "finished" else attempt.status
    blamed = f" (on {attempt.node})" if attempt.node else ""
    done = f", {attempt.action}" if attempt.action not in ("", "none", how) else ""
    return f"{how}{done}{blamed}{f': {cause}' if cause and cause != how else ''}"


def _wrapped(label: str, text: str, width: int | None) -> list[str]:
    room = max(20, (width or 10**6) - LABEL)
    parts = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or ["-"]
    return [f"{label if n == 0 else '':{LABEL}}{part}" for n, part in enumerate(parts)]
