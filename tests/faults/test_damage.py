"""Whatever happens to the files of a checkpoint: it is named on one line, the one before is used, nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faults import writer
from tests.faults.children import finish, give_to_nobody, public_folder, start
from tests.train.conftest import Trial
from tmrc.config.errors import CheckpointError
from tmrc.config.rundir import RunDir
from tmrc.train import durable
from tmrc.train.checkpoint import FILES, find_checkpoint, load_model, newest_checkpoint

EVERY = [*FILES, durable.MANIFEST]
Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the checkpoints of the steps 1 and 2."""
    path = tmp_path_factory.mktemp("two") / "run"
    path.mkdir()
    writer.attempt(str(path), 1, keep=2)
    return path


@pytest.fixture
def run(two: Path, tmp_path: Path) -> RunDir:
    shutil.copytree(two, tmp_path / "run")
    return RunDir(tmp_path / "run")


def cut(keep: float) -> Damage:
    return lambda path: os.truncate(path, int(path.stat().st_size * keep))


def changed(change: Callable[[bytes], bytes]) -> Damage:
    return lambda path: (path.write_bytes(change(path.read_bytes())), None)[1]


def flipped(at: float, bit: int) -> Damage:
    def flip(data: bytes) -> bytes:
        index = min(int(len(data) * at), len(data) - 1)
        return data[:index] + bytes([data[index] ^ 1 << bit]) + data[index + 1 :]

    return changed(flip)


def replaced(make: Damage) -> Damage:
    def replace(path: Path) -> None:
        path.unlink()
        make(path)

    return replace


def two_files_swapped(path: Path) -> None:
    """The other checkpoint's file in this one's place: whole, and wrong."""
    shutil.copy(path.parent.parent / "step_00000001" / path.name, path)


DAMAGES: dict[str, Damage] = {
    "emptied": cut(0),
    "one byte": lambda path: os.truncate(path, 1),
    "half": cut(0.5),
    "last byte missing": lambda path: os.truncate(path, path.stat().st_size - 1),
    "first bit flipped": flipped(0, 0),
    "a bit in the middle flipped": flipped(0.5, 3),
    "last bit flipped": flipped(1, 7),
    "a page zeroed": changed(lambda data: bytes(min(4096, len(data))) + data[4096:]),
    "zeroed": changed(lambda data: bytes(len(data))),
    "doubled": changed(lambda data: data * 2),
    "a byte more": changed(lambda data: data + b"\n"),
    "deleted": lambda path: path.unlink(),
    "a directory": replaced(lambda path: path.mkdir()),
    "a pipe": replaced(lambda path: os.mkfifo(path)),
    "a link to nothing": replaced(lambda path: path.symlink_to("nothing")),
    "a link to itself": replaced(lambda path: path.symlink_to(path.name)),
    "a link to an endless device": replaced(lambda path: path.symlink_to("/dev/zero")),
    "another checkpoint's": two_files_swapped,
    "a gigabyte of nothing": lambda path: os.truncate(path, 1 << 30),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_of_every_file_is_named(
    two: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in EVERY:
        path = tmp_path / name / "run"
        shutil.copytree(two, path)
        DAMAGES[damage](path / "checkpoints" / "step_00000002" / name)
        capsys.readouterr()
        tracemalloc.start()
        found = newest_checkpoint(RunDir(path))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        said = capsys.readouterr().err.splitlines()
        assert found is not None and found.step == 1, name
        assert len(said) == 1 and "step_00000002" in said[0], said
        # A manifest that is another's is whole in itself: it does not fit the files.
        assert name in said[0] or (damage == "another checkpoint's" and name == durable.MANIFEST), said
        assert peak < 32 << 20
        writer.attempt(str(path), 2, keep=2)
        assert (path / "checkpoints" / "damaged_step_00000002").is_dir()
        writer.require_contents(find(RunDir(path)))


def find(run: RunDir) -> writer.Checkpoint:
    found, damaged = find_checkpoint(run)
    assert found is not None and found.step == 2 and not damaged
    return found


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.mkdir(),
        lambda path: path.write_bytes(b"x"),
        lambda path: os.mkfifo(path),
        lambda path: path.symlink_to("nothing"),
    ],
    ids=["an empty directory", "a file", "a pipe", "a link to nothing"],
)
def test_something_else_in_a_checkpoints_place(run: RunDir, make: Damage) -> None:
    shutil.rmtree(run.checkpoints / "step_00000002")
    make(run.checkpoints / "step_00000002")
    writer.attempt(str(run.path), 2, keep=2)
    assert os.path.lexists(run.checkpoints / "damaged_step_00000002")
    writer.require_contents(find(run))


CRAFTED = [
    b"[]",
    b"{}",
    b"null",
    b"[" * 100_000,
    b"9" * 5_000,
    b"\xff\xfe\x00",
    b'{"files": {}}',
    b'{"files": []}',
    b'{"files": {"model.safetensors": 3}}',
    b'{"files": {"model.safetensors": {"bytes": "3", "sha256": "0"}}}',
    b'{"files": {"model.safetensors": {"bytes": 1e999, "sha256": null}}}',
    b'{"files": {"a\\nb\\u001b[31m": {"bytes": 1, "sha256": ""}}}',
]


