"""How many GPUs and processes a run uses. GPUs of this machine are counted without torch."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass

from tmrc.config.errors import ConfigError
from tmrc.config.estimate import AUTO_WARNING, warning_seconds
from tmrc.config.schema import Config


@dataclass(frozen=True)
class Resources:
    """What one node gives to the run: GPUs and training processes.

    `devices` are the values for CUDA_VISIBLE_DEVICES, None where the cluster sets it. `warning` is how many seconds
    before the time limit the job is asked to save.
    """

    gpus: int
    processes: int
    devices: tuple[str, ...] | None = None
    warning: int = AUTO_WARNING


def visible_devices() -> tuple[str, ...]:
    """The values of CUDA_VISIBLE_DEVICES that name this machine's usable GPUs."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        named = [device.strip() for device in chosen.split(",")]
        hidden = next((place for place, device in enumerate(named) if device in ("", "-1")), len(named))
        return tuple(named[:hidden])  # CUDA stops at the first that is none
    if shutil.which("nvidia-smi") is None:
        return ()
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(str(n) for n, _ in enumerate(line for line in listed.stdout.splitlines() if line.startswith("GPU ")))


def local_resources(config: Config) -> Resources:
    """What a run on this machine uses. Raises ConfigError when it asks for more GPUs than there are."""
    if config.launch.nodes > 1:
        raise ConfigError(f"launch.nodes: got {config.launch.nodes}, valid with --local: 1")
    if config.training.device == "cpu":
        return Resources(0, config.launch.processes_per_node or 1, ())
    devices = visible_devices()
    wanted = config.launch.gpus_per_node
    if wanted is not None and wanted > len(devices):
        raise ConfigError(f"launch.gpus_per_node: got {wanted}, valid: at most {len(devices)}, the GPUs seen here")
    devices = devices[:wanted]
    if not devices and config.training.device == "cuda":
        raise ConfigError("training.device: got 'cuda', valid: auto or cpu, since no GPU is seen or asked for here")
    return Resources(len(devices), _processes(config, len(devices)), devices)


def slurm_resources(config: Config) -> Resources:
    """What a Slurm job asks for on each node. Raises ConfigError for a contradiction."""
    on_cpu = config.training.device == "cpu"
    wanted = config.launch.gpus_per_node
    gpus = wanted if wanted is not None else 0 if on_cpu else 1
    if on_cpu and gpus:
        raise ConfigError(f"launch.gpus_per_node: got {gpus} with training.device: cpu, valid: 0")
    if not gpus and config.training.device == "cuda":
        raise ConfigError("launch.gpus_per_node: got 0 with training.device: cuda, valid: 1 or more")
    devices = None if gpus else ()  # where Slurm hides no GPUs, a job that asked for none would see them
    return Resources(gpus, _processes(config, gpus), devices, warning_seconds(config))


def _processes(config: Config, gpus: int) -> int:
    processes = config.launch.processes_per_node or max(1, gpus)
    if gpus and processes > gpus:
        raise ConfigError(f"launch.processes_per_node: got {processes}, valid: at most {gpus}, one a GPU")
    return processes
