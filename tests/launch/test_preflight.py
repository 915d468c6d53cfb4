from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launch.gpus import Resources, local_resources, slurm_resources, visible_devices
from launch.preflight import disk_bytes, preflight
from tests.launch.helpers import write_config
from tmrc.config.errors import UserError
from tmrc.config.load import load_config
from tmrc.config.rundir import RunDir

CPU = Resources(0, 1, ())


def refusal(tmp_path: Path, resources: Resources = CPU, **sections: dict[str, Any]) -> str:
    with pytest.raises(UserError) as error:
        preflight(load_config(write_config(tmp_path, **sections)), resources)
    return str(error.value)


def test_facts(tmp_path: Path) -> None:
    facts = preflight(load_config(write_config(tmp_path)), CPU)
    assert (facts.data.total_steps, facts.data.steps_per_epoch, facts.warnings) == (20, 64, ())


def test_data_that_is_missing_or_too_short(tmp_path: Path) -> None:
    assert "no such data set" in refusal(tmp_path, datasets={"path": str(tmp_path / "nowhere")})
    assert "fewer than one batch" in refusal(tmp_path, training={"batch_size": 1000})


def test_vocabulary_and_tokenizer(tmp_path: Path) -> None:
    assert "tokenizer.vocab_size: got 64" in refusal(tmp_path, tokenizer={"vocab_size": 64})
    assert "datasets.tokenizer_used: got 't5-base'" in refusal(tmp_path, datasets={"tokenizer_used": "t5-base"})
    for same in ("toy", "toy.json", "/lab/tokenizers/toy.json"):
        preflight(load_config(write_config(tmp_path, datasets={"tokenizer_used": same})), CPU)


def test_a_mismatch_that_is_allowed_is_said(tmp_path: Path) -> None:
    config = load_config(write_config(tmp_path, datasets={"tokenizer_used": "t5-base", "allow_mismatch": True}))
    (warning,) = preflight(config, CPU).warnings
    assert "'t5-base'" in warning


def test_the_batch_is_divided_among_the_processes(tmp_path: Path) -> None:
    assert "valid: a multiple of 3, such as 3 or 6" in refusal(tmp_path, Resources(0, 3, ()))
    assert "divisor of 2" in refusal(tmp_path, Resources(0, 2, ()), training={"micro_batch_size": 4})


def test_artifacts_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    assert "is not a directory" in refusal(tmp_path, training={"artifacts_path": str(file / "below")})
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "may not write" in refusal(tmp_path)
    assert not (tmp_path / "artifacts").exists()


def test_room_for_the_checkpoints(tmp_path: Path) -> None:
    huge = {"d_model": 2**20, "n_layer": 1000}
    assert "keep_checkpoints 2 and one being written take" in refusal(tmp_path, model=huge)
    preflight(load_config(write_config(tmp_path, model=huge, training={"save_model": False})), CPU)


@pytest.mark.parametrize(
    ("visible", "devices"),
    [("0,1", ("0", "1")), ("", ()), ("2", ("2",)), ("GPU-ab, GPU-cd", ("GPU-ab", "GPU-cd")), ("0,-1,1", ("0",))],
)
def test_gpus_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, visible: str, devices: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_devices() == devices


def test_gpus_that_nvidia_smi_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-a)'\necho 'GPU 1: NVIDIA H100 (UUID: GPU-b)'\n")
    smi.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert visible_devices() == ("0", "1")
    smi.write_text("#!/bin/sh\necho no driver >&2; exit 9\n")
    assert visible_devices() == ()


def test_resources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")

    def local(**launch: object) -> Resources:
        return local_resources(load_config(write_config(tmp_path, launch=launch, training={"device": "auto"})))

    assert local() == Resources(2, 2, ("4", "5"))
    assert local(gpus_per_node=1) == Resources(1, 1, ("4",))
    assert local(gpus_per_node=0, processes_per_node=3) == Resources(0, 3, ())
    for section, message in (
        ({"gpus_per_node": 3}, "at most 2, the GPUs seen here"),
        ({"processes_per_node": 3}, "at most 2, one a GPU"),
        ({"nodes": 2}, "launch.nodes: got 2, valid with --local: 1"),
    ):
        with pytest.raises(UserError, match=message):
            local(**section)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match=r"training.device: got 'cuda'"):
        local_resources(load_config(write_config(tmp_path, training={"device": "cuda"})))


def test_resources_on_slurm(tmp_path: Path) -> None:
    def slurm(device: str, **launch: object) -> Resources:
        return slurm_resources(load_config(write_config(tmp_path, launch=launch, training={"device": device})))

    assert slurm("auto") == Resources(1, 1)
    assert slurm("cpu") == Resources(0, 1, ())
    assert slurm("cuda", gpus_per_node=4) == Resources(4, 4)
    with pytest.raises(UserError, match=r"gpus_per_node: got 2 with training.device: cpu"):
        slurm("cpu", gpus_per_node=2)
    with pytest.raises(UserError, match=r"gpus_per_node: got 0 with training.device: cuda"):
        slurm("cuda", gpus_per_node=0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system takes root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_too_small_or_full(tmp_path: Path, small_disk: Path) -> None:
    where = {"artifacts_path": str(small_disk / "runs")}
    preflight(load_config(write_config(tmp_path, training=where)), CPU)
    wider = {"d_model": 256}
    words = refusal(tmp_path, training=where, model=wider)
    assert f"{small_disk}: 4.2 MB free, but keep_checkpoints 2 and one being written take" in words
    (small_disk / "other").write_bytes(bytes(3_000_000))
    nothing = {**where, "save_model": False}
    assert "1.2 MB free, but code and logs take 2.0 MB" in refusal(tmp_path, training=nothing, model=wider)
    with contextlib.suppress(OSError):
        (small_disk / "more").write_bytes(bytes(10_000_000))
    assert "cannot be written: No space left on device" in refusal(tmp_path, training=nothing)
    assert sorted(file.name for file in small_disk.iterdir()) == ["more", "other"]


def test_a_disk_that_is_read_only(tmp_path: Path, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert f"training.artifacts_path: {small_disk}: " in refusal(tmp_path, training={"artifacts_path": str(small_disk)})


def test_the_checkpoints_that_a_run_has_are_not_counted_again(tmp_path: Path, small_disk: Path) -> None:
    config = load_config(write_config(tmp_path, training={"artifacts_path": str(small_disk)}, model={"d_model": 64}))
    run = RunDir(small_disk / "run")
    (run.checkpoints / "step_00000001").mkdir(parents=True)
    taken = (disk_bytes(config) or 0) - 100_000
    assert 1_000_000 < taken < 3_000_000
    (run.checkpoints / "step_00000001/model").write_bytes(bytes(taken))
    with pytest.raises(UserError, match="free, but keep_checkpoints"):
        preflight(config, CPU)
    preflight(config, CPU, run)
