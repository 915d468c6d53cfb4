"""The real trainer, slowed down and held where a test wants to interrupt it; its numbers are the real ones.

`wandb_log.tags` say how: `step_seconds=0.1` sleeps at each step; `hold=PLACE` (start, compilation, validation or
checkpoint) makes every rank of the first attempt leave `held_<rank>` in the run directory when it comes to that place,
and stand there until the file `go` appears; `crash=3` raises after 3 steps and `eat=3` takes all memory. Each forward
pass is noted in `passes_<rank>`, so that repeated work can be counted.
"""

import signal

signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT))

import os  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

PATIENCE = 300.0  # seconds after which a held rank goes on by itself


class Pace:
    """What this rank is told to do."""

    def __init__(self, run: Path) -> None:
        from tmrc.config.load import load_config

        self.run, self.rank = run, os.environ.get("RANK", "0")
        self.attempt = os.environ.get("TMRC_ATTEMPT", "1")
        config = load_config(run / "config.yaml")
        self.tags = dict(tag.split("=", 1) for tag in config.wandb_log.tags)

    def at(self, place: str) -> None:
        """Stand still here, if that is wanted."""
        mark = self.run / f"held_{self.rank}"
        if self.tags.get("hold") != place or self.attempt != "1" or mark.exists():
            return
        mark.touch()
        deadline = time.monotonic() + PATIENCE
        while not (self.run / "go").exists() and time.monotonic() < deadline:
            time.sleep(0.05)

    def phase(self, name: str, step: int) -> None:
        """The trainer begins the phase `name` after `step` steps."""
        if name == "validating":
            self.at("validation")
        if name == "forward and backward":
            with (self.run / f"passes_{self.rank}").open("a") as file:
                file.write(f"{self.attempt} {step}\n")
            time.sleep(float(self.tags.get("step_seconds", 0)))
            if str(step) == self.tags.get("crash"):
                raise RuntimeError("a crash that was asked for")
            if str(step) == self.tags.get("eat"):
                self.eaten = [bytearray(os.urandom(1 << 20)) * 64 for _ in range(1000)]


def main(run: Path) -> int:
    """Train as tmrc.train does, at the pace that is told."""
    pace = Pace(run)
    pace.at("start")
    from tmrc.train import durable
    from tmrc.train.pulse import Pulse
    from tmrc.train.run import main as train
    from tmrc.train.step import Stepper
    from tmrc.train.stop import stop_with_parent

    beat, seal, warm_up = Pulse.__call__, durable.seal, Stepper.warm_up

    def slow_beat(pulse: Pulse, phase: str) -> None:
        beat(pulse, phase)
        pace.phase(phase, pulse.step)

    def slow_seal(*arguments: Any) -> None:
        pace.at("checkpoint")
        seal(*arguments)

    def slow_warm_up(*arguments: Any, **options: Any) -> None:
        pace.at("compilation")
        warm_up(*arguments, **options)

    Pulse.__call__ = slow_beat  # type: ignore[method-assign, assignment]
    durable.seal = slow_seal  # type: ignore[assignment]
    Stepper.warm_up = slow_warm_up  # type: ignore[method-assign]
    stop_with_parent()
    return train([str(run)])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
