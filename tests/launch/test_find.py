from __future__ import annotations

from pathlib import Path

import pytest

from launch.find import default_folder, find_run, runs_in
from launch.plaintext import harmless, one_line
from tests.launch.fake_queue import HandMade
from tests.launch.helpers import call
from tmrc.config.errors import UserError

TMRC = "launch.cli.main"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for run_id in ("alpha-1", "alpha-2", "beta-1"):
        HandMade(tmp_path / "artifacts", run_id)
    (tmp_path / "artifacts/plots").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["beta-1", "b", "beta", "artifacts/beta-1", "artifacts/be", "artifacts/beta-1/"])
def test_a_run_by_its_directory_its_id_or_its_beginning(home: Path, name: str) -> None:
    assert find_run(name).path == home / "artifacts/beta-1"


def test_a_run_in_another_directory(home: Path) -> None:
    assert find_run("be", home / "artifacts").run_id == "beta-1"
    assert find_run(str(home / "artifacts/alpha-2")).run_id == "alpha-2"


def test_in_the_directory_of_runs_or_in_a_run_itself(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_folder() == Path("artifacts")
    monkeypatch.chdir(home / "artifacts")
    assert find_run("beta").run_id == "beta-1"
    assert len(runs_in(default_folder())) == 3
    monkeypatch.chdir(home / "artifacts/beta-1")
    assert find_run(".").run_id == "beta-1"
    with pytest.raises(UserError, match=r"no directory 'artifacts' here"):
        default_folder()


def test_the_id_of_one_run_may_begin_another(home: Path) -> None:
    HandMade(home / "artifacts", "alpha-12")
    assert find_run("alpha-1").run_id == "alpha-1"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("alpha", "is the beginning of 2 runs: alpha-1, alpha-2"),
        ("gamma", r"is no run directory and no run in artifacts or \.; a run elsewhere is named by its directory$"),
        ("beta-2", r"did you mean 'beta-1'\?"),
        ("artifacts", "is a directory, but not a run's"),
        ("artifacts/plots", "is a directory, but not a run's"),
        ("", "is no run directory"),
        ("/", "not a run's"),
        ("nul\0byte", "is no run directory"),
        ("x" * 5000, "File name too long"),
        ("a\nb", "is no run directory"),
    ],
)
def test_what_is_no_run_is_refused_in_one_line(home: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        find_run(name, option="--resume: ")
    assert str(error.value).startswith("--resume: ") and "\n" not in str(error.value)


def test_all_commands_take_a_run_in_the_same_way(home: Path) -> None:
    for command in (["logs"], ["cancel"], ["generate"], ["report", "--png", "x.png"], ["status"]):
        done = call(*command, "nosuch", module=TMRC, cwd=home, env={"PYTHONPATH": str(Path(__file__).parents[2])})
        assert done.code == 2 and done.err.startswith("error: 'nosuch' is no run directory"), done.err
        assert len(done.err.splitlines()) == 1 and done.out == ""


def test_a_run_is_resumed_by_its_beginning_without_a_configuration(home: Path) -> None:
    for folder in (home, home / "artifacts"):
        env = {"PYTHONPATH": str(Path(__file__).parents[2])}
        done = call("--dry-run", "--resume", "bet", module="launch.cli.submit", cwd=folder, env=env)
        assert f"{home}/artifacts/beta-1/config.yaml: datasets.path: not given" in done.err  # it was found


def test_control_characters_are_written_out() -> None:
    nasty = "a\x1b]0;title\x07b\x1b[31mred\x1b[0m\x9b2J\x00\x7f\u202egnp\tend\r\nnext\rover"
    assert harmless(nasty) == "a^[]0;title^Gbred\\u009b2J^@^?\\u202egnp\tend\nnext\nover"
    assert one_line(nasty).endswith("end next over")
    assert harmless("plain ü 字\n") == "plain ü 字\n"
