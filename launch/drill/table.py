"""What a drill has found, as lines for a terminal, as Markdown, and as an object for programs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from launch.drill.course import Course
from launch.drill.outcome import Blow, Outcome
from launch.drill.plan import Plan
from launch.plaintext import harmless, one_line, wrapped
from launch.progress import duration
from launch.table import cut

GAP = "  "
MOMENT = 2  # the column that gives way where there is no room
NARROWEST = 12  # columns that it keeps
INDENT = "    "  # of what a line goes on with
HEADS = ("fault", "trials", "equal", "steps lost: median", "worst", "seconds lost: median", "worst")
MARK = "<!-- made by tmrc drill -->"
COUNTING = (
    "A trial with several faults counts in the row of each that hit it. What a fault has lost is taken from the trials "
    "that no other one hit, where there are such."
)


@dataclass(frozen=True)
class Report:
    """A drill so far. `about` says what was tried, with which seed and versions; `faults` is name -> what it is.

    `reference` is its directory, None once that is deleted; `interrupted` is whether somebody has ended the drill.
    """

    about: Mapping[str, Any]
    reference: str | None
    course: Course
    faults: Mapping[str, str]
    plans: Sequence[Plan]
    outcomes: Sequence[Outcome]
    interrupted: bool = False

    @property
    def equal(self) -> bool | None:
        """Whether all trials that were done are equal; None when none was done."""
        return all(one.equal for one in self.outcomes) if self.outcomes else None

    @property
    def hit(self) -> Sequence[Outcome]:
        """The trials that a fault has come to while they ran."""
        return [one for one in self.outcomes if _was_hit(one)]

    @property
    def shows_nothing(self) -> bool:
        """Whether no fault came to any trial, and nothing else went wrong."""
        return bool(self.equal) and not self.hit


@dataclass(frozen=True)
class Sum:
    """What one fault has done: the `trials` that it hit, how many of these were equal, what was lost in them."""

    fault: str
    trials: int
    equal: int
    steps_lost_median: float
    steps_lost_worst: int
    seconds_lost_median: float
    seconds_lost_worst: float

    def cells(self) -> list[str]:
        """As a row of a table, below HEADS."""
        return [
            self.fault, str(self.trials), str(self.equal), f"{self.steps_lost_median:g}", str(self.steps_lost_worst),
            f"{self.seconds_lost_median:.1f}", f"{self.seconds_lost_worst:.1f}",
        ]  # fmt: skip


def progress_line(outcome: Outcome, done: int, total: int) -> str:
    """One trial that has just ended."""
    hits = " + ".join(_words(blow) for blow in outcome.blows) or "no fault"
    lost = f"{counted(outcome.steps_lost, 'step')} and {outcome.seconds_lost:.1f} s lost"
    attempts = counted(outcome.attempts, "attempt")
    return harmless(f"[{done:>{len(str(total))}}/{total}] {_verdict(outcome):9} {hits}: {attempts}, {lost}")


def counted(number: int, what: str) -> str:
    """`1 step`, `2 steps`."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def folded(text: str, width: int | None) -> list[str]:
    """A line of the drill's as several, the later ones further in than its beginning."""
    return wrapped(text, width, " " * (len(text) - len(text.lstrip())) + INDENT)


def _words(blow: Blow) -> str:
    said = f" ({blow.said})" if blow.said else ""
    return f"{blow.fault}{said} at {blow.moment}"


def _verdict(outcome: Outcome) -> str:
    if outcome.trouble:
        return "FAILED"
    if not outcome.equal:
        return "DIFFERENT"
    return "equal" if _was_hit(outcome) else "not hit"


def _was_hit(outcome: Outcome) -> bool:
    """Whether any fault came before the run was over."""
    return any(blow.reached for blow in outcome.blows)


def why(outcome: Outcome) -> str:
    """What is wrong with a trial, in one line; empty where nothing is."""
    return one_line(outcome.trouble or (str(outcome.difference) if outcome.difference else ""))


def table(report: Report, width: int | None) -> list[str]:
    """All trials, then the sum of each fault, then what is wrong. `width` None is as wide as it gets."""
    rows = [["trial", "fault", "moment", "attempts", "steps lost", "seconds lost", "result"]]
    for one in report.outcomes:
        for n, blow in enumerate(one.blows or (None,)):
            fault, moment = (blow.fault, blow.moment) if blow else ("-", "-")
            rest = (
                [str(one.attempts), str(one.steps_lost), f"{one.seconds_lost:.1f}", _verdict(one)]
                if n == 0
                else [""] * 4
            )
            rows.append([str(one.number) if n == 0 else "", fault, moment, *rest])
    sums = [one.cells() for one in by_fault(report)]
    below = ["", *_aligned([HEADS, *sums])] if sums else []
    return [*_aligned(_narrowed(rows, width)), *below, *_differing(report, width)]


