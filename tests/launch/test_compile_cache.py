"""What was compiled goes from one attempt to the next in the run directory, if nobody else can have written it."""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launch import compile_cache as module
from launch.archive import DIGESTS, UnusableError, pack, unpack
from launch.compile_cache import INDUCTOR, TRITON, CompileCache, compile_cache
from launch.node_kind import kind_of_node, local_place
from tests.launch.helpers import wait_for
from tmrc.config.heartbeat import Beat
from tmrc.config.rundir import RunDir

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A run directory, and a node where looks may follow each other at once."""
    monkeypatch.setattr(module, "LOOK_EVERY", 0.0)
    monkeypatch.setattr(module, "LATER", 0.0)
    folder = tmp_path / "toy-20261122-122806-50d0"
    folder.mkdir()
    return RunDir(folder)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a node with a directory for temporary files."""
    folder = tmp_path / "tmp"
    folder.mkdir(mode=0o700)
    yield {"TMPDIR": str(folder)}
    assert list(folder.iterdir()) == []  # nothing is left on the node


def steps_to(step: int) -> Callable[[], dict[int, Beat]]:
    return lambda: {0: Beat(9, step, "forward and backward", 0.0), 1: Beat(9, step + 1, "reading data", 0.0)}


def train(cache: CompileCache, *names: str) -> None:
    """Compile `names`, and step until the archive is there."""
    assert cache.folder is not None
    for name in names:
        (cache.folder / name).parent.mkdir(exist_ok=True, parents=True)
        (cache.folder / name).write_text(f"compiled {name}")
    for step in (0, 7, 8, 9):
        cache.look(steps_to(step))
    cache.close(orderly=True)


def compiled(cache: CompileCache) -> dict[str, str]:
    assert cache.folder is not None
    return {str(path.relative_to(cache.folder)): path.read_text() for path in cache.folder.rglob("*.so")}


def attempt(run: RunDir, number: int, node: dict[str, str], *names: str) -> dict[str, str]:
    """What an attempt finds; then it compiles `names`."""
    with compile_cache(run, number, 0, node) as cache:
        found = compiled(cache)
        train(cache, *names)
    return found


def test_what_one_attempt_compiles_the_next_one_finds(run: RunDir, node: dict[str, str]) -> None:
    with compile_cache(run, 1, 0, node) as cache:
        assert cache.folder is not None and cache.folder.stat().st_mode & 0o777 == 0o700
        assert cache.variables == {INDUCTOR: str(cache.folder), TRITON: str(cache.folder / "triton")}
        train(cache, "ab/x.so", "triton/K/y.so", "locks/x.lock", "triton/tmp.pid_3_4/z.so")
        elsewhere = cache.folder
    with compile_cache(run, 2, 0, node) as cache:
        assert cache.folder != elsewhere
        assert compiled(cache) == {"ab/x.so": "compiled ab/x.so", "triton/K/y.so": "compiled triton/K/y.so"}
    assert run.compile_cache.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in run.compile_cache.glob("*.tar")] == [0o600]


def test_what_is_compiled_later_is_added_and_nothing_is_written_without_need(run: RunDir, node: dict[str, str]) -> None:
    attempt(run, 1, node, "a.so")
    (archive,) = run.compile_cache.iterdir()
    before = archive.stat().st_mtime_ns, archive.stat().st_ino
    assert list(attempt(run, 2, node)) == ["a.so"]
    assert (archive.stat().st_mtime_ns, archive.stat().st_ino) == before
    assert list(attempt(run, 3, node, "b.so")) == ["a.so"]
    assert sorted(attempt(run, 4, node)) == ["a.so", "b.so"]


def test_nothing_is_kept_before_a_step_or_by_another_node_than_the_first(run: RunDir, node: dict[str, str]) -> None:
    with compile_cache(run, 1, 0, node) as cache:
        assert cache.folder is not None
        (cache.folder / "a.so").write_text("x")
        for _ in range(4):
            cache.look(steps_to(0))
        cache.look(steps_to(7))  # the step of the checkpoint, from which the attempt goes on
        cache.close(orderly=True)
    with compile_cache(run, 1, 1, node) as cache:
        train(cache, "a.so")
    assert not run.compile_cache.exists()


