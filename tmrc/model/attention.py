"""Scaled dot-product attention through one of three backends.

    flex    FlexAttention with a block mask: any mask, and blocks that it hides are not computed. CUDA only.
    flash   SDPA held to its FlashAttention kernel: the plain causal mask. On a CPU, SDPA's own choice of kernel.
    sdpa    SDPA with a dense boolean mask, made from the mask function that flex uses. Stands in for flex on a CPU,
            where flex has no backward pass.

A mask is built once a batch by `build_mask`; its type tells `attend` which backend it is for.
Shapes: B batch, H heads, T positions, Q width of a head.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from tmrc.config.errors import ConfigError
from tmrc.config.schema import ModelConfig
from tmrc.config.validate import FLEX_MIN_HEAD_WIDTH
from tmrc.model.masks import MASKS, MaskMod

Backend = Literal["flex", "flash", "sdpa"]
AttentionMask = BlockMask | Tensor | None


def attention_backend(model: ModelConfig, device_type: str) -> Backend:
    """The backend that computes this model's attention on a "cuda" or "cpu" device.

    Raises ConfigError where the configuration asks for what its backend cannot do.
    """
    if model.flash and model.flex:
        raise ConfigError("model.flash and model.flex are both true; choose one")
    if model.flash and model.mask != "causal":
        raise ConfigError(f"model.mask: {model.mask!r} needs model.flex: true; flash applies only 'causal'")
    if model.flash and device_type == "cuda" and model.autocast_precision == "float32":
        raise ConfigError(
            "model.flash: FlashAttention has no float32 kernel; set model.autocast_precision to bfloat16 or float16, "
            "or model.flash: false"
        )
    if model.flash:
        return "flash"
    if not model.flex or device_type != "cuda":
        return "sdpa"
    if (width := model.d_model // model.n_head) < FLEX_MIN_HEAD_WIDTH:
        raise ConfigError(
            f"model.n_head: {model.n_head} makes heads of width {width}, FlexAttention on a GPU needs "
            f"{FLEX_MIN_HEAD_WIDTH} or more; take fewer heads, a larger model.d_model, or model.flex: false"
        )
    return "flex"


def build_mask(model: ModelConfig, backend: Backend, document_ids_BT: Tensor) -> AttentionMask:
    """The mask of one batch for `backend`, on the device of the document ids.

    Returns a BlockMask for flex, a boolean (B, 1, T, T) for sdpa, true where a query may attend, and None for flash.
    """
    if backend == "flash":
        return None
    mask = MASKS.get(model.mask)
    mask_mod = mask.factory(document_ids_BT)
    B, T = document_ids_BT.shape
    device = document_ids_BT.device
    if backend == "sdpa":
        return dense_mask(mask_mod, B, T, device)
    create = _compiled(create_block_mask) if device.type == "cuda" else create_block_mask
    block_mask: BlockMask = create(mask_mod, B if mask.needs_documents else None, None, T, T, device=str(device))
    return block_mask


def dense_mask(mask_mod: MaskMod, B: int, T: int, device: torch.device) -> Tensor:
    """`mask_mod` at every query and key, boolean (B, 1, T, T); the heads share it."""
    b = torch.arange(B, device=device).view(B, 1, 1, 1)
    h = torch.zeros((), dtype=torch.int64, device=device)
    positions = torch.arange(T, device=device)
    return mask_mod(b, h, positions.view(T, 1), positions).expand(B, 1, T, T)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: AttentionMask,
    *,
    dropout_p: float = 0.0,
    compile_flex: bool = True,
    force_flash: bool = False,
) -> Tensor:
    """Attention of queries, keys and values (B, H, T, Q) under a mask from `build_mask`; None is the plain causal one.

    `dropout_p` is that of the attention weights, which flex does not have. `force_flash` makes a CUDA device raise
    RuntimeError rather than choose another kernel than FlashAttention when the mask is None.
    """
    if isinstance(mask, BlockMask):
        # A compiled caller takes flex into its own graph; else one compiled flex serves every layer.
        flex: Callable[..., Tensor] = flex_attention
        if compile_flex and not torch.compiler.is_compiling():
            flex = _compiled(flex_attention)
        return flex(q, k, v, block_mask=mask)
    if mask is None and force_flash and q.is_cuda:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout_p, is_causal=True)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout_p, is_causal=mask is None)


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The one compiled form of `function` in this process, made when it is first asked for."""
    return torch.compile(function, dynamic=False)
