"""`tmrc drill` as a command, mostly with the stand-in trainer, which forgets a killed attempt's rows nowhere."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import launch.drill.faults
import launch.drill.slurm_faults
from launch.drill.command import exit_code
from launch.drill.compare import Results
from launch.drill.course import Course
from launch.drill.damage import DAMAGES
from launch.drill.drill import Drill
from launch.drill.moments import shown
from launch.drill.outcome import Blow, Outcome, Setting
from launch.drill.plan import MOMENTS, Moment, Plan, draw_plan
from launch.drill.prepare import chosen, prepare, shorter
from launch.drill.processes import MARK
from launch.drill.scene import FAULTS, Scene, faults_of
from launch.drill.table import Report, as_object, by_fault, folded, markdown, progress_line, summary, table
from launch.drill.watch import Sight, Watcher
from launch.drill.wish import Wish
from launch.resultfile import ResultFile, check_files
from tests.launch.helpers import ROOT, Done, call, events, tags, wait_for, write_config
from tmrc.config.errors import UserError
from tmrc.config.load import load_config
from tmrc.config.rundir import RunDir

STANDIN = "tests.launch.standin.drill"
NAMES = sorted(faults_of("local"))
SLOW = tags(step_seconds=0.05)


def drill(*arguments: object, module: str = STANDIN) -> Done:
    return call(*arguments, module=module, env={"PYTHONPATH": str(ROOT)})


def marked(folder: Path) -> list[str]:
    """Command lines of the processes that carry the mark of a trial below `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={folder}/".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


# The plan


@given(seed=st.integers(), number=st.integers(1, 10_000), names=st.sets(st.sampled_from(NAMES), min_size=1))
def test_a_plan_is_a_function_of_the_seed(seed: int, number: int, names: set[str]) -> None:
    plan = draw_plan(seed, number, sorted(names))
    assert plan == draw_plan(seed, number, sorted(names, reverse=True))
    assert plan.number == number and 1 <= len(plan.hits) <= 3
    for hit in plan.hits:
        assert hit.fault in names and hit.moment.kind in MOMENTS
        assert 0 <= hit.moment.at < 1 and 0 <= hit.moment.within < 1


@given(seed=st.integers(), block=st.integers(0, 100))
def test_every_fault_has_its_turn(seed: int, block: int) -> None:
    first = 1 + block * len(NAMES)
    plans = [draw_plan(seed, number, NAMES) for number in range(first, first + len(NAMES))]
    assert sorted(plan.hits[0].fault for plan in plans) == NAMES


def test_another_seed_has_other_plans() -> None:
    assert [draw_plan(0, n, NAMES) for n in range(1, 20)] != [draw_plan(1, n, NAMES) for n in range(1, 20)]


# What is refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("default", "--faults", "kill,trem"), "got 'trem', valid: all, kill, node, term"),
        (("default", "--faults", "requeue"), "got 'requeue', valid: all, kill"),
        (("default", "--slurm", "--faults", "hup"), "got 'hup', valid: all, "),
        (("default", "--faults", "resize"), "training.exact_reduction"),
        (("default", "-p", "gpu"), "--slurm"),
        (("default", "two"), "one CONFIG"),
        (("default", "training.nothing=1"), "training.nothing"),
        (("--trials", "3"), "CONFIG is missing"),
        (("--reference", "nowhere"), "'nowhere'"),
        (("default", "--reference", "nowhere"), "--reference: its configuration is what is tried; CONFIG"),
        (("--processes", "2", "--reference", "nowhere"), "--processes"),
        (("default", "--faults", ""), "got '', valid: all, kill"),
        (("default", "--faults", ","), "got '', valid: all, kill"),
        (("default", "--json", "/dev/null"), "/dev/null: is no ordinary file"),
        (("default", "--json", "-", "--markdown", "-"), "cannot both be -"),
    ],
)
def test_a_mistake_is_one_line(arguments: tuple[str, ...], words: str) -> None:
    done = drill(*arguments)
    assert done.code == 2 and done.out == ""
    assert words in done.err and len(done.err.splitlines()) == 1, done.err


def test_a_file_of_somebody_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"mine": 1}')
    for option in ("--json", "--markdown"):
        done = drill("default", option, tmp_path / "mine.json")
        assert done.code == 2 and "mine.json" in done.err and len(done.err.splitlines()) == 1
    assert (tmp_path / "mine.json").read_text() == '{"mine": 1}'


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


def test_all_means_all_faults_also_beside_a_name() -> None:
    assert chosen(("kill", "all"), "local") == chosen(("all",), "local") and len(chosen(("all",), "local")) == len(
        NAMES
    )
    assert chosen(("kill", "term", "kill"), "local") == ["kill", "term"]


# Damage


def write_checkpoint(run: RunDir) -> Path:
    folder = run.checkpoints / "step_00000005"
    folder.mkdir(parents=True)
    for name in ("manifest.json", "model.safetensors", "optimizer.safetensors", "trainer.json"):
        (folder / name).write_bytes(b"some bytes")
    run.events.write_text("{}\n")
    return folder


def test_what_is_damaged_can_be_damaged_again(tmp_path: Path) -> None:
    """The second of two faults may come before the trainer has looked at what the first has done."""
    for number, (first, second) in enumerate(itertools.product(DAMAGES.values(), repeat=2)):
        for seed in range(20):
            folder = write_checkpoint(RunDir(tmp_path / f"{number}-{seed}"))
            for damage in (first, second):
                assert damage(folder, Random(seed))


def test_a_run_can_begin_anew_twice(tmp_path: Path) -> None:
    """Each time the only checkpoint is damaged, and moved away."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    watcher, config = Watcher(tmp_path), load_config(str(write_config(tmp_path)))
    run = watcher.run
    assert run is not None
    refused = subprocess.CompletedProcess([], 2, "", "error: the checkpoints are damaged")
    for attempt in (1, 2):
        folder = write_checkpoint(run)
        run.attempt(attempt).mkdir(parents=True)
        scene = Scene(tmp_path, watcher, config, Random(1), lambda *_: refused)
        scene.random.random = lambda: 0.5  # type: ignore[method-assign]  not rubbish, and the newest one alone
        FAULTS["corrupt"].strike(scene)
        for action in scene.after:
            action()
        assert not folder.exists() and not run.events.exists() and "begins anew" in scene.said[-1]
    assert len(list(run.path.glob("moved_*/step_00000005"))) == 2


# What is printed


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


def test_only_what_can_be_given_is_said_to_shorten_a_drill() -> None:
    assert shorter(Wish("default", (), ("all",), 20, 0)).endswith("training.save_every=... and --trials shorten it")
    assert shorter(Wish(None, (), ("all",), 20, 0, reference="run")) == "; --trials shortens it"
    assert "--trials" not in shorter(Wish("default", (), ("all",), 20, 0, only=3))
    assert shorter(Wish(None, (), ("all",), 20, 0, reference="run", only=3)) == ""


def test_a_moment_in_words() -> None:
    sight = Sight(36, "validating", 1)
    said = {kind: shown(Moment(kind, 0.5, 0.5), sight, 18.42) for kind in ("step", "time", "end")}
    assert said == {
        "step": "step 36 (18.4 s, validating)",
        "time": "18.4 s (step 36, validating)",
        "end": "end (step 36, 18.4 s, validating)",
    }
    assert shown(Moment("start-up", 0.5, 0.5), Sight(), 0.3) == "start-up (step 0, 0.3 s)"


# The command


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


def test_ctrl_c_in_the_reference_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("launch.drill.prepare.subprocess.run", interrupted)
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        prepare(Wish(str(write_config(tmp_path)), (), ("all",), 20, 0), said.append)
    assert said[-1] == "the reference had not finished: nothing is kept"
    assert list((tmp_path / "artifacts").iterdir()) == []


def test_trials_that_are_equal_and_one_that_differs(tmp_path: Path) -> None:
    """The stand-in saves when it is asked to stop, and when it is killed it writes its rows a second time."""
    config, found = write_config(tmp_path), tmp_path / "found.json"
    # Trial 4 of seed 0 is one fault at a third of the steps.
    term = ("--faults", "term", "--only", 4)
    done = drill(
        config, SLOW, "training.train_steps=40", *term, "--keep", "--json", found, "--markdown", tmp_path / "m"
    )
    assert done.code == 0, done.err
    said = json.loads(found.read_text())
    (trial,) = said["trials"]
    assert said["equal"] and trial["equal"] and trial["number"] == 4 and trial["plan"]["hits"][0]["fault"] == "term"
    assert SLOW in shlex.split(said["drill"]["command"])
    assert said["drill"]["seed"] == 0 and "torch" in said["drill"]["versions"]
    assert "1 of 1 trial ended as the uninterrupted run did" in done.out
    assert "| term | 1 | 1 |" in (tmp_path / "m").read_text()
    reference, run = Path(said["reference"]["run_dir"]), Path(trial["directory"])
    assert [row["event"] for row in events(reference)].count("submitted") == 1
    assert trial["attempts"] == len(events(run, "submitted")) == 2 and trial["steps_lost"] == 0

    done = drill("--reference", reference, "--faults", "node", "--only", KILLED, "--json", "-")
    assert done.code == 1, done.err
    said = json.loads(done.out)
    (trial,) = said["trials"]
    assert not said["equal"] and trial["difference"]["field"] == "training row stands there twice"
    assert trial["difference"]["step"] == 1 and Path(trial["directory"]).is_dir()
    assert f"again: --faults node --seed 0 --only {KILLED}\n" in done.err and "DIFFERENT" in done.err
    assert f"drill     {Path(trial['directory']).parents[1]}\n" in done.err and "estimate  1 trial in " in done.err
    assert marked(tmp_path) == []
    assert "shorten" not in done.err and Path(said["drill"]["directory"]).is_dir()
    assert f"at {trial['blows'][0]['moment']}: " in done.err

    file = reference / "metrics.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    there = sorted((tmp_path / "artifacts").iterdir())
    done = drill("--reference", reference, "--only", 1)
    assert done.code == 2 and done.out == "" and "Traceback" not in done.err
    assert "the reference is damaged: " in done.err and "ends at step 39" in done.err.splitlines()[-1]
    assert sorted((tmp_path / "artifacts").iterdir()) == there


KILLED = 4


def test_ctrl_c_ends_what_was_begun(tmp_path: Path) -> None:
    config, found = write_config(tmp_path), tmp_path / "found.json"
    words = [tags(step_seconds=0.05, child=1), "--faults", "term", "--only", "4", "--json", str(found)]
    process = subprocess.Popen(
        [sys.executable, "-m", STANDIN, str(config), *words], cwd=ROOT, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    wait_for(
        lambda: any(tmp_path.glob("artifacts/drill-*/trial-0004/*/attempts/1/rank_0.pid")), "the trial", patience=100.0
    )
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert marked(tmp_path) == []
    assert json.loads(found.read_text())["trials"] == []
    said, kept, again = out.splitlines()
    assert said == "interrupted: no trial was done" and kept.startswith("kept: ") and "Traceback" not in err
    words = shlex.split(again)
    assert (Path(words[words.index("--reference") + 1]) / "metrics.jsonl").is_file(), again


def test_a_trial_does_not_outlive_the_drill(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    words = [tags(step_seconds=0.05), "training.train_steps=4000"]
    process = subprocess.Popen(
        [sys.executable, "-m", STANDIN, str(config), *words], cwd=ROOT, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    pattern = "artifacts/drill-*/reference/*/attempts/1/rank_0.pid"
    wait_for(lambda: any(tmp_path.glob(pattern)), "the reference", patience=100.0)
    process.kill()
    process.wait()
    wait_for(lambda: not marked(tmp_path), "the end of what was begun", patience=60.0)


def test_what_tmrc_submit_refuses_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    done = drill(config, "training.batch_size=5", "launch.processes_per_node=2")
    assert done.code == 2 and "batch_size" in done.err.splitlines()[-1], done.err
    assert "Traceback" not in done.err and list((tmp_path / "artifacts").iterdir()) == []


@pytest.mark.campaign
def test_a_real_drill_of_all_faults(tmp_path: Path) -> None:
    training = {"train_steps": 60, "save_every": 0.2, "val_interval": 10, "val_batches": 1}
    config = write_config(
        tmp_path, training=training, datasets={"val_split_size": 0.1}, launch={"processes_per_node": 2}
    )
    found = tmp_path / "found.json"
    words = ["drill", str(config), "--trials", "12", "--json", str(found)]
    subprocess.run([sys.executable, "-m", "launch.cli.main", *words], cwd=ROOT, timeout=1800)
    said = json.loads(found.read_text())
    assert said["equal"], [one for one in said["trials"] if not one["equal"]]


assert launch.drill.faults and launch.drill.slurm_faults  # they register what is looked at above
