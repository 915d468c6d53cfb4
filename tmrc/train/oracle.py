"""The debugging mode `use_oracle`: a perfect predictor that runs through the same data, loss and checkpoint code.

It looks the next tokens up in the data set by itself, item by item, and puts their logits far ahead. Whatever then
keeps the loss from its floor is a flaw on the way from the shards to the loss: targets shifted, padding trained on.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tmrc.config.errors import DataError
from tmrc.data.batches import BatchReader
from tmrc.train.batch import IGNORED, Batch, HostBatch
from tmrc.train.step import LossModule

MARGIN = 30.0  # the floor of the loss is log(1 + (V - 1) exp(-30)), below 1e-8 for any vocabulary in use
TOLERANCE = 1e-4


class Oracle(nn.Module):
    """In the model's place: logits_BTV with the true next token ahead, equal logits where there is none."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(vocab_size))  # so that there is something to optimize and to save
        self._truth_BT = torch.zeros(0, 0, dtype=torch.long)

    def look_up(self, reader: BatchReader, host: HostBatch, device: torch.device) -> None:
        """Read the true next tokens of the batch that the next forward gets."""
        truth = torch.full_like(host.tokens_BT, IGNORED, dtype=torch.long)
        for row, (item, length) in enumerate(zip(host.items, host.lengths_B.tolist(), strict=True)):
            tokens = torch.from_numpy(reader.dataset[item].token_ids.astype("int64"))
            if length > 1:
                truth[row, : length - 1] = tokens[1:length]
        self._truth_BT = truth.to(device)

    def forward(self, tokens_BT: Tensor, mask: object) -> Tensor:
        """logits_BTV; `tokens_BT` and `mask` are those of a model and not looked at."""
        known_BT = self._truth_BT != IGNORED
        logits = self.bias.expand(*tokens_BT.shape, -1).clone()
        index = self._truth_BT.clamp(min=0).unsqueeze(-1)
        return logits.scatter_add(-1, index, (known_BT * MARGIN).unsqueeze(-1).to(logits.dtype))


class OracleProbe:
    """Feeds the oracle its truth before each forward, and stops the run at the first prediction that is not perfect."""

    def __init__(self, module: LossModule, oracle: Oracle, device: torch.device) -> None:
        self._module = module
        self._oracle = oracle
        self._device = device

    def look_up(self, reader: BatchReader, host: HostBatch) -> None:
        """To be called before the forward of `host`."""
        self._oracle.look_up(reader, host, self._device)

    def check(self, reader: BatchReader, host: HostBatch, batch: Batch, mask: Any, when: str) -> None:
        """Raise DataError naming the first sequence on which the perfect predictor is wrong."""
        with torch.no_grad():
            logits_BTV = self._module.logits(batch.tokens_BT, mask).float()
        targets_BT = batch.targets_BT
        losses_BT = nn.functional.cross_entropy(
            logits_BTV.transpose(1, 2), targets_BT, ignore_index=IGNORED, reduction="none"
        )
        wrong_BT = (losses_BT > TOLERANCE) | ((logits_BTV.argmax(-1) != targets_BT) & (targets_BT != IGNORED))
        if not bool(wrong_BT.any()):
            return
        row, position = (int(index) for index in wrong_BT.nonzero()[0])
        item = host.items[row]
        raise DataError(
            f"training.use_oracle: {when}: sequence {item} ({reader.locate(item)}), position {position}: the target is "
            f"{int(targets_BT[row, position])} with loss {float(losses_BT[row, position]):.3g}, "
            f"the data's next token is {_next_token(reader, item, position)}"
        )


def _next_token(reader: BatchReader, item: int, position: int) -> str:
    tokens = reader.dataset[item].token_ids
    return str(int(tokens[position + 1])) if position + 1 < len(tokens) else "none (end of the sequence)"
