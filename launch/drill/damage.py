"""Damage to the files of a run between two attempts: what disks, people and half-done copies do to checkpoints."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

from launch.compare.results import MANIFEST
from tmrc.config.rundir import RunDir, checkpoint_name, checkpoint_steps

PAGE = 4096  # bytes

Damage = Callable[[Path, Random], str]


def damage(checkpoint: Path, random: Random) -> str:
    """Damage a checkpoint, be it whole or damaged before, in one of the ways below; returns in words how."""
    how = random.choice(list(DAMAGES))
    return f"{DAMAGES[how](checkpoint, random)} of {checkpoint.name}"


def leave_rubbish(run: RunDir, random: Random) -> str:
    """What is no checkpoint, beside the checkpoints; returns in words what."""
    there = checkpoint_steps(run)
    run.checkpoints.mkdir(exist_ok=True)
    newest, steps, folder = max(there, default=0), list(there.values()), run.checkpoints
    half, old = f".{checkpoint_name(newest + 1)}.tmp", f".attempt_0/{checkpoint_name(newest)}"
    kinds: tuple[tuple[str, Callable[[], object]], ...] = (
        ("a hidden half-written checkpoint", lambda: _half(folder / half, steps)),
        ("a stray file", lambda: (folder / "notes.txt").write_text("not a checkpoint\n")),
        ("an older attempt's directory", lambda: _half(folder / old, steps)),
        ("what was being removed", lambda: _half(folder / ".ended_0_by_1" / "deleted_step_00000001", steps)),
    )
    words, make = random.choice(kinds)
    make()
    return f"{words} left in checkpoints/"


def _half(target: Path, steps: list[Path]) -> None:
    """A checkpoint without its manifest."""
    shutil.rmtree(target, ignore_errors=True)
    if steps:
        shutil.copytree(steps[0], target, ignore=shutil.ignore_patterns(MANIFEST))
    else:
        target.mkdir(parents=True)


def _a_file(checkpoint: Path, random: Random) -> Path:
    """One that still has bytes: an earlier fault may have cut one off."""
    files = [path for path in checkpoint.iterdir() if path.name != MANIFEST and path.is_file() and path.stat().st_size]
    return random.choice(sorted(files))


def _truncate(checkpoint: Path, random: Random) -> str:
    file = _a_file(checkpoint, random)
    size = random.randrange(file.stat().st_size)
    with file.open("r+b") as handle:
        handle.truncate(size)
    return f"{file.name} cut off at byte {size}"


def _flip(checkpoint: Path, random: Random) -> str:
    file = _a_file(checkpoint, random)
    place, bit = random.randrange(file.stat().st_size), random.randrange(8)
    with file.open("r+b") as handle:
        handle.seek(place)
        old = handle.read(1)[0]
        handle.seek(place)
        handle.write(bytes([old ^ (1 << bit)]))
    return f"bit {bit} of byte {place} flipped in {file.name}"


def _zero(checkpoint: Path, random: Random) -> str:
    """A page of zeros, where there are other bytes: else nothing would be damaged (or all of it is, already)."""
    file = _a_file(checkpoint, random)
    data = file.read_bytes()
    pages = [at for at in range(0, len(data), PAGE) if any(data[at : at + PAGE])]
    at = random.choice(pages or [0])
    with file.open("r+b") as handle:
        handle.seek(at)
        handle.write(bytes(len(data[at : at + PAGE])))
    return f"a page of {file.name} zeroed"


def _delete(checkpoint: Path, random: Random) -> str:
    file = _a_file(checkpoint, random)
    file.unlink()
    return f"{file.name} deleted"


def _empty_manifest(checkpoint: Path, random: Random) -> str:
    (checkpoint / MANIFEST).write_bytes(b"")
    return "manifest emptied"


def _delete_manifest(checkpoint: Path, random: Random) -> str:
    (checkpoint / MANIFEST).unlink(missing_ok=True)
    return "manifest deleted"


DAMAGES: dict[str, Damage] = {
    "truncate": _truncate,
    "flip": _flip,
    "zero": _zero,
    "delete": _delete,
    "empty manifest": _empty_manifest,
    "delete manifest": _delete_manifest,
}