@pytest.mark.parametrize("name", [durable.MANIFEST, "trainer.json"])
def test_a_crafted_file_is_one_line(run: RunDir, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run.checkpoints / "step_00000002"
    for text in CRAFTED:
        (folder / name).write_bytes(text)
        if name != durable.MANIFEST:
            (folder / durable.MANIFEST).unlink()
            durable.seal(folder)
        found = newest_checkpoint(run)
        said = capsys.readouterr().err
        assert found is not None and found.step == 1
        assert len(said.splitlines()) == 1 and name in said and "\x1b" not in said, said


def test_names_in_a_manifest_lead_nowhere_and_break_no_line(run: RunDir) -> None:
    folder = run.checkpoints / "step_00000002"
    for name in ["../../config.yaml", "/dev/zero", "a\nb\x1b[31m", "\ud800", "\0", ".", "..", "", "x" * 10_000]:
        (folder / durable.MANIFEST).write_text(json.dumps({"files": {name: {"bytes": 1, "sha256": ""}}}))
        said = durable.problem(folder)
        assert said is not None and said.isprintable() and len(said) < 200, said


def test_a_header_that_promises_a_terabyte_is_refused(run: RunDir) -> None:
    folder = run.checkpoints / "step_00000002"
    for header in [(1 << 40).to_bytes(8, "little") + b"{}", b"\x02" + bytes(7) + b"[]", b""]:
        (folder / "model.safetensors").write_bytes(header)
        (folder / durable.MANIFEST).unlink()
        durable.seal(folder)
        found = newest_checkpoint(run)
        assert found is not None and found.step == 2  # each byte is as it was written: it was written by somebody else
        with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read"):
            load_model(found, writer.trained(2)[0])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(EVERY),
    cut_at=st.floats(0, 1),
    insert=st.binary(max_size=40),
    skip=st.integers(0, 40),
)
def test_any_other_bytes_are_found(two: Path, name: str, cut_at: float, insert: bytes, skip: int) -> None:
    file = two / "checkpoints" / "step_00000002" / name
    data = file.read_bytes()
    at = int(cut_at * len(data))
    spoilt = data[:at] + insert + data[at + skip :]
    file.write_bytes(spoilt)
    try:
        found, damaged = find_checkpoint(RunDir(two))
    finally:
        file.write_bytes(data)
    assert found is not None and found.step == (2 if spoilt == data else 1)
    assert all("step_00000002" in line and line.isprintable() for line in damaged)
    assert len(damaged) == (spoilt != data)


def contents(path: Path) -> dict[str, bytes]:
    kept = [file for file in path.rglob("*") if file.is_file() and "attempt" not in str(file.relative_to(path))]
    return {str(file.relative_to(path)): file.read_bytes() for file in kept if file.name != "events.jsonl"}


def test_a_run_without_a_good_checkpoint_does_not_begin_again_by_itself(
    train: Callable[..., Trial], capfd: pytest.CaptureFixture[str]
) -> None:
    """All damaged, then all gone: exit code 2, one line that says how to go on, and nothing is changed."""
    trial = train("training.save_every=0.000001")
    whole = trial.exact_rows
    for path in trial.run.checkpoints.glob("step_*"):
        (path / "optimizer.safetensors").unlink()
    before = contents(trial.run.path)
    capfd.readouterr()
    train(again=trial, expect=2)
    said = capfd.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in said] == ["warning", "warning", "error"], said
    assert "every checkpoint is damaged (step_00000006: optimizer.safetensors is missing)" in said[-1]
    assert f"tmrc-submit ... {trial.run.config}" in said[-1]
    assert f"move {trial.run.checkpoints} and {trial.run.events} away" in said[-1]
    assert contents(trial.run.path) == before
    away = trial.run.path.parent / "away"
    away.mkdir()
    trial.run.checkpoints.rename(away / "checkpoints")
    train(again=trial, expect=2)  # a disk that is not mounted looks like that, too
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1 and "step_00000006, which events.jsonl names, is gone" in said[0]
    assert trial.exact_rows == whole
    trial.run.events.rename(away / "events.jsonl")
    train(again=trial)  # the way that the line has named
    assert trial.exact_rows == whole and trial.events("started")


def test_files_that_may_not_be_read_are_no_damage(two: Path) -> None:
    """What cannot be read may be whole: where nothing else is there, the run can be tried again elsewhere."""
    if os.geteuid() != 0:
        pytest.skip("only root can become nobody")
    with public_folder() as folder:
        run, log = RunDir(shutil.copytree(two, folder / "run")), folder / "log"
        newest = run.checkpoints / "step_00000002" / "model.safetensors"
        give_to_nobody(run.path)
        newest.chmod(0)
        assert finish(start(look, str(run.path), log=log, nobody=True)) == 1
        what = "model.safetensors cannot be read: Permission denied"
        assert log.read_text() == f"warning: damaged checkpoint passed over: {newest.parent}: {what}\n"
        (run.checkpoints / "step_00000001" / "trainer.json").chmod(0)
        assert finish(start(look, str(run.path), log=log, nobody=True)) == 3
        assert "no checkpoint can be read" in log.read_text()


def look(path: str) -> int:
    """The step that is found; 3 when the disk is to blame."""
    from tmrc.train.failures import DiskError

    try:
        found = newest_checkpoint(RunDir(Path(path)))
    except DiskError as error:
        print(error)
        return 3
    return found.step if found else 0
