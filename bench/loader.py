"""Data: the feed of a training run, document ids and the order of samples, beside tatm's reader and torch's."""

from __future__ import annotations

import functools
import itertools
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.harness import Aim, Comparison, Figure, Given, Missing, Result, Side, compare, repeated, timed
from bench.tatm import Tatm, load_tatm, open_tatm
from tests.data.helpers import make_dataset
from tmrc.config.estimate import auto_micro_batch_size
from tmrc.config.load import load_config
from tmrc.data.batches import BatchReader
from tmrc.data.dataset import document_ids, open_dataset
from tmrc.data.order import Permutation
from tmrc.train.batch import Batch, HostBatch, to_device
from tmrc.train.feed import Feed, share_of

LENGTH, BATCH, EOS = 512, 256, 1  # of the default configuration
STEPS = 32  # batches read a repeat
SHARDS, SHARD_TOKENS, DOCUMENT = 8, 1 << 20, 600  # 16,384 sequences; tokens of a document on average
BILLION, SMALLER = 10**9, 2 * 10**7
CPU = torch.device("cpu")


def run(given: Given) -> Iterator[Result]:
    """What can be said without a peer comes first."""
    torch.set_num_threads(1)  # the sizes are small: threads would be noise
    reader = BatchReader(open_dataset(_data(given.scratch / "data"), LENGTH), BATCH)
    config = load_config("default")
    micro = auto_micro_batch_size(config, BATCH, on_gpu=False)
    for size in (BATCH, micro):
        yield _rate(reader, size, given.repeats)
    yield from _order(given.repeats)
    yield from _billion(given)
    tatm = load_tatm(given)
    yield from _loaders(reader, tatm, given)
    for tokens, aim in ((512, 10.0), (8192, 60.0)):
        yield _document_ids(reader, tatm, tokens, aim, given.repeats)


def _data(folder: Path) -> Path:
    """Shards of random tokens, in which an EOS comes every `DOCUMENT` tokens on average."""
    random = np.random.default_rng(0)
    shards = []
    for _ in range(SHARDS):
        tokens = random.integers(2, 32_000, SHARD_TOKENS)
        tokens[random.random(SHARD_TOKENS) < 1 / DOCUMENT] = EOS
        shards.append(tokens)
    return make_dataset(folder, shards)


def _fed(reader: BatchReader, micro: int = BATCH, first: int = 0) -> Iterator[tuple[HostBatch, Batch]]:
    """What a training run on one process gets from step `first` on, in the way it gets it."""
    feed = Feed(reader, share_of(0, 1, BATCH, micro), first, first + STEPS, pin=False)
    for _ in range(STEPS):
        for host in feed.next():
            yield host, to_device(host, CPU, EOS)
    feed.close()


def _rate(reader: BatchReader, micro: int, repeats: int) -> Figure:
    seconds = repeated(timed(lambda: [None for _ in _fed(reader, micro)]), repeats)
    rates = tuple(STEPS * BATCH * LENGTH / one / 1e6 for one in seconds)
    return Figure(f"tokens fed to training in micro-batches of {micro}", rates, "million tokens/s")


def _loaders(reader: BatchReader, tatm: Tatm, given: Given) -> Iterator[Comparison]:
    theirs = open_tatm(tatm, given.scratch / "data", "tok", LENGTH)
    loader: Any = torch.utils.data.DataLoader(
        theirs, BATCH, shuffle=True, num_workers=0, collate_fn=tatm.utils.torch_collate_fn
    )
    _require_equal(reader, theirs, tatm)
    peer = Side("tatm + DataLoader(0) + its collate", timed(lambda: [None for _ in itertools.islice(loader, STEPS)]))
    what = f"{STEPS} shuffled batches of {BATCH} x {LENGTH} tokens with document ids"
    plain = Side("BatchReader", timed(lambda: [_tokens_and_documents(reader, step) for step in range(STEPS)]))
    yield compare(what, Aim("at least", 50), plain, peer, given.repeats)
    fed = Side("the trainer's feed", timed(lambda: [None for _ in _fed(reader)]))
    more = "the same, and of ours also targets, lengths and the ledger's hashes"
    yield compare(more, Aim("at least", 15), fed, peer, given.repeats)  # our own aim: the peer has none of these


