"""What a benchmark says: which way a ratio goes, when an aim is missed, what is passed over. Nothing is timed."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench import __main__ as command
from bench.harness import Aim, Comparison, Figure, Given, Missing, Result, Side, compare

Say = Callable[..., list[str]]


def comparison(kind: str, value: float, ours: list[float], peer: list[float]) -> Comparison:
    return Comparison("work", "tmrc", "other", tuple(ours), tuple(peer), Aim(kind, value))  # type: ignore[arg-type]


def test_how_many_times_faster_than_the_peer() -> None:
    found = comparison("at least", 10, [1.0, 2.0, 1.0], [20.0, 20.0, 30.0])
    assert found.ratios == [20, 10, 30] and found.reached
    assert found.line() == "work: tmrc 1 s, other 20 s, 20x (10 to 30), aim at least 10x: reached"
    assert not comparison("at least", 21, [1.0, 2.0, 1.0], [20.0, 20.0, 30.0]).reached


def test_which_share_of_the_peers_time() -> None:
    found = comparison("at most", 0.25, [0.1, 0.3], [1.0, 1.0])
    assert found.ratios == [0.1, 0.3] and found.reached
    assert not comparison("at most", 0.25, [0.3], [1.0]).reached
    assert "MISSED" in comparison("at most", 0.25, [0.3], [1.0]).line()


def test_a_figure_needs_no_aim() -> None:
    assert Figure("rate", (2.0, 1.0, 4.0), "MB/s").line() == "rate: 2 MB/s (1 to 4)"
    assert Figure("seek", (0.002,), "s", Aim("at most", 1e-3)).line() == "seek: 2 ms, aim at most 1 ms: MISSED"
    assert Figure("page", (3.0,), "MB", Aim("at most", 9), "note").line() == (
        "page: 3 MB, aim at most 9 MB: reached; note"
    )


def test_sides_are_measured_in_turn_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []

    def side(name: str) -> Side:
        def seconds() -> float:
            calls.append(name)
            return float(len(calls))

        return Side(name, seconds)

    found = compare("work", Aim("at least", 1), side("a"), side("b"), repeats=3)
    assert len(found.our_seconds) == len(found.peer_seconds) == 3
    assert sorted(map("".join, zip(calls[::2], calls[1::2], strict=True))) == ["ab", "ab", "ba", "ba"]
    assert {*found.our_seconds, *found.peer_seconds} == {3, 4, 5, 6, 7, 8}


def test_a_peer_that_is_missing_says_how_to_give_it(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="--peer tatm=FOLDER"):
        Given(7, {}, tmp_path).peer("tatm", "src/x.py")
    with pytest.raises(Missing, match=r"there is no src/x\.py"):
        Given(7, {"tatm": tmp_path}, tmp_path).peer("tatm", "src/x.py")
    (tmp_path / "src").mkdir()
    (tmp_path / "src/x.py").touch()
    assert Given(7, {"tatm": tmp_path}, tmp_path).peer("tatm", "src/x.py") == tmp_path


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Run the command with benchmarks in place of ours; returns the exit code and what it prints."""

    def call(*arguments: str, **benchmarks: Callable[[Given], Iterator[Result]]) -> list[str]:
        monkeypatch.setattr(command, "BENCHMARKS", dict.fromkeys(benchmarks, "what it measures"))
        for name, run in benchmarks.items():
            module = types.ModuleType(name)
            module.run = run  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, f"bench.{name}", module)
        code = command.main(list(arguments))
        return [str(code), *capsys.readouterr().out.splitlines()]

    return call


def good(given: Given) -> Iterator[Result]:
    assert given.scratch.is_dir() and not list(given.scratch.iterdir())
    yield Figure("repeats", (float(given.repeats),), "times")


def bad(given: Given) -> Iterator[Result]:
    yield Figure("seconds", (2.0,), "s", Aim("at most", 1))


def half(given: Given) -> Iterator[Result]:
    yield from good(given)
    given.peer("other", "file")


def test_exit_codes_and_json(say: Say, tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    said = say("--repeats", "3", "--json", str(file), good=good, half=half)
    assert said[0] == "0" and "  repeats: 3 times" in said
    assert any(line.startswith("  skipped the rest: other was not given") for line in said)
    found = json.loads(file.read_text())
    assert found["results"]["good"] == [{"what": "repeats", "unit": "times", "values": [3.0], "reached": True}]
    assert list(found["skipped"]) == ["half"] and len(found["results"]["half"]) == 1
    assert found["machine"]["python"] and int(found["machine"]["cores"]) > 0
    assert say(good=good, bad=bad)[0] == "1"
    assert say("good", good=good, bad=bad)[0] == "0"


def test_an_unknown_benchmark_is_refused(say: Say, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        say("nothing", good=good)
    assert stopped.value.code == 2
    assert "got nothing, valid: good" in capsys.readouterr().err


def test_every_benchmark_that_is_listed_is_there() -> None:
    folder = Path(command.__file__).parent
    assert command.BENCHMARKS and all((folder / f"{name}.py").is_file() for name in command.BENCHMARKS)


def test_the_command_line_needs_no_torch() -> None:
    code = "import sys, bench.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(command.__file__).parents[1]).returncode == 0
