"""The training sequences of a run: which each step uses, and their tokens read once more. No torch."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from tmrc.config.schema import Config
from tmrc.data.batches import BatchReader
from tmrc.data.dataset import TokenDataset
from tmrc.data.plan import DataPlan
from tmrc.train.ledger import Ledger, Sums, altered_position, order_sums, sums_of


def training_reader(config: Config, plan: DataPlan, vocab_limit: int | None = None) -> BatchReader:
    """Reads the global batches of a run. Raises DataError when there is not even one."""
    whole = TokenDataset(plan.metadata, plan.shards, plan.layout, None, config.datasets.eos_token)
    training = config.training
    return BatchReader(whole.select("train"), training.batch_size, training.seed, training.shuffle, vocab_limit)


@dataclass(frozen=True)
class Changed:
    """A step whose tokens are no longer those that were trained on. `step` counts from 1, `position` from 0."""

    step: int
    position: int | None  # of the sequence in its global batch, where it is one alone
    shards: tuple[str, ...]  # names of the shard it is of, or of all that the step read from
    place: str = ""  # the sequence's shard and chunk

    def words(self, touched: Collection[str] = ()) -> str:
        """One line for people; of several shards it names those that have been `touched`."""
        if self.position is not None:
            how = f"which step {self.step:,} used at position {self.position:,} of its batch"
            return f"{self.place}, {how}, holds other tokens than it did then"
        names = [name for name in self.shards if name in touched] or self.shards
        return f"{' or '.join(names)}: several sequences that step {self.step:,} used hold other tokens than they did"


def changed(reader: BatchReader, step: int, recorded: Sums, found: Sums) -> Changed | None:
    """What has changed in the data of `step` (from 1), if anything. The order must be the recorded one."""
    if (recorded.content, recorded.place) == (found.content, found.place):
        return None
    items = reader.samples(step - 1)
    position = altered_position(recorded, found, reader.batch_size)
    shards = reader.dataset.locate(items)[0]
    names = tuple(reader.dataset.shards[int(shard)].path.name for shard in np.unique(shards))
    if position is None:
        return Changed(step, None, names)
    name = reader.dataset.shards[int(shards[position])].path.name
    return Changed(step, position, (name,), reader.locate(int(items[position])))


def read_again(reader: BatchReader, ledger: Ledger, last: int, seconds: float) -> tuple[int, Changed | None]:
    """Compare the data of the newest steps up to `last` with the ledger, for `seconds` and at least one step.

    Returns how many steps were compared, and the first difference. Raises DataError when a shard cannot be read.
    """
    compared, until = 0, time.monotonic() + seconds
    for step in range(min(last, ledger.last), ledger.first - 1, -1):
        if compared and time.monotonic() > until:
            break
        items, recorded = reader.samples(step - 1), ledger.sums(step)
        if int(order_sums(items[None])[0]) != recorded.order:
            continue  # another order: nothing can be said of the tokens
        compared += 1
        tokens = np.empty((len(items), reader.dataset.context_length), np.int32)
        if difference := changed(reader, step, recorded, sums_of(items, reader.read(items, tokens), 0)):
            return compared, difference
    return compared, None
