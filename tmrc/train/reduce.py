"""Sums of gradients that have the same bits for every number of processes.

The result of a floating-point sum depends on its order. Here the order is a binary tree over the micro-batches of the
global batch: a block of 2^(k+1) micro-batches that begins at a multiple of 2^(k+1) is the sum of its halves, and what
lies beyond the last micro-batch is left out. Who computes which micro-batch does not show in it. The blocks that lie
within one process's share are summed there; the rest of the tree is walked by messages between two processes each.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tmrc.train.distributed import World, broadcast_tensors

Message = Callable[[Tensor, int], object]  # sends a tensor to a rank, or fills it with what comes from one


def additions(leaves: int) -> Iterator[tuple[int, int]]:
    """The tree's additions, parts before wholes: the first leaves of the two blocks that are added."""
    size = 1
    while size < leaves:
        yield from ((first, first + size) for first in range(0, leaves - size, 2 * size))
        size *= 2


class TreeSum:
    """One rank's part in sums over leaves; `shares` are the leaves of each rank, which follow one another."""

    def __init__(self, shares: Sequence[range], rank: int) -> None:
        self._rank = rank
        self._firsts = [share.start for share in shares]
        self._held: dict[int, Tensor] = {}  # first leaf of a block -> its sum
        self._within: dict[int, list[tuple[int, int]]] = {}  # leaf -> what can be added here once it is there
        self._across: list[tuple[int, int]] = []  # what is left for `finish`
        own, leaves = shares[rank], shares[-1].stop
        for left, right in additions(leaves):
            last = min(2 * right - left, leaves) - 1
            if own.start <= left and last < own.stop:
                self._within.setdefault(last, []).append((left, right))
            elif rank in (self._owner(left), self._owner(right)):
                self._across.append((left, right))

    def add(self, leaf: int, values: Tensor) -> None:
        """Take in a leaf of this rank's share; they come in order. `values` belong to the caller again afterwards.

        Of a share of n leaves at most 2 log2(n) blocks are held at a time.
        """
        self._held[leaf] = values
        for left, right in self._within.get(leaf, ()):
            self._held[left].add_(self._held.pop(right))
        if leaf in self._held:
            self._held[leaf] = values.clone()

    def finish(self, send: Message, receive: Message) -> Tensor | None:
        """Add what lies on several ranks; the whole sum on the first rank, None on the others.

        All ranks walk the same list, so with messages that wait for each other none waits in a circle.
        """
        for left, right in self._across:
            into, source = self._owner(left), self._owner(right)
            if self._rank != into:
                send(self._held.pop(right), into)
                continue
            part = self._held.pop(right) if source == into else torch.empty_like(self._held[left])
            if source != into:
                receive(part, source)
            self._held[left].add_(part)
        return self._held.pop(0, None)

    def _owner(self, leaf: int) -> int:
        """The rank of a leaf, and of the sum of every block that begins with it."""
        return bisect_right(self._firsts, leaf) - 1


class ExactReduction:
    """The gradients of `parameters` in one flat float32 buffer, summed over micro-batches and ranks by the tree.

    The parameters' `grad` are views of the buffer; it must be cleared and not set to None.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], shares: Sequence[range], world: World) -> None:
        self._world = world
        self._tree = TreeSum(shares, world.rank)
        sizes = [parameter.numel() for parameter in parameters]
        self._flat = torch.zeros(sum(sizes), dtype=torch.float32, device=world.device)
        for parameter, values in zip(parameters, torch.split(self._flat, sizes), strict=True):
            parameter.grad = values.view_as(parameter)

    def add(self, micro_batch: int) -> None:
        """Take the gradient of one micro-batch out of the buffer."""
        self._tree.add(micro_batch, self._flat)
        self.clear()

    def finish(self) -> None:
        """Put the sum over the whole global batch into the buffer, on every rank."""
        root = self._tree.finish(dist.send, dist.recv)
        if root is not None:
            self._flat.copy_(root)
        broadcast_tensors([self._flat], self._world)

    def clear(self) -> None:
        """Set the gradients to zero."""
        self._flat.zero_()
