"""The watchdog's eyes: how long ago each rank on this node last did something, from the heartbeats that they write."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch.processes import state
from tmrc.config.heartbeat import Beat, read_heartbeat

# Seconds between two looks after which we have been stopped ourselves, and the ranks with us: by `scontrol suspend`
STOOD_STILL = 20.0


@dataclass
class HangWatch:
    """Heartbeats in `folder`, which are expected every `timeout` seconds (0: never)."""

    folder: Path
    timeout: float
    began: float = field(default_factory=time.monotonic)
    looked: float = field(default_factory=time.monotonic)  # at the last look
    awake: float = 0.0  # since when we look without a break

    def beats(self) -> dict[int, Beat]:
        """Rank -> its last heartbeat, of the ranks on this node that have written one."""
        names = {int(file.name.removeprefix("rank_")): file for file in self.folder.glob("rank_*")}
        return {rank: beat for rank, file in sorted(names.items()) if (beat := read_heartbeat(file)) is not None}

    def hung(self) -> bool:
        """Whether some rank, or before the first heartbeat all of them, have been still for too long."""
        if not self.timeout:
            return False
        now = time.monotonic()
        if now - self.looked > STOOD_STILL:
            self.awake = now
        self.looked = now
        last = [beat.changed for beat in self.beats().values()]
        return now - max(self.awake, min(last, default=self.began)) > self.timeout


def positions(beats: Mapping[int, Beat], pids: Mapping[int, int]) -> dict[str, dict[str, Any]]:
    """The heartbeats as they stand in a node's report, by rank.

    `still` is how many seconds the rank has not moved, `frozen` whether the kernel says that its process cannot.
    """
    now = time.monotonic()
    return {
        str(rank): {
            "counter": beat.counter,
            "step": beat.step,
            "phase": beat.phase,
            "still": now - beat.changed,
            "frozen": rank in pids and state(pids[rank]) in ("T", "t", "D"),
        }
        for rank, beat in beats.items()
    }


def describe_hang(found: Mapping[str, Mapping[str, Any]], timeout: float) -> tuple[str, list[int]]:
    """(one line, the ranks to blame) for the `positions` of all ranks when one of them had been still for too long.

    All ranks pass the same places, so the one that has passed the fewest is the one that the others wait for. Where
    several have, as in the middle of a collective, those that the kernel has stopped are to blame.
    """
    if not found:
        return f"no training process has given a sign of life for {timeout:g} seconds", []
    least = min(place["counter"] for place in found.values())
    behind = sorted(int(rank) for rank, place in found.items() if place["counter"] == least)
    behind = [rank for rank in behind if found[str(rank)].get("frozen")] or behind
    place = found[str(behind[0])]
    where = f"{place['phase']}, step {place['step']}"
    if len(behind) == len(found):
        return f"no rank has moved for {timeout:g} seconds; all are in the same place ({where})", behind
    names = f"rank{'s' * (len(behind) > 1)} {', '.join(map(str, behind))}"
    has = "have" if len(behind) > 1 else "has"
    return f"{names} {has} not moved for {place['still']:.0f} seconds ({where}); the others wait", behind
