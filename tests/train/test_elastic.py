"""A run goes on with another number of processes: the same samples always, and the same bits with exact_reduction."""

from __future__ import annotations

import queue
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.train.conftest import TINY, Trial
from tests.train.ranks import expect, launch
from tmrc.config.errors import ConfigError
from tmrc.config.load import load_config, write_config
from tmrc.config.rundir import RunDir
from tmrc.train.reduce import TreeSum, additions

SIZES = (1, 2, 4)
COMMON = ["training.micro_batch_size=1", "training.train_steps=8", "training.val_interval=4", "model.dropout_p=0.2"]
EXACT = [*COMMON, "training.exact_reduction=true", "training.grad_clip=0.5", "training.scheduler=cosine"]
PLAIN = [*COMMON, "model.autocast_precision=float32", "training.scheduler=cosine"]
STOP = "loop:Loop._train_step:4:SIGUSR2"
QUICK = {(1, 4), (4, 2), (2, 1)}
PAIRS = [
    pytest.param(a, b, marks=() if (a, b) in QUICK else pytest.mark.campaign, id=f"{a}-{b}")
    for a in SIZES
    for b in SIZES
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> Callable[[tuple[str, ...], int, str], Trial]:
    """`runs(overrides, processes, place)`: a run to its end or to a stop at `place`, made once and shared."""
    made: dict[Any, Trial] = {}

    def run(overrides: tuple[str, ...], processes: int, place: str) -> Trial:
        if (key := (overrides, processes, place)) not in made:
            trial = Trial(RunDir(tmp_path_factory.mktemp("elastic") / "run"))
            trial.run.path.mkdir()
            write_config(load_config("default", [*TINY, f"datasets.path={dataset}", *overrides]), trial.run.config)
            expect(launch(trial, processes, place), 75 if place else 0)
            made[key] = trial
        return made[key]

    return run


def resumed(stopped: Trial, processes: int, folder: Path) -> tuple[Trial, str]:
    """A copy of a run that was stopped, gone on with on so many processes, and what was said."""
    trial = Trial(RunDir(folder / "resumed"))
    shutil.copytree(stopped.run.path, trial.run.path)
    log = folder / "log"
    expect(launch(trial, processes, log=log), 0)
    return trial, log.read_text()


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_an_exact_run_has_the_same_bits_on_every_number_of_processes(
    runs: Callable[..., Trial], tmp_path: Path, before: int, after: int
) -> None:
    whole = runs(tuple(EXACT), 1, "")
    side = runs(tuple(EXACT), after, "")
    assert side.exact_rows == whole.exact_rows
    assert side.tensor_files() == whole.tensor_files()
    stopped = runs(tuple(EXACT), before, STOP)
    assert stopped.saved_steps() in ([4], [5])
    cut, said = resumed(stopped, after, tmp_path)
    assert [event["world_size"] for event in cut.events("resumed")] == [after]
    assert "round differently" not in said
    assert cut.exact_rows == whole.exact_rows
    assert cut.tensor_files() == whole.tensor_files()
    assert (cut.run.path / "ledger.bin").read_bytes() == (whole.run.path / "ledger.bin").read_bytes()


@pytest.mark.parametrize(("before", "after"), [(1, 2), pytest.param(4, 1, marks=pytest.mark.campaign)])
def test_without_it_samples_rates_and_tokens_are_the_same_and_losses_agree_to_rounding(
    runs: Callable[..., Trial], tmp_path: Path, before: int, after: int
) -> None:
    """In float32 a sum of eight gradients in another order is off by some 1e-7, and eight steps add to that."""
    whole = runs(tuple(PLAIN), before, "")
    cut, said = resumed(runs(tuple(PLAIN), before, STOP), after, tmp_path)
    assert f"world_size was {before} and is {after}: sums may round differently" in said
    assert (cut.run.path / "ledger.bin").read_bytes() == (whole.run.path / "ledger.bin").read_bytes()
    for name in ("step", "lr", "tokens", "epoch"):
        assert [row.get(name) for row in cut.rows] == [row.get(name) for row in whole.rows]
    assert cut.losses[:4] == whole.losses[:4]
    assert cut.losses == pytest.approx(whole.losses, rel=1e-5)
    assert cut.validations == pytest.approx(whole.validations, rel=1e-5)


def test_the_exact_and_the_usual_reduction_agree_to_rounding(runs: Callable[..., Trial]) -> None:
    exact = runs((*PLAIN, "training.exact_reduction=true"), 2, "")
    assert exact.losses == pytest.approx(runs(tuple(PLAIN), 1, "").losses, rel=1e-5)
    assert exact.losses[0] == runs(tuple(PLAIN), 1, "").losses[0]


@pytest.mark.campaign
def test_three_and_six_processes_are_exact_as_well(runs: Callable[..., Trial]) -> None:
    overrides = (*EXACT, "training.batch_size=12")
    whole = runs(overrides, 1, "")
    for processes in (3, 6):
        assert runs(overrides, processes, "").exact_rows == whole.exact_rows
        assert runs(overrides, processes, "").tensor_files() == whole.tensor_files()


def test_auto_is_refused_with_it(dataset: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.micro_batch_size: got 'auto' with training\.exact_reduction"):
        load_config("default", [*TINY, f"datasets.path={dataset}", "training.exact_reduction=true"])


def test_the_tree_pairs_aligned_blocks() -> None:
    assert list(additions(1)) == []
    assert list(additions(6)) == [(0, 1), (2, 3), (4, 5), (0, 2), (0, 4)]
    assert list(additions(8)) == [(0, 1), (2, 3), (4, 5), (6, 7), (0, 2), (4, 6), (0, 4)]


def by_definition(leaves: list[Tensor], first: int, size: int) -> Tensor:
    """The sum of a block as docs/elastic.md defines it."""
    half = size // 2
    if size == 1:
        return leaves[first]
    left = by_definition(leaves, first, half)
    return left + by_definition(leaves, first + half, half) if first + half < len(leaves) else left


@st.composite
def shares(draw: st.DrawFn) -> list[range]:
    """What one to six ranks have, one after the other; each has something."""
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=6))
    ends = [sum(sizes[: rank + 1]) for rank in range(len(sizes))]
    return [range(end - size, end) for end, size in zip(ends, sizes, strict=True)]


