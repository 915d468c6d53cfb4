"""What a run will do and cost, for people and as JSON."""

from __future__ import annotations

from typing import Any

from launch.gpus import Resources
from launch.preflight import Facts, disk_bytes, size
from launch.progress import amount
from tmrc.config.estimate import (
    auto_micro_batch_size,
    checkpoint_bytes,
    flops_per_token,
    parameters,
    training_memory_bytes,
)
from tmrc.config.schema import Config


def make_plan(config: Config, resources: Resources, facts: Facts) -> dict[str, Any]:
    """The figures of a run. Sizes are in bytes and are estimates; None where the model's own sizes are not known."""
    training, data = config.training, facts.data
    ranks = config.launch.nodes * resources.processes
    share = training.batch_size // ranks
    micro = training.micro_batch_size
    if micro == "auto":
        micro = auto_micro_batch_size(config, share, on_gpu=resources.gpus > 0 and training.device != "cpu")
    tokens = data.total_steps * training.batch_size * config.model.context_length
    flops = flops_per_token(config)
    return {
        "nodes": config.launch.nodes,
        "gpus_per_node": resources.gpus,
        "processes": ranks,
        "steps": data.total_steps,
        "steps_per_epoch": data.steps_per_epoch,
        "epochs": round(data.total_steps / data.steps_per_epoch, 3),
        "train_sequences": data.layout.train_texts,
        "validation_sequences": data.validation_sequences,
        "tokens": tokens,
        "sequences_per_step": training.batch_size,
        "sequences_per_rank": share,
        "micro_batch_size": micro,
        "parameters": parameters(config),
        "flops": None if flops is None else flops * tokens,
        "memory_bytes": training_memory_bytes(config, micro),
        "checkpoint_bytes": checkpoint_bytes(config),
        "disk_bytes": disk_bytes(config),
        "free_bytes": facts.free_bytes,
    }


def show_plan(plan: dict[str, Any], config: Config) -> str:
    """The plan as a few aligned lines."""
    gpus = f"{plan['gpus_per_node']} GPU{'s' * (plan['gpus_per_node'] != 1)} each" if plan["gpus_per_node"] else "CPU"
    ends_by = "train_steps" if plan["steps"] == config.training.train_steps else "epochs"
    rows = {
        "data": f"{config.datasets.path or config.datasets.name}: {plan['train_sequences']:,} sequences to train on, "
        f"{plan['validation_sequences']:,} a validation pass",
        "machine": f"{plan['nodes']} node{'s' * (plan['nodes'] != 1)}, {gpus}, {plan['processes']} training "
        f"process{'es' * (plan['processes'] != 1)}",
        "steps": f"{plan['steps']:,} (ends by training.{ends_by}; an epoch has {plan['steps_per_epoch']:,})",
        "tokens": f"{amount(plan['tokens'])}",
        "batch": f"{plan['sequences_per_step']:,} sequences a step, {plan['sequences_per_rank']:,} a process",
        "model": f"{_or(plan['parameters'], amount)} parameters, {_or(plan['flops'], amount)} FLOPs in all",
        "memory": f"{_or(plan['memory_bytes'], size)} a process, estimated for {plan['micro_batch_size']:,} sequences "
        f"at a time{_margin(plan, config)}",
        "disk": f"{_or(plan['checkpoint_bytes'], size)} a checkpoint, {_or(plan['disk_bytes'], size)} in all; "
        f"{size(plan['free_bytes'])} free",
    }
    return "\n".join(f"{name:9}{text}" for name, text in rows.items())


def _margin(plan: dict[str, Any], config: Config) -> str:
    """What becomes of a size that the trainer has to find."""
    found = config.training.micro_batch_size == "auto" and plan["gpus_per_node"] and config.training.device != "cpu"
    return ", or fewer where a GPU has no room for them" if found else ""


def _or(value: Any, written: Any) -> str:
    return "unknown" if value is None else str(written(value))
