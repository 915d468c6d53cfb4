"""A copy of the training state in host memory, taken between two steps, from which a checkpoint is written."""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from tmrc.train.checkpoint import Files, Tensors
from tmrc.train.failures import NoMemoryError

_THREADS_PAY = 1 << 24  # bytes from which on more than one thread is worth its start
_ALIGNED = 64  # bytes; a multiple of every type's size


class Snapshot:
    """One piece of memory that is filled again and again: one copy of the state, however often it is saved.

    On a GPU it is pinned and the copies run on a stream of their own, beside the next forward and backward pass, until
    `protect` is called before the weights change.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._copied: torch.cuda.Event | None = None
        self._room = torch.empty(0, dtype=torch.uint8)

    def prepare(self, files: Files) -> None:
        """Make room for tensors as these before it is needed: memory takes longer to get than to fill."""
        size = sum(_room_of(tensor) for tensors in files.values() for tensor in tensors.values())
        if size > self._room.numel():
            self._room = _memory(size, pinned=self._stream is not None)

    def take(self, files: Files) -> Files:
        """Begin to copy the tensors; they must not change before `protect`. Read the copies after `wait`."""
        self.prepare(files)
        copies = self._lay_out(files)
        pairs = [(copies[name][entry], tensor) for name in files for entry, tensor in files[name].items()]
        if self._stream is None:
            _copy(pairs)
            return copies
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            for copy, tensor in pairs:
                copy.copy_(tensor, non_blocking=True)
            self._copied = self._stream.record_event()
        return copies

    def protect(self) -> None:
        """What the device is given from now on may change the tensors: it begins when they are copied."""
        if self._stream is not None and self._copied is not None:
            torch.cuda.current_stream(self._stream.device).wait_event(self._copied)

    def wait(self) -> None:
        """Return when the copies are complete. To be called by any thread."""
        if self._copied is not None:
            self._copied.synchronize()

    def _lay_out(self, files: Files) -> Files:
        """Tensors as these, one after the other in the room."""
        begin = 0
        copies: dict[str, Tensors] = {name: {} for name in files}
        for name, tensors in files.items():
            for entry, tensor in tensors.items():
                place = self._room[begin : begin + tensor.nbytes]
                copies[name][entry] = place.view(tensor.dtype).view(tensor.shape)
                begin += _room_of(tensor)
        return copies


def _room_of(tensor: Tensor) -> int:
    return math.ceil(tensor.nbytes / _ALIGNED) * _ALIGNED


def _memory(size: int, pinned: bool) -> Tensor:
    """`size` bytes that the system has really given, which it does when they are written to."""
    if pinned:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        what = f"a copy of the state, from which checkpoints are written, takes {size:,} bytes of the host's memory"
        raise NoMemoryError(f"{what} ({error.strerror}); give the job more (launch.mem)") from None
    with contextlib.suppress(OSError):  # of huge pages there are fewer to be looked up, which the copies are faster by
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8).zero_()


def _copy(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Copy (to, from) as bytes: NumPy's goes past the caches, which PyTorch's own between CPU tensors does not."""
    threads = torch.get_num_threads() if sum(copy.nbytes for copy, _ in pairs) >= _THREADS_PAY else 1
    if threads == 1:
        for copy, tensor in pairs:
            np.copyto(_bytes(copy), _bytes(tensor))
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda pair: np.copyto(_bytes(pair[0]), _bytes(pair[1])), pairs))


def _bytes(tensor: Tensor) -> np.ndarray:
    """The tensor's memory, or that of a copy where it is not contiguous."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
