"""What `tmrc drill` prints and writes."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from launch.compare.results import Results
from launch.drill.command import exit_code
from launch.drill.course import Course
from launch.drill.drill import Drill
from launch.drill.outcome import Blow, Outcome, Setting
from launch.drill.plan import Plan, draw_plan
from launch.drill.scene import faults_of
from launch.drill.table import Report, as_object, by_fault, folded, markdown, progress_line, summary, table
from launch.drill.wish import Wish
from launch.resultfile import ResultFile, check_files
from tmrc.config.errors import UserError
from tmrc.config.load import load_config
from tmrc.config.rundir import RunDir

NAMES = sorted(faults_of("local"))


def report_of(*outcomes: Outcome, planned: int, interrupted: bool = False) -> Report:
    course = Course(wall=9.0, start=1.0, end=1.0, steps=9, saves=2, save=0.1, validations=0)
    plans = [draw_plan(0, number, NAMES) for number in range(1, planned + 1)]
    faults = {"corrupt": "damage", "usr2": "a signal"}
    return Report({}, "reference", course, faults, plans, outcomes, interrupted)


def outcome(number: int, steps_lost: int = 1, trouble: str = "", hit: bool = True) -> Outcome:
    moment = "checkpoint (step 12345, 1234.5 s, writing a checkpoint)"
    blows = (
        Blow("corrupt", hit, moment, 5, 1.0, "3 processes"),
        Blow("usr2", False, moment, 5, 1.0, "the run had ended"),
    )
    lost, where = steps_lost * 1.5, "/some/where/" + "long" * 30
    return Outcome(number, blows, 2, steps_lost, 9.0, lost, not trouble, None, trouble, where)


def test_lines_end_between_words(tmp_path: Path) -> None:
    report = report_of(outcome(1), outcome(2, 1234, "it did not come to its end " * 9), planned=2)
    lines = table(report, 80)
    wide = table(report, None)
    assert max(len(line) for line in lines if "/some/where" not in line) <= 80
    assert max(map(len, wide)) > 200 and "writing a checkpoint" in wide[1] and "…" not in "".join(wide)
    assert "corrupt" in lines[1] and "checkpoint (step …" in lines[1] and lines[1].split()[-4:] == wide[1].split()[-4:]
    assert " ".join(" ".join(lines).split()).count(report.outcomes[1].trouble.strip()) == 1
    said = progress_line(report.outcomes[0], 1, 2)
    broken = folded(said, 80)
    assert all(len(line) <= 80 for line in broken) and " ".join(" ".join(broken).split()) == " ".join(said.split())
    assert "2 attempts, 1 step and 1.5 s lost" in said
    assert folded(said, None) == [said] and folded("  at /" + "long" * 40, 80) == ["  at /" + "long" * 40]


def test_programs_get_each_sum_as_a_number() -> None:
    found = as_object(report_of(outcome(1, 4), outcome(2, 10), planned=2), 3.0)["by_fault"]
    assert [one["fault"] for one in found] == ["corrupt", "all"]
    assert found[0] == {
        "fault": "corrupt", "trials": 2, "equal": 2, "steps_lost_median": 7.0, "steps_lost_worst": 10,
        "seconds_lost_median": 10.5, "seconds_lost_worst": 15.0,
    }  # fmt: skip


def test_an_interrupted_drill_says_so_and_what_it_has_shown() -> None:
    for outcomes, equal in (((), None), ((outcome(1),), True), ((outcome(1), outcome(2, trouble="no end")), False)):
        report = report_of(*outcomes, planned=3, interrupted=True)
        said = as_object(report, 3.0)
        assert (said["equal"], said["interrupted"]) == (equal, True)
        assert (said["planned"], said["done"], said["hit"]) == (3, len(outcomes), len(outcomes))
        assert exit_code(report) == 130 and summary(report, 3.0).startswith("interrupted: ")
        text = markdown(report, 3.0)
        assert "- result: interrupted: " in text and f"- trials: 3 planned, {len(outcomes)} done" in text
    said = as_object(report_of(outcome(1), planned=3), 3.0)  # as it is written after each trial
    assert said["equal"] and not said["interrupted"] and said["done"] == 1


def test_a_drill_that_has_hit_nothing_shows_nothing() -> None:
    nothing = "no fault came while a trial ran: nothing was shown"
    missed, mixed = report_of(outcome(1, hit=False), planned=1), report_of(outcome(1, hit=False), outcome(2), planned=2)
    assert summary(missed, 3.0) == nothing and f"- result: {nothing}\n" in markdown(missed, 3.0)
    assert exit_code(missed) == 1 and by_fault(missed) == [] and "not hit" in table(missed, None)[1]
    assert as_object(missed, 3.0)["hit"] == 0
    assert [(one.fault, one.trials) for one in by_fault(mixed)] == [("corrupt", 1), ("all", 1)]
    assert exit_code(mixed) == 0
    assert summary(mixed, 3.0).startswith("2 of 2 trials ended ") and "(1 of them over before" in summary(mixed, 3.0)
    different = report_of(outcome(1, trouble="no end", hit=False), planned=1)
    assert exit_code(different) == 1 and summary(different, 3.0).startswith("0 of 1 trial ended ")


class EqualTrial:
    """A trial that is done at once."""

    doing = "nothing"

    def __init__(self, plan: Plan) -> None:
        self.outcome = outcome(plan.number)

    def run_all(self) -> Outcome:
        return self.outcome


@pytest.mark.parametrize(("keep", "given"), [(False, False), (True, False), (False, True)])
def test_no_directory_is_named_that_was_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: bool, given: bool
) -> None:
    monkeypatch.setattr(Drill, "_trial", lambda drill, plan: EqualTrial(plan))
    wish = Wish("default", (), ("all",), 1, 0, keep=keep, reference="given" if given else None)
    course = report_of(planned=1).course
    reference = Results(RunDir(tmp_path / "reference" / "run"), *[None] * (len(fields(Results)) - 1))  # type: ignore[arg-type]
    setting = Setting(tmp_path, tmp_path, (), tmp_path, load_config("default"), reference, course, {})
    drill = Drill(wish, lambda text: None, tmp_path, setting, [draw_plan(0, 1, NAMES)])
    during: list[dict[str, Any]] = []
    after = as_object(drill.run(lambda report: during.append(as_object(report, 1.0))), 1.0)
    drill.clean_up()
    for said, kept in ((during[0], True), (after, keep)):
        assert said["drill"]["directory"] == (str(tmp_path) if kept else None)
        assert said["reference"]["run_dir"] == (str(reference.run.path) if kept or given else None)
        assert (said["trials"][0]["directory"] is not None) == keep
    assert tmp_path.exists() == keep


def test_only_an_ordinary_file_is_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("/dev/null", "/dev/full", str(tmp_path / "pipe")):
        file = ResultFile("--json", Path(name), b"ours", "tmrc drill")
        before = os.lstat(name).st_mode
        for attempt in (file.check, lambda file=file: file.write(b"ours")):
            with pytest.raises(UserError, match="is no ordinary file"):
                attempt()
        assert os.lstat(name).st_mode == before
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(UserError, match=r"--json: .*circle"):
        ResultFile("--json", tmp_path / "circle", b"ours", "tmrc drill").check()


def test_through_a_link_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    file = ResultFile("--json", tmp_path / "link", b"ours", "tmrc drill")
    for content in (b"ours 1", b"ours 2"):
        file.check()
        file.write(content)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"ours 2"
    with pytest.raises(UserError, match="is the file of --json as well"):
        check_files({"a": file, "b": ResultFile("--markdown", tmp_path / "real", b"ours", "tmrc drill")})
