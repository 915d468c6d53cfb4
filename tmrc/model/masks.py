"""Attention masks: which key position may each query position look at? `model.mask` names one.

A mask is a function from the document ids of a batch to a `mask_mod(b, h, q, kv)`: given indices of sequence, head,
query and key, it is true where the query may attend. The same function feeds FlexAttention and the dense mask of plain
SDPA, so it may only index, compare and combine tensors, in a way that broadcasts: no Python `if` on their values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from tmrc.config.registry import Registry

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Mask:
    """A mask and what it needs to know."""

    factory: Callable[[Tensor], MaskMod]  # document ids (B, T), integers that differ between neighbours -> mask_mod
    needs_documents: bool  # False: the same for every sequence, so one mask serves the whole batch


MASKS: Registry[Mask] = Registry("mask")


def mask(*, needs_documents: bool) -> Callable[[Callable[[Tensor], MaskMod]], Mask]:
    """Decorator that makes a `Mask` of a factory; goes between `@MASKS.register(...)` and the function."""
    return lambda factory: Mask(factory, needs_documents)


@MASKS.register("causal")
@mask(needs_documents=False)
def causal(document_ids_BT: Tensor) -> MaskMod:
    """Each position sees itself and everything before it."""

    def mask_mod(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return q >= kv

    return mask_mod


@MASKS.register("causal_document")
@mask(needs_documents=True)
def causal_document(document_ids_BT: Tensor) -> MaskMod:
    """Each position sees itself and everything before it in its own document."""

    def mask_mod(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return (q >= kv) & (document_ids_BT[b, q] == document_ids_BT[b, kv])

    return mask_mod