def test_an_archive_with_which_no_step_was_done_is_not_used_again(
    run: RunDir, node: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    attempt(run, 1, node, "bad.so")
    for number, found in ((2, ["bad.so"]), (3, [])):
        with compile_cache(run, number, 0, node) as cache:
            assert list(compiled(cache)) == found
            cache.look(steps_to(0))
            cache.close(orderly=False)  # crashed
    assert "was used by attempt 2, which did not get to a step; compiles anew" in capsys.readouterr().out
    assert attempt(run, 4, node, "good.so") == {}
    assert list(attempt(run, 5, node)) == ["good.so"]


def test_an_attempt_that_was_stopped_early_says_nothing_against_an_archive(run: RunDir, node: dict[str, str]) -> None:
    attempt(run, 1, node, "a.so")
    with compile_cache(run, 2, 0, node) as cache:
        cache.close(orderly=True)
    assert list(attempt(run, 3, node)) == ["a.so"]


def test_the_nodes_of_one_attempt_share_an_archive(run: RunDir, node: dict[str, str]) -> None:
    attempt(run, 1, node, "a.so")
    with compile_cache(run, 2, 0, node) as first, compile_cache(run, 2, 1, node) as second:
        assert compiled(first) == compiled(second) != {} and first.folder != second.folder
        second.close(orderly=True)


def chmod_file(run: RunDir) -> None:
    next(run.compile_cache.glob("*.tar")).chmod(0o620)


def chmod_folder(run: RunDir) -> None:
    run.compile_cache.chmod(0o702)


def give_away_file(run: RunDir) -> None:
    os.chown(next(run.compile_cache.glob("*.tar")), 12345, -1)


def give_away_folder(run: RunDir) -> None:
    os.chown(run.compile_cache, 12345, -1)


def second_name(run: RunDir) -> None:
    file = next(run.compile_cache.glob("*.tar"))
    (run.path / "other").hardlink_to(file)


def link_file(run: RunDir) -> None:
    file = next(run.compile_cache.glob("*.tar"))
    file.rename(run.path / "elsewhere")
    file.symlink_to(run.path / "elsewhere")


def link_folder(run: RunDir) -> None:
    run.compile_cache.rename(run.path / "elsewhere")
    run.compile_cache.symlink_to(run.path / "elsewhere")


def pipe(run: RunDir) -> None:
    file = next(run.compile_cache.glob("*.tar"))
    file.unlink()
    os.mkfifo(file, 0o600)


def flip(run: RunDir) -> None:
    file = next(run.compile_cache.glob("*.tar"))
    data = file.read_bytes().replace(b"compiled a", b"compiled b")
    file.write_bytes(data)


def cut(run: RunDir) -> None:
    file = next(run.compile_cache.glob("*.tar"))
    os.truncate(file, 1024)


def empty(run: RunDir) -> None:
    os.truncate(next(run.compile_cache.glob("*.tar")), 0)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (chmod_file, "can be written by others"),
        (chmod_folder, "can be written by others"),
        pytest.param(give_away_file, "belongs to another user (number 12345)", marks=ROOT_ONLY),
        pytest.param(give_away_folder, "belongs to another user (number 12345)", marks=ROOT_ONLY),
        (second_name, "has another name elsewhere"),
        (link_file, "cannot be used: "),
        (link_folder, "is in no plain directory"),
        (pipe, "is no plain file"),
        (flip, "its contents are not those that were written"),
        (cut, "is cut off"),
        (empty, "is damaged: "),
    ],
)
def test_an_archive_that_others_may_have_written_or_that_is_damaged_is_passed_over_in_one_line(
    run: RunDir,
    node: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    harm: Callable[[RunDir], None],
    said: str,
) -> None:
    attempt(run, 1, node, "a.so")
    capsys.readouterr()
    harm(run)
    with compile_cache(run, 2, 0, node) as cache:
        assert cache.folder is not None and list(cache.folder.iterdir()) == []
        assert cache.variables[INDUCTOR] == str(cache.folder)
    (line,) = capsys.readouterr().out.splitlines()
    assert said in line and line.endswith("; compiles anew")


