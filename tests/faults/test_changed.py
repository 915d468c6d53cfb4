"""What has changed between two attempts - configuration, data, surroundings - is said, and refused where it must be."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from launch.changed import Review, compare_file, review
from launch.resume import take_up
from launch.submit import Request, submit
from tests.train.conftest import NewTrial, Trial, pretend_code
from tests.train.test_stop import EVERY_STEP, ask, before
from tmrc.config.changes import COURSE, FREE, NEVER, SPENT, leaves, of_kind, record
from tmrc.config.errors import ConfigError, DataError, UserError
from tmrc.config.load import load_config, write_config
from tmrc.config.rundir import append_event, read_jsonl
from tmrc.config.schema import Config

Train = Callable[..., Trial]
NewStopped = Callable[..., Trial]


@pytest.fixture
def stopped(new_trial: NewTrial, train: Train) -> NewStopped:
    """`stopped("optimizer.lr=0.1")`: a run of six steps that was stopped after the second, as its launcher left it."""

    def make(*overrides: str) -> Trial:
        trial = new_trial(EVERY_STEP, *overrides)
        pretend_code(trial.run)
        trial.run.run_json.write_text(json.dumps({"command": ["tmrc-submit", "toy.yaml", "training.seed=0"]}))
        with before("loop", "Loop._train_step", 2, ask):
            train(again=trial, expect=75)
        assert trial.saved_steps()[-1] in (2, 3)
        return trial

    return make


def resume(trial: Trial, *overrides: str, allow: bool = False, source: Path | None = None) -> int:
    """`tmrc-submit --local --dry-run --resume RUN ...`."""
    where = str(source) if source else None
    asked = Request(where, overrides, local=True, dry_run=True, resume=str(trial.run.path), allow_change=allow)
    return submit(asked)


def change(trial: Trial, *overrides: str, allow: bool = False) -> Review:
    """What a submission does before it starts the trainer."""
    config = load_config(trial.run.config, overrides)
    found = review(trial.run, config, allow)
    take_up(trial.run, config, found.course)
    return found


def edit(trial: Trial, *overrides: str) -> None:
    """As with an editor."""
    write_config(load_config(trial.run.config, overrides), trial.run.config)


def files(trial: Trial) -> dict[str, bytes]:
    found = (path for path in trial.run.path.rglob("*") if path.is_file() and not path.name.endswith("lock"))
    return {str(path): path.read_bytes() for path in found}


def test_every_key_of_the_schema_is_in_one_class() -> None:
    """A new key has to be put into tmrc/config/changes.py: FREE, COURSE, NEVER or SPENT."""
    keys = set(leaves(Config()))
    sections = tuple(name for name in FREE if name.endswith("."))
    named = [name for name in (*FREE, *COURSE, *NEVER, *SPENT) if name not in sections]
    assert sorted(named) == sorted(set(named))
    assert {key for key in keys if not key.startswith(sections)} == set(named)


@pytest.mark.parametrize(
    ("key", "values", "given", "kind"),
    [
        ("training.val_interval", [3, 5], None, "course"),
        ("training.val_interval", [3, 0], None, "never"),  # more would be trained on: nothing is held out any more
        ("training.val_interval", [3, 0], 8.0, "course"),
        ("training.val_batches", [1, 2], None, "never"),
        ("training.val_batches", [1, 2], 0.1, "course"),
        ("launch.time", ["1", "2"], None, "free"),
        ("a.key_of_tomorrow", [1, 2], None, "never"),
    ],
)
def test_what_moves_the_split_makes_another_run(key: str, values: list[Any], given: float | None, kind: str) -> None:
    after = {"datasets.val_split_size": given, "training.val_interval": 3, key: values[1]}
    assert [one for one in ("free", "course", "never") if of_kind({key: values}, one, after)] == [kind]  # type: ignore[arg-type]


def test_the_course_changes_with_the_flag_alone_and_never_in_silence(
    stopped: NewStopped, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = stopped()
    untouched, wanted = files(trial), ("optimizer.lr=0.02", "model.dropout_p=0.1", "training.log_interval=2")
    with pytest.raises(ConfigError) as refused:
        resume(trial, *wanted)
    assert "model.dropout_p from 0.0 to 0.1, optimizer.lr from 0.01 to 0.02 changes what" in str(refused.value)
    assert "--allow-change" in str(refused.value) and "log_interval" not in str(refused.value)
    assert "edited" not in str(refused.value)
    for allow in (False, True):
        with pytest.raises(ConfigError, match=r"batch_size from 8 to 4, training\.seed from 0 to 1 would"):
            resume(trial, "training.seed=1", "training.batch_size=4", allow=allow)
    capsys.readouterr()
    assert resume(trial, *wanted, allow=True) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "no longer equal" in line]
    assert len(said) == 1 and f"from step {trial.saved_steps()[-1]} on" in said[0]
    assert files(trial) == untouched  # a dry run

    change(trial, *wanted, allow=True)
    train(again=trial)
    at = trial.events("resumed")[0]["step"]
    assert {row["lr"] for row in trial.rows if "lr" in row and row["step"] > at} == {0.02}
    course = {"model.dropout_p": [0.0, 0.1], "optimizer.lr": [0.01, 0.02]}
    assert trial.events("resumed")[0]["course"] == course
    assert capsys.readouterr().err.count("is not equal to one that was never changed") == 2
    assert review(trial.run, load_config(trial.run.config), allow=False).course == {}  # now it is the run's own


def test_an_edited_configuration_is_refused_by_trainer_and_launcher(
    stopped: NewStopped, train: Train, capfd: pytest.CaptureFixture[str]
) -> None:
    trial = stopped()
    rows, kept = trial.rows, trial.tensor_files()
    for edits, named in (
        (["optimizer.lr=0.03"], "optimizer.lr from 0.01 to 0.03 takes tmrc-submit --resume with --allow-change"),
        (["optimizer.lr=0.01", "training.seed=3"], "training.seed from 0 to 3 takes a new run"),
    ):
        edit(trial, *edits)
        train(again=trial, expect=2)
        said = capfd.readouterr().err
        assert f"{trial.run.config}: differs from what the checkpoint of step" in said and named in said
        assert len(said.splitlines()) == 1 and (trial.rows, trial.tensor_files()) == (rows, kept)
        with pytest.raises(UserError, match=named.split(" takes")[0]) as refused:
            resume(trial)
        assert " edited in its config.yaml" in str(refused.value)
    with pytest.raises(ConfigError, match="takes a new run"):
        resume(trial, allow=True)
    edit(trial, "training.seed=0", "optimizer.lr=0.03")
    change(trial, allow=True)  # the word of consent makes the edit a change
    edit(trial, "optimizer.lr=0.04")  # and holds for that value alone
    train(again=trial, expect=2)
    edit(trial, "optimizer.lr=0.03", "training.log_interval=2")  # a free key needs no word
    train(again=trial)
    assert trial.rows[-1]["step"] == 6


def test_a_checkpoint_of_an_older_version_goes_on(stopped: NewStopped, train: Train) -> None:
    from tmrc.train import durable

    trial = stopped()
    for path in trial.run.checkpoints.glob("step_*"):
        state = json.loads((path / "trainer.json").read_text())
        assert state.pop("config")["optimizer.betas"] == [0.9, 0.999]
        (path / "trainer.json").write_text(json.dumps(state))
        durable.seal(path)
    edit(trial, "optimizer.lr=0.03")
    train(again=trial)


def test_a_submission_that_is_refused_leaves_no_word_of_consent(stopped: NewStopped) -> None:
    trial = stopped()
    config = load_config(trial.run.config, ["optimizer.lr=0.5"])
    before_it = trial.run.config.read_bytes()
    put_back = take_up(trial.run, config, review(trial.run, config, allow=True).course)
    assert json.loads(trial.run.allowed.read_text()) == {"optimizer.lr": 0.5}
    put_back()
    assert not trial.run.allowed.exists() and trial.run.config.read_bytes() == before_it


def test_a_file_beside_resume_that_says_otherwise_is_not_passed_over(stopped: NewStopped, tmp_path: Path) -> None:
    trial = stopped()
    own, file = load_config(trial.run.config), tmp_path / "toy.yaml"

    def notes(*edits: str, typed: tuple[str, ...] = ()) -> list[str]:
        write_config(load_config(trial.run.config, edits), file)
        return list(compare_file(trial.run, str(file), load_config(trial.run.config, typed), typed))

    assert notes() == []
    with pytest.raises(ConfigError, match=r"toy.yaml: .*optimizer.lr \(0.5, the run has 0.01\), training.grad_clip"):
        notes("optimizer.lr=0.5", "training.grad_clip=1")
    assert notes("training.seed=7") == []  # typed at the submission: the file never had the last word
    assert notes("optimizer.lr=0.5", typed=("optimizer.lr=0.7",)) == []  # typed now
    append_event(trial.run, "changed", attempt=2, changes={"optimizer.lr": [0.02, 0.01]})
    assert notes("optimizer.lr=0.02") == []  # what the run once had
    with pytest.raises(ConfigError, match=r"optimizer.lr \(0.5, the run has 0.01\)"):
        notes("optimizer.lr=0.5")  # and what it never had
    (note,) = notes("training.train_steps=60")
    assert "the run keeps its own training.train_steps=6" in note
    assert notes("training.artifacts_path=elsewhere") == []
    file.write_text(f"datasets: {{path: {own.datasets.path}}}\n")  # lines that were taken out
    assert "keeps its own" in next(compare_file(trial.run, str(file), own, ()))
    with pytest.raises(ConfigError, match="has other values"):
        write_config(load_config(trial.run.config, ["optimizer.lr=0.5"]), file)
        resume(trial, source=file)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("missing", "tiny_1.bin is missing"),
        ("more", "tiny_2.bin is new"),
        ("resized", "tiny_1.bin has "),
        ("tokenizer", "made with 'other', but the run began with data of 'tiny'"),
    ],
)
def test_changed_data_are_named_by_trainer_and_launcher(
    stopped: NewStopped, train: Train, dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    damage: str, named: str,
) -> None:  # fmt: skip
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    metadata = copy / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace(str(dataset), str(copy)))
    trial = stopped(f"datasets.path={copy}")
    if damage == "missing":
        (copy / "tiny_1.bin").unlink()
    elif damage == "more":
        shutil.copy(copy / "tiny_1.bin", copy / "tiny_2.bin")
    elif damage == "resized":
        (copy / "tiny_1.bin").write_bytes((copy / "tiny_1.bin").read_bytes()[:-64])
    else:
        metadata.write_text(metadata.read_text().replace("tokenizer: tiny", "tokenizer: other"))
    rows = trial.rows
    train(again=trial, expect=2)
    said = capfd.readouterr().err
    assert named in said and len(said.splitlines()) == 1
    assert trial.rows == rows
    if damage != "tokenizer":
        with pytest.raises(DataError, match=named):
            resume(trial)


def test_data_that_have_moved_make_no_other_run(
    stopped: NewStopped, train: Train, dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    copy, moved = tmp_path / "copy", f"datasets.path={tmp_path / 'moved'}"
    shutil.copytree(dataset, copy)
    metadata = copy / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace(str(dataset), str(copy)))
    trial, whole = stopped(f"datasets.path={copy}"), train(EVERY_STEP)
    copy.rename(tmp_path / "moved")
    with pytest.raises(DataError, match=r"no such data set .*; if it has moved: --allow-change datasets.path=NEW"):
        resume(trial)
    with pytest.raises(ConfigError, match="--allow-change"):
        resume(trial, moved)
    capfd.readouterr()
    assert resume(trial, moved, allow=True) == 0
    change(trial, moved, allow=True)
    train(again=trial)
    said = capfd.readouterr().err
    assert "the shards must still be the same, which is checked" in said and "equal" not in said
    assert trial.exact_rows == whole.exact_rows and trial.tensor_files() == whole.tensor_files()


def test_other_surroundings_are_a_line_each_and_an_event(
    stopped: NewStopped, train: Train, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = stopped()
    capfd.readouterr()
    monkeypatch.setattr(torch, "__version__", "9.9.9")
    torch.set_num_threads(2)
    train(again=trial)
    said = [line for line in capfd.readouterr().err.splitlines() if "sums may round differently" in line]
    assert [line.split()[1] for line in said] == ["threads", "torch_version"]
    differs = trial.events("resumed")[0]["differs"]
    assert differs["threads"] == [1, 2] and differs["torch_version"][1] == "9.9.9"
    assert "differs" not in trial.events("started")[0]


def test_what_a_checkpoint_notes_is_what_decides(stopped: NewStopped) -> None:
    trial = stopped()
    state = json.loads((max(trial.run.checkpoints.glob("step_*")) / "trainer.json").read_text())
    config = load_config(trial.run.config)
    assert state["config"] == {**record(config), "the data's tokenizer": "tiny"}
    changed = dataclasses.replace(config.training, save_every=9.0, artifacts_path="/elsewhere")
    assert record(dataclasses.replace(config, training=changed)) == record(config)
    assert read_jsonl(trial.run.events)


def test_a_point_of_a_sweep_is_held_to_what_it_was_trained_with(stopped: NewStopped) -> None:
    """Submitting the sweep again would bring back the sweep's own values."""
    from launch.points import Point
    from launch.sweepdir import PointRecord
    from launch.sweepfiles import _make_ready

    trial = stopped("optimizer.lr=0.5")  # as it went on by itself, with --allow-change
    kept = trial.run.config.read_bytes()
    of_sweep = load_config(trial.run.config, ["optimizer.lr=0.01", "training.save_every=9"])
    point = Point((), of_sweep, PointRecord(trial.run.run_id, "x", ()), trial.run, "failed")
    with pytest.raises(ConfigError, match=r"optimizer\.lr from 0\.5 to 0\.01"):
        _make_ready(point, trial.run.code)
    assert trial.run.config.read_bytes() == kept and not trial.run.allowed.exists()
