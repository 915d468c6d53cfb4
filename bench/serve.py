"""A side of a comparison in a process of its own: it does so many steps when asked to, and says how long they took.

Imports nothing of tmrc, so that a peer whose package has the same name can be served.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.harness import Missing

ROOT = Path(__file__).parents[1]
OUT_OF_MEMORY = "out of memory"
Step = Callable[[], object]


@dataclass(frozen=True)
class Served:
    """A step, how many tokens it takes, and the kind of device it runs on."""

    step: Step
    tokens: int
    device: str


def serve(build: Callable[[dict[str, Any]], AbstractContextManager[Served]]) -> None:
    """Build, then answer on standard output what comes in on standard input.

    What anything else prints goes to standard error.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    import torch

    try:
        with build(json.loads(sys.argv[1])) as served:
            served.step()
            print(json.dumps({"tokens": served.tokens}), file=answers)
            for line in sys.stdin:
                print(json.dumps(_measure(served, int(line))), file=answers)
    except (torch.OutOfMemoryError, MemoryError):
        print(json.dumps({"error": OUT_OF_MEMORY}), file=answers)


def _measure(served: Served, steps: int) -> dict[str, float]:
    import torch

    on_gpu = served.device == "cuda"
    wait: Callable[[], None] = torch.cuda.synchronize if on_gpu else lambda: None
    wait()
    began = time.perf_counter()
    for _ in range(steps):
        served.step()
    wait()
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "peak": torch.cuda.max_memory_allocated() if on_gpu else 0}


class Server:
    """The other end: starts a module of this package with what it is to build, and asks it for steps.

    Raises Missing when it cannot be built, with `OUT_OF_MEMORY` when that is why.
    """

    def __init__(self, module: str, given: Mapping[str, Any], path: Sequence[Path] = ()) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT]))}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, json.dumps(given)],
            env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=None if os.environ.get("TMRC_BENCH_LOUD") else subprocess.DEVNULL,
        )  # fmt: skip
        try:
            self.tokens = int(self._answer()["tokens"])
        except Missing:
            self.close()
            raise
        self.peak_bytes = 0

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the process and wait for it: its memory is wanted."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def seconds_of(self, tokens: float, steps: int) -> Callable[[], float]:
        """A measurement: seconds of so many tokens, from so many steps."""

        def seconds() -> float:
            assert self._process.stdin
            print(steps, file=self._process.stdin, flush=True)
            answer = self._answer()
            self.peak_bytes = answer["peak"]
            return float(answer["seconds"]) * tokens / (steps * self.tokens)

        return seconds

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise Missing(
                f"{self._process.args}: ended with exit code {self._process.wait()}; TMRC_BENCH_LOUD=1 says why"
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Missing(answer["error"])
        return answer
