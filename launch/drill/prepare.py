"""What comes before the trials: the reference, the faults that can be had, and the plans."""

from __future__ import annotations

import datetime
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from launch.compare.results import Results, read_results
from launch.drill.course import Course, course_of
from launch.drill.drill import Drill
from launch.drill.local import last_line
from launch.drill.outcome import Setting
from launch.drill.plan import HITS, draw_plan
from launch.drill.processes import MARK, end_all
from launch.drill.scene import Fault, faults_of
from launch.drill.sound import require_sound
from launch.drill.table import counted
from launch.drill.wish import Wish
from launch.find import find_run, is_run
from launch.processes import end_with_parent
from launch.progress import duration
from tmrc.config.errors import UserError, nearest, shown
from tmrc.config.load import load_config
from tmrc.config.rundir import RunDir
from tmrc.config.schema import Config
from tmrc.config.waiting import waiting

QUIET = ("wandb_log.mode=disabled", "launch.template=null")  # of the trials: what the reference's file has resolved
REFERENCE = "reference"


def prepare(wish: Wish, say: Callable[[str], None]) -> Drill:
    """Run the reference, or take the one that is given, and draw the plans. Raises UserError."""
    names = chosen(wish.faults, "slurm" if wish.slurm else "local")
    config, source, begun = _config(wish)
    known = None if begun is None else _known(begun)  # before anything is said or made
    names = _possible(names, config, wish, say)
    folder = _folder(config)
    say(f"{'drill':10}{folder}")
    try:
        known = known or _known(_reference(wish, folder, source))
    except (KeyboardInterrupt, SystemExit):
        say(f"kept: {folder}" if folder.exists() else "the reference had not finished: nothing is kept")
        raise
    setting = _setting(wish, folder, names, *known)
    numbers = [wish.only] if wish.only else range(1, wish.trials + 1)
    drill = Drill(wish, say, folder, setting, [draw_plan(wish.seed, n, names) for n in numbers])
    _say_course(drill, wish)
    return drill


def chosen(faults: Sequence[str], where: str) -> list[str]:
    """The faults that are named, or all. Raises UserError for a name that there is none of, or not there."""
    valid = faults_of(where)
    for name in faults:
        if name not in ("all", *valid):
            raise UserError(f"--faults: got {shown(name)}, valid: all, {', '.join(valid)}{nearest(name, valid)}")
    return list(valid if "all" in faults else dict.fromkeys(faults))


def _config(wish: Wish) -> tuple[Config, str, RunDir | None]:
    """The configuration, what it is read from, and the reference where one is given."""
    if wish.reference is not None:
        if wish.source is not None or wish.overrides:
            raise UserError(
                "--reference: its configuration is what is tried; CONFIG, KEY=VALUE and --processes cannot be given "
                "as well"
            )
        run = find_run(wish.reference, option="--reference: ")
        if not run.code.is_dir():
            raise UserError(f"{run.code}: missing, so that trials cannot use the code of the reference")
        return load_config(run.config), str(run.config), run
    if wish.source is None:
        raise UserError("CONFIG is missing: a YAML file, the name of a packaged configuration, or --reference RUN")
    return load_config(wish.source, wish.overrides), wish.source, None


def _possible(names: list[str], config: Config, wish: Wish, say: Callable[[str], None]) -> list[str]:
    """Without what this configuration cannot do. Raises UserError where it was asked for by name."""
    if "resize" not in names or config.training.exact_reduction:
        return names
    why_not = "resize takes training.exact_reduction=true: without it another number of processes rounds in another way"
    if "resize" in wish.faults:
        raise UserError(f"--faults: {why_not}")
    say(f"note: {why_not}; left out")
    return [name for name in names if name != "resize"]


