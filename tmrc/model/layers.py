"""The parts of a transformer block. Shapes: B batch, T positions, D width, H heads, Q width of a head."""

from __future__ import annotations

from torch import Tensor, nn

from tmrc.config.schema import ModelConfig
from tmrc.model.activations import ACTIVATIONS
from tmrc.model.attention import AttentionMask, attend


class CausalSelfAttention(nn.Module):
    """Multi-head self-attention. The mask alone decides what a position sees, so it must be a causal one."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.n_head = model.n_head
        self.qkv = nn.Linear(model.d_model, 3 * model.d_model, bias=model.attn_bias)
        self.out = nn.Linear(model.d_model, model.d_model, bias=model.proj_bias)
        self.dropout = nn.Dropout(model.dropout_p)
        # Flex has no dropout of attention weights. Where SDPA stands in for it there is none either, so that what a
        # configuration means does not depend on the machine.
        self.attention_dropout_p = 0.0 if model.flex else model.dropout_p
        self.compile_flex = model.compile_flex
        self.force_flash = model.flash

    def forward(self, x_BTD: Tensor, mask: AttentionMask) -> Tensor:
        B, T, D = x_BTD.shape
        qkv_3BHTQ = self.qkv(x_BTD).view(B, T, 3, self.n_head, D // self.n_head).permute(2, 0, 3, 1, 4)
        q, k, v = qkv_3BHTQ.unbind(0)
        y_BHTQ = attend(
            q,
            k,
            v,
            mask,
            dropout_p=self.attention_dropout_p if self.training else 0.0,
            compile_flex=self.compile_flex,
            force_flash=self.force_flash,
        )
        y_BTD = y_BHTQ.transpose(1, 2).reshape(B, T, D)
        out: Tensor = self.dropout(self.out(y_BTD))
        return out


class MLP(nn.Module):
    """Two layers with an activation between them, `mlp_scale_factor` times as wide inside."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        hidden = model.mlp_scale_factor * model.d_model
        self.up = nn.Linear(model.d_model, hidden, bias=model.mlp_bias)
        self.activation = ACTIVATIONS.get(model.activation)
        self.down = nn.Linear(hidden, model.d_model, bias=model.mlp_bias)
        self.dropout = nn.Dropout(model.dropout_p)

    def forward(self, x_BTD: Tensor) -> Tensor:
        out: Tensor = self.dropout(self.down(self.activation(self.up(x_BTD))))
        return out


class Block(nn.Module):
    """Pre-norm transformer block: each part reads a normed copy of the residual stream and adds to it."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(model.d_model, bias=model.ln_bias)
        self.attention = CausalSelfAttention(model)
        self.mlp_norm = nn.LayerNorm(model.d_model, bias=model.ln_bias)
        self.mlp = MLP(model)

    def forward(self, x_BTD: Tensor, mask: AttentionMask) -> Tensor:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), mask)
        out: Tensor = x_BTD + self.mlp(self.mlp_norm(x_BTD))
        return out
