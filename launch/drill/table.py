"""What a drill has found, as lines for a terminal, as Markdown, and as an object for programs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from launch.drill.course import Course
from launch.drill.outcome import Outcome
from launch.drill.plan import Plan
from launch.plaintext import harmless, one_line
from launch.progress import duration

GAP = "  "


@dataclass(frozen=True)
class Report:
    """A drill so far. `about` says what was tried, with which seed and versions; `faults` is name -> what it is."""

    about: Mapping[str, Any]
    reference: str
    course: Course
    faults: Mapping[str, str]
    plans: Sequence[Plan]
    outcomes: Sequence[Outcome]

    @property
    def equal(self) -> bool:
        """Whether every trial that was to be made has been, and all were equal."""
        return len(self.outcomes) == len(self.plans) and all(one.equal for one in self.outcomes)


def progress_line(outcome: Outcome, done: int, total: int) -> str:
    """One trial that has just ended."""
    hits = " + ".join(_blow(outcome, n) for n in range(len(outcome.blows)))
    lost = f"{outcome.steps_lost} steps and {outcome.seconds_lost:.1f} s lost"
    attempts = f"{outcome.attempts} attempt{'s' * (outcome.attempts != 1)}"
    return harmless(f"[{done:>{len(str(total))}}/{total}] {_verdict(outcome):9} {hits}: {attempts}, {lost}")


def _blow(outcome: Outcome, number: int) -> str:
    blow = outcome.blows[number]
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


def table(report: Report) -> list[str]:
    """All trials, then the sum of each fault."""
    heads = ["trial", "fault", "moment", "attempts", "steps lost", "seconds lost", "result"]
    rows = [heads]
    for one in report.outcomes:
        for n, blow in enumerate(one.blows or (None,)):
            fault, moment = (blow.fault, blow.moment) if blow else ("-", "-")
            rest = (
                [str(one.attempts), str(one.steps_lost), f"{one.seconds_lost:.1f}", _verdict(one)]
                if n == 0
                else [""] * 4
            )
            rows.append([str(one.number) if n == 0 else "", fault, moment, *rest])
    return [*_aligned(rows), "", *_aligned(by_fault(report)), *_differing(report)]


def by_fault(report: Report) -> list[list[str]]:
    """A row a fault: in how many trials it hit, how many of these were equal, what was lost in them."""
    rows = [["fault", "trials", "equal", "steps lost: median", "worst", "seconds lost: median", "worst"]]
    for name in report.faults:
        hit = [one for one in report.outcomes if any(blow.fault == name and blow.reached for blow in one.blows)]
        alone = [one for one in hit if sum(blow.reached for blow in one.blows) == 1] or hit
        if hit:
            rows.append([name, str(len(hit)), str(sum(one.equal for one in hit)), *_spread(alone)])
    if report.outcomes:
        equal = sum(one.equal for one in report.outcomes)
        rows.append(["all", str(len(report.outcomes)), str(equal), *_spread(report.outcomes)])
    return rows


def _spread(outcomes: Sequence[Outcome]) -> list[str]:
    steps, seconds = [one.steps_lost for one in outcomes], [one.seconds_lost for one in outcomes]
    return [
        f"{statistics.median(steps):g}", str(max(steps)),
        f"{statistics.median(seconds):.1f}", f"{max(seconds):.1f}",
    ]  # fmt: skip


def _differing(report: Report) -> list[str]:
    bad = [one for one in report.outcomes if not one.equal]
    return [line for one in bad for line in ("", f"trial {one.number}: {why(one)}", one_line(f"  {one.directory}"))]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return [
        harmless(GAP.join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()) for row in rows
    ]


def summary(report: Report, seconds: float) -> str:
    """The last line."""
    count, equal = len(report.outcomes), sum(one.equal for one in report.outcomes)
    cut = "" if count == len(report.plans) else f" (of {len(report.plans)} that were planned)"
    missed = sum(one.equal and not _was_hit(one) for one in report.outcomes)
    of_these = f" ({missed} of them were over before any fault came)" if missed else ""
    told = f"{equal} of {count} trials{cut} ended as the uninterrupted run did, bit for bit{of_these}"
    return f"{told}; {duration(seconds)}"


def markdown(report: Report, seconds: float) -> str:
    """A section with the table of all faults, for a page."""
    head, *rows = by_fault(report)
    lines = [
        f"- {name}: {value}" for name, value in report.about.items() if name in ("command", "date", "versions", "seed")
    ]
    lines += [f"- took: {seconds / 60:.0f} minutes", f"- result: {summary(report, seconds)}", ""]
    body = [head, ["---"] * len(head), *([row[0], *row[1:]] for row in rows)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in body]
    lines += ["", *(f"- `{name}`: {text}" for name, text in report.faults.items())]
    lines += [f"- trial {one.number}: {why(one)}" for one in report.outcomes if not one.equal]
    return "\n".join([MARK, "", *lines, ""])


MARK = "<!-- made by tmrc drill -->"


def as_object(report: Report, seconds: float) -> dict[str, Any]:
    """Everything, for programs."""
    plans = {plan.number: plan for plan in report.plans}
    return {
        "drill": {**report.about, "seconds": seconds},
        "reference": {"run_dir": report.reference, **asdict(report.course)},
        "equal": report.equal,
        "trials": [{**asdict(one), "plan": asdict(plans[one.number])} for one in report.outcomes],
        "by_fault": [dict(zip(by_fault(report)[0], row, strict=True)) for row in by_fault(report)[1:]],
    }
