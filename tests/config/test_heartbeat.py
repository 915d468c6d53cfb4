"""Signs of life as their reader sees them."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tmrc.config.heartbeat import Beat, HeartbeatFile, heartbeat_file, read_heartbeat


@given(beats=st.lists(st.tuples(st.text(max_size=60), st.integers(0, 2**62)), min_size=1, max_size=5))
def test_the_last_beat_is_read_with_its_number(tmp_path_factory: object, beats: list[tuple[str, int]]) -> None:
    path = heartbeat_file(Path(tmp_path_factory.mktemp("beats")), 3)  # type: ignore[attr-defined]
    assert path.name == "rank_3"
    before = time.monotonic()
    file = HeartbeatFile(path)
    assert read_heartbeat(path) is None
    for phase, step in beats:
        file.beat(phase, step)
    found = read_heartbeat(path)
    assert found is not None
    assert (found.counter, found.step) == (len(beats), beats[-1][1])
    assert before <= found.changed <= time.monotonic()
    if beats[-1][0].isascii() and beats[-1][0].isprintable():
        assert found.phase == beats[-1][0][:40]


def test_no_file_and_half_a_file_are_no_beat(tmp_path: Path) -> None:
    assert read_heartbeat(tmp_path / "rank_0") is None
    (tmp_path / "rank_0").write_bytes(b"\1" * 20)
    assert read_heartbeat(tmp_path / "rank_0") is None


def test_a_beat_is_never_read_in_halves(tmp_path: Path) -> None:
    """While one thread writes, what is read belongs together: step and phase say the counter once more."""
    path = tmp_path / "rank_0"
    file, stop = HeartbeatFile(path), threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            file.beat(str(number), number)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        found: list[Beat] = []
        deadline = time.monotonic() + 30  # threads take turns, so many reads may fall into one turn
        while len(found) < 300 or (found[-1].counter == found[0].counter and time.monotonic() < deadline):
            found += [beat] if (beat := read_heartbeat(path)) else []
    finally:
        stop.set()
        thread.join()
    assert found == [Beat(beat.counter, beat.counter, str(beat.counter), beat.changed) for beat in found]
    assert found[-1].counter > found[0].counter


def test_a_new_attempt_starts_from_nothing(tmp_path: Path) -> None:
    HeartbeatFile(tmp_path / "rank_0").beat("training", 5)
    HeartbeatFile(tmp_path / "rank_0")
    assert read_heartbeat(tmp_path / "rank_0") is None


def test_it_needs_no_torch() -> None:
    code = "import sys, tmrc.config.heartbeat; print(sorted({'torch', 'numpy', 'yaml'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