def crafted(*members: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for member, data in members:
            tar.addfile(member, io.BytesIO(data))
    file.seek(0)
    return file


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, link
    return info


@pytest.mark.parametrize(
    "bad",
    [
        member("../x"),
        member("a/../../x"),
        member("/tmp/tmrc-hostile"),
        member("./a"),
        member("."),
        member("link", tarfile.SYMTYPE, link="/etc"),
        member("link", tarfile.LNKTYPE, link="good"),
        member("good"),
        member("device", tarfile.CHRTYPE),
        member("pipe", tarfile.FIFOTYPE),
        member("folder", tarfile.DIRTYPE),
        member("huge", size=2**40),
        member("sparse", tarfile.GNUTYPE_SPARSE),
    ],
    ids=lambda bad: f"{bad.name} {bad.type!r}",
)
def test_a_crafted_archive_writes_nothing_outside_of_its_directory(tmp_path: Path, bad: tarfile.TarInfo) -> None:
    inside = tmp_path / "deep/inside"
    inside.mkdir(parents=True)
    size, bad.size = bad.size, 0
    file = crafted((member("good", size=2), b"ok"), (bad, b""), (member(DIGESTS, size=2), b"{}"))
    if size:  # a header that promises more than there is
        bad.size = size
        raw = bytearray(file.getvalue())
        raw[1024:1536] = bad.tobuf()
        file = io.BytesIO(bytes(raw))
    with pytest.raises(UnusableError):
        unpack(file, inside)
    assert {path.name for path in tmp_path.rglob("*")} <= {"deep", "inside", "good"}
    assert not Path("/tmp/tmrc-hostile").exists()


def test_every_flipped_byte_of_an_archive_is_noticed_or_harmless(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.so").write_bytes(bytes(range(64)))
    file = io.BytesIO()
    pack(source, file)
    whole = file.getvalue()
    for position in range(0, len(whole.rstrip(b"\0")) + 600, 7):
        damaged = bytearray(whole)
        damaged[position] ^= 0x41
        target = tmp_path / str(position)
        target.mkdir()
        try:
            unpack(io.BytesIO(bytes(damaged)), target)
        except UnusableError:
            continue
        assert (target / "a.so").read_bytes() == bytes(range(64))


def test_a_run_directory_that_cannot_be_written_to_costs_one_line(
    run: RunDir, node: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    run.compile_cache.write_text("a file where the directory should be")
    with compile_cache(run, 1, 0, node) as cache:
        capsys.readouterr()
        train(cache, "a.so")
        train(cache, "b.so")
    (line,) = capsys.readouterr().out.splitlines()
    assert "not kept for later attempts" in line


def test_another_kind_of_node_has_its_own_archive_and_not_all_are_kept(
    run: RunDir, node: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = [letter * 16 for letter in "abcd"]
    for number, kind in enumerate(kinds, 1):
        monkeypatch.setattr(module, "kind_of_node", lambda kind=kind: kind)
        assert attempt(run, number, node, f"{kind}.so") == {}
        time.sleep(0.01)  # the age of a file decides
    assert sorted(path.name for path in run.compile_cache.iterdir()) == [f"{kind}.tar" for kind in kinds[1:]]
    monkeypatch.setattr(module, "kind_of_node", lambda: kinds[1])
    assert list(attempt(run, 5, node)) == [f"{kinds[1]}.so"]


def test_two_attempts_at_once_leave_one_whole_archive(run: RunDir, node: dict[str, str]) -> None:
    with compile_cache(run, 1, 0, node) as lost, compile_cache(run, 2, 0, node) as newer:
        train(newer, "new.so")
        train(lost, "old.so")
    (archive,) = run.compile_cache.iterdir()
    assert archive.suffix == ".tar"
    assert list(attempt(run, 3, node)) == ["old.so"]


def test_what_is_too_large_is_not_kept(
    run: RunDir, node: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("launch.archive.LIMIT", 5)
    assert attempt(run, 1, node, "a.so") == attempt(run, 2, node) == {}
    assert "more than" in capsys.readouterr().out and list(run.compile_cache.iterdir()) == []


def test_who_has_chosen_a_directory_keeps_it(run: RunDir, node: dict[str, str]) -> None:
    with compile_cache(run, 1, 0, {**node, INDUCTOR: "/scratch/mine"}) as cache:
        assert cache.variables == {}
        cache.look(steps_to(1))
        cache.close(orderly=True)


def test_the_directory_is_made_where_nobody_else_can_exchange_it(tmp_path: Path) -> None:
    own, shared = tmp_path / "own", tmp_path / "shared"
    own.mkdir(mode=0o700)
    shared.mkdir()
    shared.chmod(0o777)
    assert local_place({"TMPDIR": str(own)}) == own
    assert local_place({"TMPDIR": str(shared)}) != shared
    assert local_place({"TMPDIR": "relative"}) in (Path("/tmp"), Path("/var/tmp"), None)
    shared.chmod(0o1777)
    assert local_place({"TMPDIR": str(shared)}) == shared


def test_a_node_without_room_goes_without(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.node_kind.ROOM", 2**62)
    with compile_cache(run, 1, 0, {}) as cache:
        assert cache.folder is None and cache.variables == {}


def test_the_kind_of_a_node_stays_the_same_and_tells_cpus_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    before = kind_of_node()
    assert kind_of_node() == before
    monkeypatch.setattr("launch.node_kind._cpu", lambda: ["model name: another"])
    assert kind_of_node() != before


def test_a_disk_that_is_full_leaves_an_empty_directory(
    run: RunDir, node: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    attempt(run, 1, node, "a.so", "b.so")

    def full(path: Path, data: bytes) -> None:
        path.write_bytes(data[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("launch.archive._write", full)
    with compile_cache(run, 2, 0, node) as cache:
        assert cache.folder is not None and list(cache.folder.iterdir()) == []
    assert "cannot be used: No space left on device; compiles anew" in capsys.readouterr().out


def test_an_archive_that_takes_long_to_write_does_not_hold_the_watch(
    run: RunDir, node: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    monkeypatch.setattr(module, "pack", lambda *_: (time.sleep(0.5), written.append(1)))
    with compile_cache(run, 1, 0, node) as cache:
        assert cache.folder is not None
        (cache.folder / "a.so").write_text("x")
        began = [cache.look(steps_to(step)) for step in (0, 1, 2, 3)]
        assert began and not written
        wait_for(lambda: written, "the archive", patience=5)


@pytest.mark.parametrize("others", [False, True], ids=["a link", "open to others"])
def test_nothing_is_written_or_tidied_away_where_a_link_leads_or_others_write(
    run: RunDir, node: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], others: bool
) -> None:
    home = run.compile_cache if others else tmp_path / "home"
    home.mkdir()
    names = [".bashrc", *(f"backup{number}.tar" for number in range(5))]
    for name in names:
        (home / name).touch()
    if others:
        home.chmod(0o777)
    else:
        run.compile_cache.symlink_to(home)
    attempt(run, 1, node, "a.so")
    assert sorted(path.name for path in home.iterdir()) == names
    (line,) = capsys.readouterr().out.splitlines()
    assert "compiled code is not kept for later attempts" in line


def test_only_archives_of_ours_are_tidied_away(run: RunDir, node: dict[str, str]) -> None:
    run.compile_cache.mkdir(mode=0o700)
    kept = ["notes.tar", "z.tar", ".hidden", *(f"{number:016x}.tar" for number in (8, 9))]
    for age, name in enumerate([*(f"{number:016x}.tar" for number in range(8)), *kept]):
        (run.compile_cache / name).touch()
        os.utime(run.compile_cache / name, (age, age))
    attempt(run, 1, node, "a.so")
    assert {path.name for path in run.compile_cache.iterdir()} == {*kept, f"{kind_of_node()}.tar"}


def test_what_torch_removes_while_it_is_looked_at_is_passed_over(
    run: RunDir, node: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def vanish(path: object) -> object:
        if "tmp.pid" in str(path):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return scandir(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", vanish)
    attempt(run, 1, node, "a.so", "triton/K/tmp.pid_1/b.so")
    monkeypatch.undo()
    assert list(attempt(run, 2, node)) == ["a.so"]


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_a_header_that_asks_for_all_memory_is_damage(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("a")
    member.type, member.size = kind, 2**60
    with pytest.raises(UnusableError):
        unpack(io.BytesIO(member.tobuf(tarfile.GNU_FORMAT) + bytes(10240)), tmp_path)


def test_a_directory_below_one_that_others_may_exchange_is_not_used(tmp_path: Path) -> None:
    below = tmp_path / "open" / "below"
    below.mkdir(parents=True, mode=0o700)
    assert local_place({"TMPDIR": str(below)}) == below
    below.parent.chmod(0o777)
    assert local_place({"TMPDIR": str(below)}) != below
    (tmp_path / "file").touch()
    assert local_place({"TMPDIR": str(tmp_path / "file")}) == Path("/tmp")
