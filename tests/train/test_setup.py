"""How the global batch is cut, and what is measured."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tmrc.config.errors import ConfigError
from tmrc.config.load import load_config
from tmrc.config.schema import Config
from tmrc.train import metrics, setup
from tmrc.train.distributed import World, choose_device
from tmrc.train.feed import share_of
from tmrc.train.setup import choose_micro_batch_size


def config(batch: int, micro: int | str = "auto", **model: object) -> Config:
    whole = load_config("default")
    training = dataclasses.replace(whole.training, batch_size=batch, micro_batch_size=micro)
    return dataclasses.replace(whole, training=training, model=dataclasses.replace(whole.model, **model))


def world(size: int, gpu_bytes: int = 0) -> World:
    return World(0, size, torch.device("cuda" if gpu_bytes else "cpu"), gpu_bytes)


@given(st.integers(1, 6), st.sampled_from([1, 2, 4, 8]), st.sampled_from([64, 512, 8192]))
def test_auto_divides_every_ranks_share(factor: int, ranks: int, length: int) -> None:
    size = choose_micro_batch_size(config(8 * factor, context_length=length), world(ranks))
    assert (8 * factor // ranks) % size == 0
    assert size == 1 or size * length <= 8192


def test_auto_fits_the_smallest_gpu() -> None:
    roomy = choose_micro_batch_size(config(256), world(1, 80 * 2**30))
    tight = choose_micro_batch_size(config(256), world(1, 8 * 2**30))
    assert roomy == 64
    assert 1 <= tight < roomy


def test_auto_keeps_the_size_of_the_checkpoint() -> None:
    assert choose_micro_batch_size(config(256), world(1), of_checkpoint=2) == 2
    assert choose_micro_batch_size(config(256, 4), world(1), of_checkpoint=2) == 4


def test_what_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ConfigError, match="a multiple of the 3 processes"):
        choose_micro_batch_size(config(256), world(3))
    with pytest.raises(ConfigError, match="a divisor of 64"):
        choose_micro_batch_size(config(256, 128), world(4))


@given(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4]))
def test_shares_cover_the_batch_once(ranks: int, micro: int) -> None:
    indices = [index for rank in range(ranks) for index in share_of(rank, ranks, 16, micro).indices()]
    assert indices == list(range(16 // micro))


def test_a_gpu_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto", 1) == torch.device("cuda", 1)
    assert choose_device("cpu", 5) == torch.device("cpu")
    with pytest.raises(ConfigError, match="process 2 of this node has no GPU"):
        choose_device("cuda", 2)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA GeForce GT 710", None),
    ],
)
def test_peaks_of_known_gpus(monkeypatch: pytest.MonkeyPatch, name: str, peak: float | None) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert metrics.peak_flops(torch.device("cuda", 0)) == peak
    assert metrics.peak_flops(torch.device("cpu")) is None


@pytest.mark.parametrize(
    ("device", "has_instructions", "asked", "computed"),
    [
        ("cpu", True, "bfloat16", torch.bfloat16),
        ("cpu", False, "bfloat16", torch.float32),
        ("cpu", False, "float16", torch.float16),
        ("cuda", False, "bfloat16", torch.bfloat16),
    ],
)
def test_only_an_emulated_bfloat16_is_float32(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    device: str,
    has_instructions: bool,
    asked: str,
    computed: torch.dtype,
) -> None:
    monkeypatch.setattr(setup, "multiplies_bfloat16", lambda: has_instructions)
    where = World(0, 1, torch.device(device))
    assert setup.computing_precision(config(256, autocast_precision=asked), where) == computed
    assert ("no instructions for bfloat16" in capsys.readouterr().out) == (
        asked != str(computed).removeprefix("torch.")
    )


class Strange(torch.nn.Module):
    """A weight whose rows are columns in memory, one that shares its memory, and a buffer of one number."""

    def __init__(self) -> None:
        super().__init__()
        self.turned = torch.nn.Parameter(torch.randn(4, 3).t())
        self.plain = torch.nn.Parameter(torch.randn(2, 5))
        self.shared = torch.nn.Parameter(self.plain.detach().t())
        self.register_buffer("spread", torch.zeros(1).expand(5))


def test_parameters_lie_in_memory_as_gradients_and_checkpoints_do() -> None:
    model = Strange()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    turned = model.turned
    setup.in_plain_order(model)
    assert model.turned is turned and turned.is_contiguous() and model.get_buffer("spread").is_contiguous()
    assert model.shared.untyped_storage().data_ptr() == model.plain.untyped_storage().data_ptr()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
