"""The GPT: embeddings, blocks, and an output layer over the vocabulary.

Shapes: B batch, T positions, D width, V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tmrc.config.schema import Config
from tmrc.model.attention import AttentionMask
from tmrc.model.build import MODELS
from tmrc.model.layers import Block

INIT_STD = 0.02


@MODELS.register("gpt")
class GPT(nn.Module):
    """A decoder-only transformer with learned positions and an output layer of its own (not tied to the embedding)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        model, vocab_size = config.model, config.tokenizer.vocab_size
        self.context_length = model.context_length
        self.mask_name = model.mask
        self.token_embedding = nn.Embedding(vocab_size, model.d_model)
        self.position_embedding = nn.Embedding(model.context_length, model.d_model)
        self.dropout = nn.Dropout(model.dropout_p)
        self.blocks = nn.ModuleList(Block(model) for _ in range(model.n_layer))
        self.final_norm = nn.LayerNorm(model.d_model, bias=model.ln_bias)
        self.lm_head = nn.Linear(model.d_model, vocab_size, bias=model.cls_head_bias)
        self.init_weights()

    def init_weights(self) -> None:
        """Initialise as GPT-2 does: normal weights, zero biases, unit norms.

        Each block adds to the residual stream twice, so the layers that write to it start smaller by the root of the
        number of additions; otherwise the stream's variance would grow with depth.
        """
        residual_std = INIT_STD / math.sqrt(2 * len(self.blocks))
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                writes_residual = name.endswith(("attention.out", "mlp.down"))
                nn.init.normal_(module.weight, std=residual_std if writes_residual else INIT_STD)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, tokens_BT: Tensor, mask: AttentionMask = None) -> Tensor:
        """Logits (B, T, V) of the token after each position; raises what `hidden` raises."""
        logits_BTV: Tensor = self.lm_head(self.hidden(tokens_BT, mask))
        return logits_BTV

    def hidden(self, tokens_BT: Tensor, mask: AttentionMask = None) -> Tensor:
        """What the output layer reads, (B, T, D).

        `mask` comes from `build_mask`; None stands for the plain causal mask and is refused for any other. Raises
        ValueError then, and for more positions than the context length.
        """
        length = tokens_BT.shape[1]
        if length > self.context_length:
            raise ValueError(f"{length} tokens in a sequence, the context length is {self.context_length}")
        if mask is None and self.mask_name != "causal":
            raise ValueError(f"mask {self.mask_name!r} has to be built (build_mask) and given to forward")
        positions_T = torch.arange(length, device=tokens_BT.device)
        x_BTD = self.dropout(self.token_embedding(tokens_BT) + self.position_embedding(positions_T))
        for block in self.blocks:
            x_BTD = block(x_BTD, mask)
        out: Tensor = self.final_norm(x_BTD)
        return out