def _folder(config: Config) -> Path:
    now = datetime.datetime.now(datetime.UTC)
    folder = Path(config.training.artifacts_path).absolute() / f"drill-{now:%Y%m%d-%H%M%S}-{os.urandom(2).hex()}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"training.artifacts_path: {folder}: cannot be made: {error.strerror or error}") from None
    return folder


def _reference(wish: Wish, folder: Path, source: str) -> RunDir:
    """Run the configuration without any fault. Raises UserError when it does not finish."""
    target = folder / REFERENCE
    try:
        target.mkdir()
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(f"{target}: cannot be made: {error.strerror or error}") from None
    if wish.slurm:
        from launch.drill.slurm import run_reference

        return run_reference(wish, target, source)
    return _local_reference(wish, folder, target, source)


def _local_reference(wish: Wish, folder: Path, target: Path, source: str) -> RunDir:
    """Run it on this machine, in `target`. Raises UserError when it does not finish."""
    words = [sys.executable, "-m", wish.submit, "--local", source, *wish.overrides]
    words += [f"training.artifacts_path={target}", QUIET[0]]
    env = {**os.environ, MARK: str(target)}
    log = folder / "reference.log"
    try:
        with waiting("the reference, a run without any fault"), log.open("wb") as output:
            done = subprocess.run(
                words, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                preexec_fn=end_with_parent,
            )  # fmt: skip
    except BaseException:
        end_all(target)
        shutil.rmtree(folder, ignore_errors=True)
        raise
    found = [RunDir(path) for path in target.iterdir() if not path.name.startswith(".") and is_run(path)]
    if done.returncode != 0 or not found:
        problem = last_line(log).removeprefix("error: ")
        if not found:
            shutil.rmtree(folder, ignore_errors=True)
        raise UserError(problem if done.returncode == 2 else f"the reference has not finished: {problem} ({folder})")
    return found[0]


def _known(run: RunDir) -> tuple[Course, Results]:
    """What the reference tells. Raises UserError where it has not finished, or is damaged."""
    course, results = course_of(run), read_results(run)
    require_sound(results, course, load_config(run.config).training.log_interval)
    return course, results


def _setting(wish: Wish, folder: Path, names: list[str], course: Course, results: Results) -> Setting:
    run = results.run
    faults: dict[str, Fault] = {name: faults_of("slurm" if wish.slurm else "local")[name] for name in names}
    config = load_config(run.config)
    return Setting(folder, run.config, QUIET, run.code, config, results, course, faults, wish.options, wish.submit)


def _say_course(drill: Drill, wish: Wish) -> None:
    """What the reference took, what the trials will take, and what is remarkable about them."""
    course, say = drill.setting.course, drill.say
    say(
        f"reference {counted(course.steps, 'step')} in {duration(course.wall)} ({duration(course.start)} before the "
        f"first), {counted(course.saves_on_the_way, 'checkpoint')} before the last"
    )
    if not course.saves_on_the_way:
        advice = "; training.save_every=SECONDS writes more" if wish.reference is None else ""
        say(
            "warning: the reference has written no checkpoint but the last, so that a hard kill loses everything"
            f"{advice}"
        )
    if not drill.setting.config.training.save_model:
        say("warning: training.save_model is off: a killed run begins anew, and there are no weights to compare")
    hits = sum(n * share for n, share in enumerate(HITS, 1)) / sum(HITS)
    each = course.wall + hits * (course.start + course.end + 0.5)
    total = each * len(drill.plans) / wish.parallel
    say(f"estimate  {counted(len(drill.plans), 'trial')} in {duration(total)}{shorter(wish)}")


def shorter(wish: Wish) -> str:
    """What else can be given to have a shorter drill, to go on the line of its estimate."""
    ways = [] if wish.reference is not None else ["training.train_steps=...", "training.save_every=..."]
    ways += [] if wish.only is not None else ["--trials"]
    if len(ways) < 2:
        return f"; {ways[0]} shortens it" if ways else ""
    return f"; {', '.join(ways[:-1])} and {ways[-1]} shorten it"
