"""Everything a run is made of, built from its configuration."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.torch_version import TorchVersion

from tmrc.config.errors import ConfigError
from tmrc.config.estimate import auto_micro_batch_size
from tmrc.config.schema import Config
from tmrc.data.batches import BatchReader
from tmrc.data.dataset import TokenDataset
from tmrc.data.plan import DataPlan
from tmrc.model.attention import attention_backend, build_mask
from tmrc.model.build import build_model
from tmrc.train.batch import Batch
from tmrc.train.distributed import World, broadcast_tensors
from tmrc.train.evaluate import Validation
from tmrc.train.feed import Share, share_of
from tmrc.train.optim import build_optimizer
from tmrc.train.oracle import Oracle, OracleProbe
from tmrc.train.reduce import ExactReduction
from tmrc.train.samples import training_reader
from tmrc.train.step import LossModule, Stepper


@dataclass(frozen=True)
class Parts:
    """The pieces of one run on one rank."""

    config: Config
    world: World
    plan: DataPlan
    share: Share
    model: nn.Module  # what is saved
    module: LossModule  # model and loss, without DDP
    compiled: bool
    stepper: Stepper
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    reader: BatchReader
    validation: Validation | None
    build_mask: Callable[[Tensor], Any]
    probe: OracleProbe | None

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one optimizer step reads over all ranks."""
        return self.config.training.batch_size * self.config.model.context_length

    @property
    def averaged_over(self) -> int:
        """Over how many ranks the reduction takes the mean of what each of them has summed; the exact one sums."""
        return 1 if self.config.training.exact_reduction else self.world.size


def build_parts(config: Config, plan: DataPlan, world: World, micro_batch_size: int | None = None) -> Parts:
    """Build a run; `micro_batch_size` is that of the checkpoint it continues, if there is one. Raises ConfigError."""
    micro = choose_micro_batch_size(config, world, micro_batch_size)
    device = world.device
    oracle = Oracle(config.tokenizer.vocab_size) if config.training.use_oracle else None
    model = (oracle or build_model(config)).to(device)
    in_plain_order(model)
    precision = computing_precision(config, world)
    module = LossModule(model, precision, device.type)
    wanted = config.training.compile
    compiled = oracle is None and (device.type == "cuda" and config.model.compile_flex if wanted == "auto" else wanted)
    if compiled:
        compile_whole(module)
    mask = functools.partial(build_mask, config.model, attention_backend(config.model, device.type))
    optimizer = build_optimizer(model.named_parameters(), config.optimizer)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
    wrapped = _distribute(config, module, world)
    reader = training_reader(config, plan, config.tokenizer.vocab_size)
    return Parts(
        config=config,
        world=world,
        plan=plan,
        share=share_of(world.rank, world.size, config.training.batch_size, micro),
        model=model,
        module=module,
        compiled=compiled,
        stepper=Stepper(
            config, wrapped, optimizer, scaler, mask, device, world.pulse, _reduction(config, module, world, micro)
        ),
        optimizer=optimizer,
        scaler=scaler,
        reader=reader,
        validation=_validation(config, plan, world, micro),
        build_mask=mask,
        probe=OracleProbe(module, oracle, device) if oracle else None,
    )


def in_plain_order(model: nn.Module) -> None:
    """Lay parameters and buffers out contiguously, as checkpoints and gradients are.

    A fused optimizer goes through raw memory, so parameter, gradient and moments must have one order. What shares
    memory with another is left as it is.
    """
    tensors = [*model.parameters(), *model.buffers()]
    owners = Counter(tensor.untyped_storage().data_ptr() for tensor in tensors)
    for tensor in tensors:
        if not tensor.is_contiguous() and owners[tensor.untyped_storage().data_ptr()] == 1:
            tensor.data = tensor.data.contiguous()


def compile_whole(module: nn.Module) -> None:
    """Have `module` compiled as one graph at its first call.

    Inside DDP torch cuts the graph up where DDP's buckets end, so that gradients are reduced while the backward pass
    goes on. Before 2.13 that is not known to work with FlexAttention in the graph: there it stays whole, and the
    reduction follows the backward pass.
    """
    if TorchVersion(torch.__version__) < "2.13":
        torch._dynamo.config.optimize_ddp = False
    module.compile(dynamic=False)


