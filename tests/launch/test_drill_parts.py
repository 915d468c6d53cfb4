"""The parts of `tmrc drill`: plans, damage, words."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import launch.drill.faults
import launch.drill.slurm_faults
from launch.drill.damage import DAMAGES
from launch.drill.moments import shown
from launch.drill.plan import MOMENTS, Moment, draw_plan
from launch.drill.prepare import chosen, prepare, shorter
from launch.drill.scene import FAULTS, Scene, faults_of
from launch.drill.watch import Sight, Watcher
from launch.drill.wish import Wish
from tests.launch.helpers import write_config
from tmrc.config.load import load_config
from tmrc.config.rundir import RunDir

NAMES = sorted(faults_of("local"))


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


def test_all_means_all_faults_also_beside_a_name() -> None:
    assert chosen(("kill", "all"), "local") == chosen(("all",), "local") and len(chosen(("all",), "local")) == len(
        NAMES
    )
    assert chosen(("kill", "term", "kill"), "local") == ["kill", "term"]


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


def test_ctrl_c_in_the_reference_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("launch.drill.prepare.subprocess.run", interrupted)
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        prepare(Wish(str(write_config(tmp_path)), (), ("all",), 20, 0), said.append)
    assert said[-1] == "the reference had not finished: nothing is kept"
    assert list((tmp_path / "artifacts").iterdir()) == []


assert launch.drill.faults and launch.drill.slurm_faults  # they register what is looked at above
