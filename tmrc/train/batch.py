"""From token ids on the host to what a training step needs on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tmrc.train.ledger import Sums

IGNORED = -100  # target of positions that the loss leaves out


@dataclass(frozen=True)
class HostBatch:
    """Sequences of one forward pass as the data set holds them, in (pinned) host memory."""

    index: int  # which micro-batch of the global batch this is
    items: list[int]  # the data set's item indices, B of them
    tokens_BT: Tensor  # int32
    lengths_B: Tensor  # int64; how many leading tokens are text, the rest is padding
    sums: Sums = Sums()  # what the ledger records of them, where they are trained on


@dataclass(frozen=True)
class Batch:
    """The same on the device, with targets and document ids. All int64, (B, T)."""

    tokens_BT: Tensor
    targets_BT: Tensor
    document_ids_BT: Tensor


def to_device(host: HostBatch, device: torch.device, eos_token: int) -> Batch:
    """Copy `host` to `device` without waiting, and derive targets and document ids there."""
    tokens_BT = host.tokens_BT.to(device, non_blocking=True).long()
    lengths_B = host.lengths_B.to(device, non_blocking=True)
    return Batch(tokens_BT, next_token_targets(tokens_BT, lengths_B), document_ids(tokens_BT, eos_token))


def next_token_targets(tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
    """Target of position t: the token at t + 1 where that is text of this sequence, else `IGNORED`."""
    following_T = torch.arange(1, tokens_BT.shape[1] + 1, device=tokens_BT.device)
    no_text_BT = following_T >= lengths_B.unsqueeze(1)  # so is what is rolled over from a row's begin to its end
    return tokens_BT.roll(-1, 1).masked_fill_(no_text_BT, IGNORED)


def document_ids(tokens_BT: Tensor, eos_token: int) -> Tensor:
    """Document number of each position within its sequence, from 0; an EOS belongs to the document it ends."""
    ids_BT = torch.zeros_like(tokens_BT)
    torch.cumsum(tokens_BT[:, :-1] == eos_token, 1, out=ids_BT[:, 1:])
    return ids_BT


def count_targets(lengths: list[int]) -> int:
    """How many targets sequences of these text lengths have, known without reading them."""
    return sum(max(0, length - 1) for length in lengths)