def computing_precision(config: Config, world: World) -> torch.dtype:
    """The precision of matrix products: `autocast_precision`, but float32 where bfloat16 would be emulated.

    Without instructions for it torch multiplies bfloat16 on a CPU in plain loops, which take tens of times as long.
    """
    precision: torch.dtype = getattr(torch, config.model.autocast_precision)
    if precision != torch.bfloat16 or world.device.type != "cpu" or multiplies_bfloat16():
        return precision
    if world.leads:
        with contextlib.suppress(OSError, ValueError):  # a log that cannot be written to is no reason to stop
            print("this CPU has no instructions for bfloat16: matrix products are computed in float32", flush=True)
    return torch.float32


def multiplies_bfloat16() -> bool:
    """Whether this CPU's bfloat16 products go through oneDNN (AVX-512 and later, or Arm's), rather than plain loops."""
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return not has_onednn or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def choose_micro_batch_size(config: Config, world: World, of_checkpoint: int | None = None) -> int:
    """Sequences per forward pass. Raises ConfigError when ranks cannot share the global batch evenly."""
    batch, wanted = config.training.batch_size, config.training.micro_batch_size
    if batch % world.size:
        raise ConfigError(
            f"training.batch_size: got {batch}, valid: a multiple of the {world.size} processes that share it"
        )
    share = batch // world.size
    if wanted != "auto":
        if share % wanted:
            raise ConfigError(
                f"training.micro_batch_size: got {wanted}, valid: auto or a divisor of {share}, "
                f"each of {world.size} processes' share of training.batch_size {batch}"
            )
        return wanted
    if of_checkpoint is not None and share % of_checkpoint == 0:
        return of_checkpoint
    gpu_bytes = world.device_bytes if world.device.type == "cuda" else None
    return auto_micro_batch_size(config, share, on_gpu=world.device.type == "cuda", gpu_bytes=gpu_bytes)


def warm_up_batch(parts: Parts) -> Batch:
    """A batch of the training shape that holds no data.

    Three tensors, as in a step: code that is compiled for one tensor in two places does for no step.
    """
    shape = (parts.share.micro_batch_size, parts.config.model.context_length)
    return Batch(*(torch.zeros(shape, dtype=torch.long, device=parts.world.device) for _ in range(3)))


def with_micro_batch_size(parts: Parts, micro: int) -> Parts:
    """The same run with `micro` sequences a forward pass, which must divide this rank's share of the global batch."""
    config, world = parts.config, parts.world
    return replace(
        parts,
        share=share_of(world.rank, world.size, config.training.batch_size, micro),
        validation=_validation(config, parts.plan, world, micro),
    )


def _reduction(config: Config, module: LossModule, world: World, micro: int) -> ExactReduction | None:
    if not config.training.exact_reduction:
        return None
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    shares = [share_of(rank, world.size, config.training.batch_size, micro).indices() for rank in range(world.size)]
    return ExactReduction(parameters, shares, world)


def _distribute(config: Config, module: LossModule, world: World) -> nn.Module:
    if world.size == 1:
        return module
    world.pulse("comparing the models")
    if config.training.exact_reduction:
        broadcast_tensors(list(module.state_dict().values()), world)
        return module
    device_ids = [world.device.index] if world.device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=device_ids, gradient_as_bucket_view=True)


def _dataset(config: Config, plan: DataPlan, split: str) -> TokenDataset:
    whole = TokenDataset(plan.metadata, plan.shards, plan.layout, None, config.datasets.eos_token)
    return whole.select("train" if split == "train" else "validation")


def _validation(config: Config, plan: DataPlan, world: World, micro: int) -> Validation | None:
    if plan.validation_sequences == 0:
        return None
    dataset = _dataset(config, plan, "validation")
    reader = BatchReader(dataset, plan.validation_sequences, shuffle=False, vocab_limit=config.tokenizer.vocab_size)
    return Validation(reader, micro, world, config.datasets.eos_token)
