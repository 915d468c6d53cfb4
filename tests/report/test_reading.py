"""What is read from the files of runs, however damaged they are."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.report import metrics as metrics_file
from launch.report.collect import collect
from launch.report.entries import Facts, command_typed, make_facts
from launch.report.metrics import read_metrics
from launch.report.settings import differing, read_settings
from tests.report.made import BEGAN, make_run, make_sweep, write_rows
from tmrc.config.rundir import RunDir


def facts_of(*runs: Path) -> Facts:
    return make_facts(collect([RunDir(run) for run in runs]))


DAMAGED = (
    b'{"step": 4, "loss": 2.0',
    b"[1, 2]",
    b"\xff\xfe\x00",
    b'{"loss": 1.0}',
    b'{"step": "five", "loss": 1.0}',
    b'{"step": NaN, "loss": 1.0}',
    b'{"step": 1e300, "loss": 1.0}',
    b"[" * 100_000,
    b'{"step": 1}, {"step": 2}',
)


@pytest.mark.parametrize("line", DAMAGED)
def test_damaged_rows_are_left_out_and_counted(tmp_path: Path, line: bytes) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"step": 1, "loss": 3.5}\n' + line + b'\n{"step": 2, "loss": 3.25}\n')
    found = read_metrics(file)
    assert found.columns["step"].tolist() == [1, 2] and found.columns["loss"].tolist() == [3.5, 3.25]
    assert found.damaged == 1


def test_a_row_that_is_being_written_is_no_damage(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"step": 1, "loss": 3.5}\n{"step": 2, "lo')
    assert (read_metrics(file).rows, read_metrics(file).damaged) == (1, 0)


def test_values_of_the_wrong_kind_are_no_values(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    odd: list[Any] = ["2.5", True, None, [1], 10**400, math.inf, math.nan]
    write_rows(file, [{"step": n, "loss": value} for n, value in enumerate(odd)] + [{"step": 9, "loss": 3.0}])
    found = read_metrics(file)
    assert [found.columns["step"][n] for n in found.having("loss")] == [4, 5, 6, 9]
    assert found.columns["loss"][-1] == 3.0 and found.damaged == 0


def test_a_long_file_is_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_file, "BLOCK", 100)
    file = tmp_path / "metrics.jsonl"
    write_rows(file, [{"step": n, "loss": 1.0 / n} for n in range(1, 200)])
    found = read_metrics(file)
    assert found.columns["step"].tolist() == list(range(1, 200)) and found.damaged == 0


def test_a_pipe_or_a_directory_in_place_of_the_metrics_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert read_metrics(tmp_path / "pipe").rows == 0
    assert read_metrics(tmp_path).rows == 0 and read_metrics(tmp_path / "none").rows == 0


@given(st.binary(max_size=300))
def test_nothing_in_the_files_raises(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    run = tmp_path_factory.mktemp("run")
    for name in ("metrics.jsonl", "events.jsonl", "config.yaml", "run.json"):
        (run / name).write_bytes(noise + b"\n")
    (run / "attempts" / "1").mkdir(parents=True)
    for name in ("owner.json", "job.json", "spent.json"):
        (run / "attempts" / "1" / name).write_bytes(noise)
    assert len(facts_of(run).entries) == 1


def test_losses_best_and_last_and_what_is_no_number(tmp_path: Path) -> None:
    run = make_run(tmp_path, "a-1", rows=10)
    rows: list[dict[str, Any]] = [
        {"step": 0, "val_loss": 9.0},
        {"step": 1, "loss": 5.0, "tokens": 100},
        {"step": 1, "val_loss": 4.0},
        {"step": 2, "loss": math.nan, "tokens": 200},
        {"step": 2, "val_loss": 4.5},
        {"step": 3, "loss": 3.0, "tokens": 300},
    ]
    write_rows(run / "metrics.jsonl", rows)
    (entry,) = facts_of(run).entries
    assert (entry.loss, entry.val_loss, entry.best_val_loss, entry.best_val_step) == (3.0, 4.5, 4.0, 1)
    assert entry.no_number == (1, 2) and entry.tokens == 300
    curve = facts_of(run).lives[0].curves["val_loss"]
    assert curve.tokens.tolist() == [0, 100, 200]


def test_device_hours_are_the_time_on_nodes_times_the_devices(tmp_path: Path) -> None:
    run = make_run(tmp_path, "a-1", rows=100, preempted_at=(40,))
    found = facts_of(run)
    spans = found.lives[0].spans
    assert [span.devices for span in spans] == [8, 8] and len(found.lives[0].waits) == 2
    held = sum(span.ended - span.began for span in spans)
    assert found.entries[0].device_hours == pytest.approx(8 * held / 3600)
    hours = found.lives[0].curves["loss"].hours
    assert (hours[1:] > hours[:-1]).all() and hours[-1] <= found.entries[0].device_hours
    assert found.hours_unit == "GPU-hours" and found.entries[0].attempts == 2
    assert found.entries[0].goodput is not None and 0 < found.entries[0].goodput < 1


def test_on_cpus_they_are_process_hours(tmp_path: Path) -> None:
    assert facts_of(make_run(tmp_path, "a-1", rows=20, device="cpu")).hours_unit == "process-hours"


def never_started(folder: Path, name: str, executor: str, settings: dict[str, Any] | None = None) -> Path:
    """A run whose attempt ended before training began, and that has logged nothing."""
    run = make_run(folder, name, rows=20, settings=settings)
    (run / "metrics.jsonl").unlink()
    for file, key in ((run / "events.jsonl", "submitted"), (run / "attempts" / "1" / "owner.json", "")):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        rows = [row | ({"executor": executor} if row.get("event", "") == key else {}) for row in rows]
        write_rows(file, [row for row in rows if row.get("event") != "started"])
    return run


def test_without_any_start_hours_are_of_what_runs_ask_for(tmp_path: Path) -> None:
    local = never_started(tmp_path, "a-1", "local")
    slurm = never_started(tmp_path, "a-2", "slurm")
    without = never_started(tmp_path, "a-3", "slurm", {"launch.gpus_per_node": 0})
    on_cpus = never_started(tmp_path, "a-4", "slurm", {"training.device": "cpu"})
    for run in (local, without, on_cpus):
        assert facts_of(run).hours_unit == "process-hours", run
    assert facts_of(slurm).hours_unit == "GPU-hours"
    assert facts_of(slurm, local).hours_unit == "GPU- or process-hours"
    begun = make_run(tmp_path, "b-1", rows=20, device="cpu")
    assert facts_of(slurm, begun).hours_unit == "process-hours"  # what has started tells
    assert facts_of(local, make_run(tmp_path, "b-2", rows=20, device="cuda:3")).hours_unit == "GPU-hours"


def test_noisy_curves_have_means_once_they_are_long(tmp_path: Path) -> None:
    curves = facts_of(make_run(tmp_path, "a-1", rows=150)).lives[0].curves
    for key, mean in (("grad_norm", "smooth_grad_norm"), ("tokens_per_s", "smooth_tokens_per_s")):
        assert np.abs(np.diff(curves[mean].values[20:])).mean() < 0.5 * np.abs(np.diff(curves[key].values[20:])).mean()
    assert "smooth_grad_norm" not in facts_of(make_run(tmp_path, "a-2", rows=90)).lives[0].curves


def test_a_copy_with_its_metrics_alone_has_its_curves(tmp_path: Path) -> None:
    run = tmp_path / "copy"
    run.mkdir()
    write_rows(run / "metrics.jsonl", [{"step": n, "loss": 5.0 / n, "time": BEGAN + n} for n in range(1, 50)])
    found = facts_of(run)
    assert len(found.lives[0].curves["loss"].values) == 49 and found.entries[0].goodput is None


def test_what_differs_leaves_out_where_runs_ran(tmp_path: Path) -> None:
    one = {"optimizer.lr": 1e-3, "training.artifacts_path": "/a", "launch.nodes": 1, "model.n_head": 4}
    two = {**one, "optimizer.lr": 3e-3, "training.artifacts_path": "/b", "launch.nodes": 2}
    assert differing([one, two, {}]) == ["optimizer.lr"]
    assert differing([one, {**one, "launch.nodes": 2}]) == ["launch.nodes"]
    assert differing([one, {**one, "model.n_head": True}]) == ["model.n_head"]
    assert differing([one, one]) == [] and differing([]) == []


def test_settings_that_are_no_yaml_are_none(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    aliases = b"a: &a [1, 2]\nb: {c: *a}\n"  # tmrc writes none, and with them a short text can stand for a huge one
    for text in (b"\x00\xff", b"a: [", b"!!python/object/apply:os.system ['touch x']", b"just text", aliases):
        file.write_bytes(text)
        assert read_settings(file) == {}


def test_of_very_many_settings_some_are_read(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("\n".join(f"a{n}: {n}" for n in range(9_000)))
    assert 0 < len(read_settings(tmp_path / "config.yaml")) <= 2_000


def test_a_sweep_is_sorted_by_validation_loss_and_runs_without_one_come_last(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, runs=4, rows=60)
    bare = make_run(sweep, f"{sweep.name}-999-0000", rows=20)
    write_rows(bare / "metrics.jsonl", [{"step": 1, "loss": 0.1}])
    found = facts_of(*(path.parent for path in sweep.glob("*/run.json")))
    losses = [entry.val_loss for entry in found.entries]
    known = [loss for loss in losses if loss is not None]
    assert known == sorted(known) and losses[-1] is None and found.entries[-1].label == "999-0000"
    assert set(found.keys) == {"optimizer.lr", "model.dropout_p", "model.activation"}


def test_commands_are_quoted_for_a_shell() -> None:
    typed = command_typed({"command": ["/opt/bin/tmrc-submit", "-J", "my run; rm x", "cfg.yaml"]})
    assert typed == "tmrc-submit -J 'my run; rm x' cfg.yaml"
    nothings: list[dict[str, Any]] = [{}, {"command": []}, {"command": [1]}, {"command": "x"}]
    for nothing in nothings:
        assert command_typed(json.loads(json.dumps(nothing))) == ""
