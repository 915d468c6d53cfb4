"""Measuring two sides in one session: interleaved, repeated, with the ratio and its spread."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).parents[1]


class Missing(Exception):
    """What a benchmark needs and this machine does not have: it is told, and the benchmark passed over."""


@dataclass(frozen=True)
class Given:
    """What the command line says. `peers` are folders with the peers' code; `scratch` is an empty directory."""

    repeats: int
    peers: Mapping[str, Path]
    scratch: Path

    def peer(self, name: str, holds: str) -> Path:
        """The folder of a peer, in which there is the file `holds`. Raises Missing."""
        if name not in self.peers:
            raise Missing(f"{name} was not given: --peer {name}=FOLDER, its checkout, with {holds}")
        if not (self.peers[name] / holds).is_file():
            raise Missing(f"--peer {name}={self.peers[name]}: there is no {holds}")
        return self.peers[name]


@dataclass(frozen=True)
class Side:
    """One of the two that are compared. `seconds` does the work once and returns what it took."""

    name: str
    seconds: Callable[[], float]


@dataclass(frozen=True)
class Aim:
    """`at least`: so many times faster than the peer. `at most`: that share of the peer's time."""

    kind: Literal["at least", "at most"]
    value: float

    def reached(self, value: float) -> bool:
        """Whether `value` meets it."""
        return value >= self.value if self.kind == "at least" else value <= self.value


@dataclass(frozen=True)
class Comparison:
    """Seconds of both sides, one each a repeat. The ratio is the peer's to ours where the aim is `at least`."""

    what: str
    ours: str
    peer: str
    our_seconds: tuple[float, ...]
    peer_seconds: tuple[float, ...]
    aim: Aim

    @property
    def ratios(self) -> list[float]:
        """One ratio a repeat: what stands beside each other in time is compared."""
        pairs = zip(self.our_seconds, self.peer_seconds, strict=True)
        return [peer / own if self.aim.kind == "at least" else own / peer for own, peer in pairs]

    @property
    def reached(self) -> bool:
        """Whether the median ratio meets the aim."""
        return self.aim.reached(statistics.median(self.ratios))

    def line(self) -> str:
        """One line for a person."""
        own, peer = statistics.median(self.our_seconds), statistics.median(self.peer_seconds)
        middle, low, high = statistics.median(self.ratios), min(self.ratios), max(self.ratios)
        spread = f"{number(middle)}x ({number(low)} to {number(high)})"
        return (
            f"{self.what}: {self.ours} {duration(own)}, {self.peer} {duration(peer)}, {spread}, "
            f"aim {self.aim.kind} {number(self.aim.value)}x: {'reached' if self.reached else 'MISSED'}"
        )

    def as_json(self) -> dict[str, Any]:
        """Every number, for `--json`."""
        return {
            "what": self.what,
            "ours": {"name": self.ours, "seconds": self.our_seconds},
            "peer": {"name": self.peer, "seconds": self.peer_seconds},
            "ratio": {"median": statistics.median(self.ratios), "all": self.ratios},
            "aim": {"kind": self.aim.kind, "value": self.aim.value},
            "reached": self.reached,
        }


@dataclass(frozen=True)
class Figure:
    """A figure without a peer, one value a repeat. `note` says what else a reader must know."""

    what: str
    values: tuple[float, ...]
    unit: str
    aim: Aim | None = None
    note: str = ""

    @property
    def reached(self) -> bool:
        """Whether the median meets the aim; yes where there is none."""
        return self.aim is None or self.aim.reached(statistics.median(self.values))

    def line(self) -> str:
        """One line for a person."""
        unit = "" if self.unit == "s" else f" {self.unit}"
        show = number if unit else duration
        spread = f" ({show(min(self.values))} to {show(max(self.values))})" if len(self.values) > 1 else ""
        verdict = "reached" if self.reached else "MISSED"
        aim = f", aim {self.aim.kind} {show(self.aim.value)}{unit}: {verdict}" if self.aim else ""
        note = f"; {self.note}" if self.note else ""
        return f"{self.what}: {show(statistics.median(self.values))}{unit}{spread}{aim}{note}"

    def as_json(self) -> dict[str, Any]:
        """Every number, for `--json`."""
        aim = {"aim": {"kind": self.aim.kind, "value": self.aim.value}} if self.aim else {}
        return {"what": self.what, "unit": self.unit, "values": self.values, "reached": self.reached, **aim}


Result = Comparison | Figure


@dataclass
class Report:
    """What the benchmarks of one call have found."""

    results: dict[str, list[Result]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """All of it, with machine and versions."""
        results = {name: [result.as_json() for result in found] for name, found in self.results.items()}
        return {"machine": machine(), "command": " ".join(sys.argv), "results": results, "skipped": self.skipped}


def compare(what: str, aim: Aim, ours: Side, peer: Side, repeats: int) -> Comparison:
    """Measure both sides `repeats` times in turn, the one and the other first; one round before does not count."""
    taken: dict[str, list[float]] = {"ours": [], "peer": []}
    for repeat in range(-1, repeats):
        sides = [("ours", ours), ("peer", peer)]
        for key, side in sides if repeat % 2 else sides[::-1]:
            seconds = side.seconds()
            if repeat >= 0:
                taken[key].append(seconds)
    return Comparison(what, ours.name, peer.name, tuple(taken["ours"]), tuple(taken["peer"]), aim)


def timed(work: Callable[[], object], after: Callable[[], object] | None = None) -> Callable[[], float]:
    """A measurement of `work`; `after` undoes it, or frees what it returned, and does not count."""

    def seconds() -> float:
        began = time.perf_counter()
        result = work()
        ended = time.perf_counter()
        del result
        if after:
            after()
        return ended - began

    return seconds


def repeated(measurement: Callable[[], float], repeats: int) -> tuple[float, ...]:
    """Values of a measurement, after one that does not count."""
    measurement()
    return tuple(measurement() for _ in range(repeats))


def number(value: float) -> str:
    """Three significant digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Seconds in the unit in which they read well."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{number(seconds / size)} {unit}"
    return f"{number(seconds / 1e-6)} us"


def machine() -> dict[str, str]:
    """What this is measured on: processor, cores, memory, GPU if there is one, and the versions that matter."""
    facts = {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": platform.platform(),
        "python": platform.python_version(),
        "load": f"{os.getloadavg()[0]:.1f}",  # of the last minute, these measurements included
    }
    names = ("torch", "numpy", "safetensors", "submitit", "hydra-core")
    return facts | {name: importlib.metadata.version(name) for name in names} | _gpu()


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _gpu() -> dict[str, str]:
    torch = sys.modules.get("torch")  # a benchmark of commands need not import it
    if torch is None or not torch.cuda.is_available():
        return {}
    return {"gpu": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda)}
