"""Our side of a comparison of training steps: the parts of a real run on made-up data. Served by bench.serve."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench.serve import Served, Step, serve
from tests.train.conftest import write_dataset
from tmrc.config.load import load_config
from tmrc.data.plan import plan_data
from tmrc.train.batch import HostBatch, to_device
from tmrc.train.distributed import join_world
from tmrc.train.feed import Feed, read_share
from tmrc.train.pulse import Pulse
from tmrc.train.run import _set_determinism
from tmrc.train.schedule import learning_rate
from tmrc.train.setup import Parts, build_parts, warm_up_batch

SEQUENCES = 4_096  # of the data set
DOCUMENT = 400  # tokens of a document, on average
QUIET = ["datasets.tokenizer_used=null", "tokenizer.name=null", "training.epochs=1000000", "wandb_log.mode=disabled"]


@contextmanager
def parts_of(name: str, overrides: Sequence[str]) -> Iterator[Parts]:
    """What a run of the configuration `name` is made of, compiled and warm, on this process alone."""
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(name, [*QUIET, *overrides])
        data = made_data(Path(folder), config.model.context_length, config.tokenizer.vocab_size)
        config = load_config(name, [*QUIET, *overrides, f"datasets.path={data}"])
        _set_determinism(config)
        with join_world(config.training, Pulse()) as world:
            parts = build_parts(config, plan_data(config), world)
            if parts.compiled:
                parts.stepper.warm_up(warm_up_batch(parts), reduces=False)
            yield parts


def made_data(folder: Path, length: int, vocab: int) -> Path:
    """Random tokens in documents of `DOCUMENT` tokens on average, each ended by the EOS 1."""
    random = np.random.default_rng(0)
    tokens = random.integers(2, min(vocab, 65_535), SEQUENCES * length)
    tokens[random.random(len(tokens)) < 1 / DOCUMENT] = 1
    return write_dataset(folder / "data", [tokens], vocab)


def stepping(parts: Parts, feed: Feed | None) -> Step:
    """One optimizer step after the other: on what `feed` reads, or always on the same batch, which is in memory."""
    numbers = itertools.count()
    pin = parts.world.device.type == "cuda"
    same = None if feed else list(read_share(parts.reader, parts.share, 0, pin))

    def step() -> None:
        hosts = same if same is not None or feed is None else feed.next()
        assert hosts is not None
        _train_step(parts, next(numbers), hosts)

    return step


def _train_step(parts: Parts, number: int, hosts: list[HostBatch]) -> None:
    """As the loop does it, without what the loop is for: agreeing, logging, saving."""
    training = parts.config.training
    targets = int((parts.reader.lengths(parts.reader.samples(number)) - 1).clip(0).sum())
    for position, host in enumerate(hosts):
        batch = to_device(host, parts.world.device, parts.config.datasets.eos_token)
        parts.stepper.backward(batch, host.index, number, 1 / targets, position == len(hosts) - 1)
    rate = learning_rate(number, training.train_steps, parts.config.optimizer.lr, training)
    parts.stepper.update(number, rate)


@contextmanager
def _build(given: dict[str, Any]) -> Iterator[Served]:
    with parts_of(given["config"], given["overrides"]) as parts:
        device = parts.world.device.type
        feed = Feed(parts.reader, parts.share, 0, 10**9, device == "cuda") if given.get("reads") else None
        yield Served(stepping(parts, feed), parts.tokens_per_step, device)


if __name__ == "__main__":
    serve(_build)