def _tokens_and_documents(reader: BatchReader, step: int) -> None:
    """What tatm's side makes, and no more: int64 tokens and document ids."""
    tokens = torch.from_numpy(reader.read(reader.samples(step)))
    torch.from_numpy(document_ids(tokens.numpy(), EOS)).long()


def _require_equal(reader: BatchReader, theirs: Any, tatm: Tatm) -> None:
    """Raise AssertionError unless both sides give the same for every sequence that is measured, and as many."""
    assert len(theirs) == len(reader.dataset)
    for host, batch in _fed(reader):
        other = tatm.utils.torch_collate_fn([theirs[item] for item in host.items])
        assert torch.equal(batch.tokens_BT, other["token_ids"])
        assert torch.equal(batch.document_ids_BT, other["document_ids"])
        tokens = reader.read(np.asarray(host.items))
        assert np.array_equal(document_ids(tokens, EOS), other["document_ids"].numpy())


def _document_ids(reader: BatchReader, tatm: Tatm, count: int, aim: float, repeats: int) -> Comparison:
    tokens = np.array(reader.dataset.map_shard(0)[:count])
    loop = functools.partial(tatm.datasets._get_document_ids, tokens, EOS)
    ours = functools.partial(document_ids, tokens, EOS)
    assert np.array_equal(loop(), ours())

    def many(work: Callable[[], object]) -> Callable[[], float]:
        return timed(lambda: [work() for _ in range(100)])

    what = f"document ids of {count} tokens, 100 times"
    return compare(what, Aim("at least", aim), Side("repeat", many(ours)), Side("tatm's loop", many(loop)), repeats)


def _order(repeats: int) -> Iterator[Result]:
    """One batch from the middle of an epoch's order, which nothing has been kept of."""
    epochs = itertools.count()

    def seek(n: int) -> None:
        Permutation(n, 0, next(epochs))(np.arange(BATCH) + n // 2)

    yield Figure(
        f"seek to one batch in the order of {BILLION:,}",
        repeated(timed(lambda: seek(BILLION)), repeats),
        "s",
        Aim("at most", 1e-3),
    )
    tracemalloc.start()
    seek(BILLION)
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    yield Figure(f"memory for the order of {BILLION:,}", (peak,), "MB", Aim("at most", 1))
    yield compare(
        f"one batch in the order of {SMALLER:,} (at a billion, the peer takes 8 GB)",
        Aim("at least", 1000),
        Side("keyed bijection", timed(lambda: seek(SMALLER))),
        Side("torch.randperm", timed(lambda: torch.randperm(SMALLER)[SMALLER // 2 :][:BATCH])),
        repeats,
    )


def _billion(given: Given) -> Iterator[Figure]:
    """A data set of a billion sequences, of which the files have only their size and an end."""
    folder = make_dataset(given.scratch / "billion", [[7]] * 2)
    for shard in folder.glob("*.bin"):
        with shard.open("r+b") as file:
            try:
                file.truncate(BILLION // 2 * LENGTH * 2)
            except OSError as error:
                raise Missing(f"{folder}: the file system has no room for sparse files of a terabyte") from error
            file.seek(-2, 2)
            file.write(b"\7\0")

    def start() -> float:
        reader = BatchReader(open_dataset(folder, LENGTH), BATCH)
        began = time.perf_counter()
        reader.read(reader.samples(reader.steps_per_epoch // 2))
        return time.perf_counter() - began

    opened = timed(lambda: BatchReader(open_dataset(folder, LENGTH), BATCH))
    yield Figure("open a data set of a billion sequences", repeated(opened, given.repeats), "s", Aim("at most", 1))
    batch = repeated(start, given.repeats)
    yield Figure("its first batch in mid-epoch, files just opened", batch, "s", Aim("at most", 0.01))
