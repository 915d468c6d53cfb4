"""The formulas of bench.scale at their limits."""

from __future__ import annotations

import dataclasses

import pytest

from bench import scale
from bench.scale import GPUS, Cluster, Model, Restarts

MODELS = scale.models()
BY_NAME = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)


def test_one_gpu_exchanges_nothing() -> None:
    assert scale.all_reduce_seconds(1e9, 1, Cluster()) == 0
    assert all(scale.efficiency(model, 1, Cluster()) == 1 for model in MODELS)


def test_a_large_message_on_one_node_takes_its_bytes_over_the_link_and_a_small_one_the_latency() -> None:
    cluster = Cluster(efficiency=1.0)
    assert scale.all_reduce_seconds(450e9, 8, cluster) == pytest.approx(2 * 7 / 8, rel=1e-3)
    assert scale.all_reduce_seconds(400e9, 16, cluster) == pytest.approx(2 * 7 / 8 * 400 / 450 + 1, rel=1e-3)
    assert scale.all_reduce_seconds(0, 8, cluster) == pytest.approx(20e-6 + 14 * 2e-6)


@BY_NAME
@pytest.mark.parametrize("faster", ["nvlink", "network", "efficiency", "peak_flops"])
def test_more_of_anything_is_never_slower(model: Model, faster: str) -> None:
    cluster = Cluster()
    better = dataclasses.replace(cluster, **{faster: 1.2 * getattr(cluster, faster)})
    for gpus in GPUS:
        assert scale.step_seconds(model, gpus, better) <= scale.step_seconds(model, gpus, cluster)


@BY_NAME
def test_more_gpus_are_less_efficient_and_never_better_than_perfect(model: Model) -> None:
    shares = [scale.efficiency(model, gpus, Cluster()) for gpus in GPUS]
    assert shares == sorted(shares, reverse=True) and 0 < shares[-1] < shares[0] == 1


@BY_NAME
def test_what_shows_is_at_least_the_last_bucket_and_at_most_all_of_the_exchange(model: Model) -> None:
    for gpus in GPUS:
        shown = scale.exposed_seconds(model, gpus, Cluster())
        assert scale.last_seconds(model, gpus, Cluster()) <= shown <= scale.exchange_seconds(model, gpus, Cluster())


def test_sizes_are_what_their_names_say() -> None:
    sizes = [round(model.parameters / 1e6) for model in MODELS]
    assert sizes == [58, 163, 1419, 6715]  # the last two with two tables of their own, not tied
    fits = [scale.memory_bytes(model) < Cluster().memory for model in MODELS]
    assert fits == [True, True, True, False]


@BY_NAME
def test_goodput_falls_with_every_cost_and_the_best_interval_is_best(model: Model) -> None:
    found = {
        (warm, background): scale.best_goodput(model, Restarts(), warm=warm, background=background)
        for warm in (False, True)
        for background in (False, True)
    }
    assert found[True, False][1] > found[False, False][1] < found[False, True][1] < found[True, True][1] < 1
    stall, restart = scale.stall_seconds(model, Restarts(), False), scale.restart_seconds(model, Restarts(), False)
    interval, best = found[False, False]
    for other in (interval / 3, interval * 3):
        assert scale.goodput(other, stall, 0, restart, Restarts().between) < best


def test_without_interruptions_and_saves_nothing_is_lost() -> None:
    assert scale.goodput(3600, 0, 0, 60, float("inf")) == 1
    assert scale.goodput(100, 100, 0, 0, float("inf")) == 0.5
    assert scale.goodput(100, 1, 0, 4000, 3600) == 0
    assert scale.goodput(100, 0, 36, 0, 3600) == 1 - (50 + 36) / 3600  # what is being written is not yet safe


def test_the_tables_name_every_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert scale.main([]) == 0
    printed = capsys.readouterr().out
    assert all(printed.count(f"| {model.name} |") == 6 for model in MODELS) and "256 GPUs" in printed
