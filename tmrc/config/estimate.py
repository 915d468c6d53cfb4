"""What a configuration will cost, computed without torch: parameters, FLOPs, disk and memory.

All of it is for the model `gpt`; for another `model.name` the answer is None, since only its own code knows its sizes.
In the formulas: L layers, D width, F = mlp_scale_factor * D, T context length, V vocabulary, N parameters.
"""

from __future__ import annotations

import math

from tmrc.config.schema import Config

FLOAT32, HALF = 4, 2  # bytes of a number
AUTO_TOKENS_CPU = 8_192  # of one forward pass; more only costs memory
AUTO_TOKENS_GPU = 32_768
SAVE_BYTES_PER_SECOND = 200e6  # of a busy shared file system; local disks are faster
SAVE_MARGIN = 30.0  # seconds for the step under way and for what a checkpoint takes whatever its size
AUTO_WARNING = 120  # seconds


def parameters(config: Config, embedding: bool = True) -> int | None:
    """Number of parameters; without `embedding`, those of the look-up tables (tokens and positions) are left out."""
    model, D, V = config.model, config.model.d_model, config.tokenizer.vocab_size
    if model.name != "gpt":
        return None
    F = model.mlp_scale_factor * D
    norm = D + D * model.ln_bias
    attention = (3 * D * D + 3 * D * model.attn_bias) + (D * D + D * model.proj_bias)
    mlp = 2 * D * F + (F + D) * model.mlp_bias
    head = V * D + V * model.cls_head_bias
    tables = (V + model.context_length) * D
    return model.n_layer * (2 * norm + attention + mlp) + norm + head + tables * embedding


def flops_per_token(config: Config) -> float | None:
    """FLOPs that one token costs, forward and backward: 6 N + 12 L D T, as in PaLM (arXiv:2204.02311, appendix B).

    N leaves out the look-up tables, which multiply nothing. Attention counts in full although a causal mask hides half
    of it, as in the published figures, so that utilisation compares with them.
    """
    N = parameters(config, embedding=False)
    if N is None:
        return None
    return 6.0 * N + 12.0 * config.model.n_layer * config.model.d_model * config.model.context_length


def checkpoint_bytes(config: Config) -> int | None:
    """Bytes of one checkpoint: float32 weights and the optimizer's two moments. The JSON beside them is small."""
    N = parameters(config)
    return None if N is None else N * (FLOAT32 + moment_bytes(config))


def save_seconds(config: Config) -> float | None:
    """Seconds from the request to stop to a durable checkpoint, on a slow file system.

    Two are written in that time when the request comes as one has been begun.
    """
    size = checkpoint_bytes(config)
    return None if size is None else 2 * size / SAVE_BYTES_PER_SECOND + SAVE_MARGIN


def warning_seconds(config: Config) -> int:
    """What `launch.warning` means: the seconds before the time limit at which the job is asked to save."""
    wanted = config.launch.warning
    return max(AUTO_WARNING, math.ceil(save_seconds(config) or 0)) if wanted == "auto" else wanted


def training_memory_bytes(config: Config, micro_batch: int) -> int | None:
    """Rough peak memory of one GPU that trains on `micro_batch` sequences at a time.

    Float32 weights and gradients, the moments, a copy of the weights in the autocast precision, and what the forward
    pass keeps for the backward pass. Not in it: CUDA itself, kernels' workspaces, DDP's buckets, the allocator's slack;
    and a compiled step keeps less than this. Meant for a warning, not for filling a GPU to the brim.
    """
    N = parameters(config)
    if N is None:
        return None
    copy = HALF * N if config.model.autocast_precision != "float32" else 0
    activations = micro_batch * config.model.context_length * _activation_bytes_per_token(config)
    return N * (2 * FLOAT32 + moment_bytes(config)) + copy + _sums(config, micro_batch) * FLOAT32 * N + activations


def auto_micro_batch_size(config: Config, share: int, *, on_gpu: bool, gpu_bytes: int | None = None) -> int:
    """What `training.micro_batch_size: auto` means for a process that has `share` sequences of each global batch.

    The largest divisor of the share with no more tokens a forward pass than keep the device busy, and, where the
    GPU's memory is known, with an estimate that fits it. No margin: the trainer tries the size before it uses it.
    """
    most_tokens = AUTO_TOKENS_GPU if on_gpu else AUTO_TOKENS_CPU

    def is_modest(size: int) -> bool:
        memory = training_memory_bytes(config, size) if gpu_bytes else None
        fits = memory is None or gpu_bytes is None or memory <= gpu_bytes
        return fits and size * config.model.context_length <= most_tokens

    return max((size for size in range(1, share + 1) if share % size == 0 and is_modest(size)), default=1)


def moment_bytes(config: Config) -> int:
    """Bytes of the optimizer's two moments of one parameter."""
    return 2 * (FLOAT32 if config.optimizer.precision == "float32" else HALF)


def _sums(config: Config, micro_batch: int) -> int:
    """How many further copies of the gradient `exact_reduction` holds at most, on one process."""
    training = config.training
    return max(1, training.batch_size // max(1, micro_batch)).bit_length() if training.exact_reduction else 0


def _activation_bytes_per_token(config: Config) -> int:
    """What is kept of one token until the backward pass; attention weights are not, in any backend."""
    model = config.model
    F = model.mlp_scale_factor * model.d_model
    autocast = FLOAT32 if model.autocast_precision == "float32" else HALF
    residual = 2 * FLOAT32 * model.d_model  # the stream before each of the two norms
    attention = 6 * autocast * model.d_model  # two normed copies, query, key, value, attention's output
    mlp = 2 * autocast * F  # before and after the activation
    logits = (autocast + 2 * FLOAT32) * config.tokenizer.vocab_size  # and their log-probabilities and gradient
    return model.n_layer * (residual + attention + mlp) + logits