def by_fault(report: Report) -> list[Sum]:
    """One for each fault that has hit, then one for all trials that were hit. A trial counts for each that hit it."""
    sums = []
    for name in report.faults:
        hit = [one for one in report.outcomes if any(blow.fault == name and blow.reached for blow in one.blows)]
        alone = [one for one in hit if sum(blow.reached for blow in one.blows) == 1] or hit
        if hit:
            sums.append(_sum(name, hit, alone))
    if report.hit:
        sums.append(_sum("all", report.hit, report.hit))
    return sums


def _sum(fault: str, hit: Sequence[Outcome], lost: Sequence[Outcome]) -> Sum:
    """Of the trials that were `hit`; what a fault costs is taken from those in `lost`."""
    steps, seconds = [one.steps_lost for one in lost], [one.seconds_lost for one in lost]
    return Sum(
        fault, len(hit), sum(one.equal for one in hit),
        float(statistics.median(steps)), max(steps), statistics.median(seconds), max(seconds),
    )  # fmt: skip


def _differing(report: Report, width: int | None) -> list[str]:
    bad = [one for one in report.outcomes if not one.equal]
    return [
        line
        for one in bad
        for line in ("", *folded(f"trial {one.number}: {why(one)}", width), one_line(f"  {one.directory}"))
    ]


def _narrowed(rows: Sequence[Sequence[str]], width: int | None) -> list[list[str]]:
    """Moments end between two words where all columns together are too wide."""
    used = sum(max(len(row[n]) for row in rows) for n in range(len(rows[0])) if n != MOMENT)
    room = None if width is None else max(NARROWEST, width - used - len(GAP) * (len(rows[0]) - 1))
    return [[cut(cell, room) if n == MOMENT else cell for n, cell in enumerate(row)] for row in rows]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return [
        harmless(GAP.join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()) for row in rows
    ]


def summary(report: Report, seconds: float) -> str:
    """The last line."""
    count, equal = len(report.outcomes), sum(one.equal for one in report.outcomes)
    if not count:
        return "interrupted: no trial was done"
    early = "interrupted: " if report.interrupted else ""
    if report.shows_nothing:
        return f"{early}no fault came while a trial ran: nothing was shown"
    planned = f" (of {len(report.plans)} that were planned)" if count < len(report.plans) else ""
    missed = sum(one.equal and not _was_hit(one) for one in report.outcomes)
    of_these = f" ({missed} of them over before any fault came)" if missed else ""
    told = f"{early}{equal} of {counted(count, 'trial')}{planned} ended as the uninterrupted run did, bit for bit"
    return f"{told}{of_these}; {duration(seconds)}"


def markdown(report: Report, seconds: float) -> str:
    """A section with the table of all faults, for a page."""
    named = ("command", "date", "versions", "seed")
    lines = [f"- {name}: {one_line(str(value))}" for name, value in report.about.items() if name in named]
    planned, done, hit = len(report.plans), len(report.outcomes), len(report.hit)
    lines += [f"- result: {summary(report, seconds)}", f"- trials: {planned} planned, {done} done, {hit} hit", ""]
    sums = [one.cells() for one in by_fault(report)]
    body = [HEADS, ["---"] * len(HEADS), *sums] if sums else []
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in body]
    lines += ["", COUNTING, ""] if sums else []
    lines += [f"- `{name}`: {text}" for name, text in report.faults.items()]
    lines += [f"- trial {one.number}: {why(one)}" for one in report.outcomes if not one.equal]
    return "\n".join([MARK, "", *lines, ""])


def as_object(report: Report, seconds: float) -> dict[str, Any]:
    """Everything, for programs."""
    plans = {plan.number: plan for plan in report.plans}
    return {
        "drill": {**report.about, "seconds": seconds},
        "reference": {"run_dir": report.reference, **asdict(report.course)},
        "equal": report.equal,
        "planned": len(report.plans),
        "done": len(report.outcomes),
        "hit": len(report.hit),
        "interrupted": report.interrupted,
        "trials": [{**asdict(one), "plan": asdict(plans[one.number])} for one in report.outcomes],
        "by_fault": [asdict(one) for one in by_fault(report)],
    }
