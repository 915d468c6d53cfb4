"""A copy of the training state in host memory, taken between two steps, from which a checkpoint is written."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tmrc.train.checkpoint import Files, Tensors


class Snapshot:
    """Buffers that are made once and filled again and again: one copy of the state, however often it is saved.

    On a GPU the buffers are pinned and the copies run on a stream of their own, beside the next forward and backward
    pass, until `protect` is called before the weights change.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._copied: torch.cuda.Event | None = None
        self._buffers: dict[str, Tensors] = {}

    def prepare(self, files: Files) -> None:
        """Make the buffers for tensors as these. Pinned memory takes long to get: so not when it is needed."""
        self._buffers = {
            name: {entry: self._buffer(name, entry, tensor) for entry, tensor in tensors.items()}
            for name, tensors in files.items()
        }

    def take(self, files: Files) -> Files:
        """Begin to copy the tensors; they must not change before `protect`. Read the copies after `wait`."""
        self.prepare(files)
        if self._stream is None:
            self._copy(files)
            return self._buffers
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            self._copy(files)
            self._copied = self._stream.record_event()
        return self._buffers

    def protect(self) -> None:
        """What the device is given from now on may change the tensors: it begins when they are copied."""
        if self._stream is not None and self._copied is not None:
            torch.cuda.current_stream(self._stream.device).wait_event(self._copied)

    def wait(self) -> None:
        """Return when the copies are complete. To be called by any thread."""
        if self._copied is not None:
            self._copied.synchronize()

    def _buffer(self, name: str, entry: str, tensor: Tensor) -> Tensor:
        buffer = self._buffers.get(name, {}).get(entry)
        if buffer is not None and buffer.shape == tensor.shape and buffer.dtype == tensor.dtype:
            return buffer
        room = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=self._stream is not None and tensor.is_cuda)
        return room.zero_()  # the system gives memory when it is written to, and that takes longer than to copy

    def _copy(self, files: Mapping[str, Tensors]) -> None:
        for name, tensors in files.items():
            for entry, tensor in tensors.items():
                self._buffers[name][entry].copy_(tensor, non_blocking=True)