@given(shares(), st.integers(0, 2**32))
def test_the_sum_does_not_depend_on_who_has_what(parts: list[range], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.logspace(-6, 6, parts[-1].stop)[torch.randperm(parts[-1].stop, generator=generator)]
    leaves = [torch.randn(5, generator=generator) * factor for factor in scale]
    size = 1 << (len(leaves) - 1).bit_length()
    assert torch.equal(summed(parts, leaves), by_definition(leaves, 0, size))


def summed(parts: list[range], leaves: list[Tensor]) -> Tensor:
    """The tree's sum by a thread for each rank. A message waits until it is taken, as a large one does."""
    lines = {(a, b): queue.Queue[Tensor](1) for a in range(len(parts)) for b in range(len(parts))}
    taken = {pair: queue.Queue[None]() for pair in lines}
    roots: dict[int, Tensor | None] = {}

    def work(rank: int) -> None:
        def send(tensor: Tensor, to: int) -> None:
            lines[rank, to].put(tensor.clone(), timeout=10)
            taken[rank, to].get(timeout=10)

        def receive(tensor: Tensor, source: int) -> None:
            tensor.copy_(lines[source, rank].get(timeout=10))
            taken[source, rank].put(None)

        tree, buffer = TreeSum(parts, rank), torch.zeros(5)
        for leaf in parts[rank]:
            buffer.copy_(leaves[leaf])
            tree.add(leaf, buffer)
            buffer.fill_(torch.nan)  # it is the caller's again
        roots[rank] = tree.finish(send, receive)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [rank for rank, root in roots.items() if root is not None] == [0]
    root = roots[0]
    assert root is not None
    return root
