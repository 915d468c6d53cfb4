"""Tokenizing batches of text in several processes, results in the order of the batches."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmrc.config.errors import UserError
from tmrc.data.sources import Piece
from tmrc.data.tokenizer import Encoder

Batch = Sequence[Piece]


@dataclass(frozen=True)
class Encoded:
    """The tokens of a batch, end to end, and where each piece ends in them."""

    tokens: NDArray[np.uint32]
    ends: list[int]
    documents: int
    offset: int

    def pieces(self) -> Iterator[NDArray[np.uint32]]:
        """The tokens of one piece after another."""
        begin = 0
        for end in self.ends:
            yield self.tokens[begin:end]
            begin = end


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def encode_batches(batches: Iterable[Batch], tokenizer_json: str, eos_token: int, workers: int) -> Iterator[Encoded]:
    """Tokenize batches in `workers` processes (in this one for 1). At most a few batches are in memory at a time."""
    if workers == 1:
        encoder = Encoder(tokenizer_json)
        yield from (_encode(batch, encoder, eos_token) for batch in batches)
        return
    waiting: deque[Future[Encoded]] = deque()
    with _ctrl_c_waits() as heed_ctrl_c, _workers(workers, tokenizer_json, eos_token) as pool:
        for batch in batches:
            waiting.append(pool.submit(_work, batch))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
            heed_ctrl_c()
        while waiting:
            yield waiting.popleft().result()
            heed_ctrl_c()


@contextmanager
def _workers(count: int, tokenizer_json: str, eos_token: int) -> Iterator[ProcessPoolExecutor]:
    """`count` tokenizing processes, ended afterwards. Raises UserError when one of them is killed."""
    # Spawned, not forked: the tokenizer's threads and locks do not survive a fork.
    pool = ProcessPoolExecutor(
        count, multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(tokenizer_json, eos_token)
    )
    try:
        yield pool
    except BrokenProcessPool as error:
        raise UserError("a tokenizing process was killed, perhaps for want of memory: try fewer --workers") from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _ctrl_c_waits() -> Iterator[Callable[[], None]]:
    """Ctrl-C raises KeyboardInterrupt when the function that this gives is called, or at the end.

    An exception in the middle of the pool's own code can leave a lock taken, for which its threads then wait forever.
    """
    came = threading.Event()

    def note(signum: int, frame: FrameType | None) -> None:
        came.set()

    def heed() -> None:
        if came.is_set():
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # where Ctrl-C does not come
        yield heed
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield heed
    finally:
        signal.signal(signal.SIGINT, before)
    heed()


def _encode(batch: Batch, encoder: Encoder, eos_token: int) -> Encoded:
    ids = [encoder(piece.text) + [eos_token] * piece.ends_document for piece in batch]
    return Encoded(
        tokens=np.asarray([token for piece in ids for token in piece], np.uint32),
        ends=np.cumsum([len(piece) for piece in ids]).tolist(),
        documents=sum(piece.ends_document for piece in batch),
        offset=batch[-1].offset,
    )


_worker: dict[str, Any] = {}  # what a worker process was started with


def _start_worker(tokenizer_json: str, eos_token: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker.update(encoder=Encoder(tokenizer_json), eos_token=eos_token)


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _work(batch: Batch) -> Encoded:
    return _encode(batch, _worker["encoder"], _worker["eos_token"])
