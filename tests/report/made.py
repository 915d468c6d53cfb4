"""Runs that look like real ones, written by hand: curves that fall with noise, preempted attempts, lost steps."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tmrc.config.load import config_dict
from tmrc.config.schema import Config

BEGAN = 1_790_000_000.0
TOKENS = 65_536  # a step
SECONDS = 1.4  # a step
GIT = {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False}


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_run(
    folder: Path,
    run_id: str,
    rows: int = 400,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    preempted_at: Sequence[int] = (),
    state: str = "finished",
    command: Sequence[str] = ("tmrc-submit", "cfg.yaml"),
    device: str = "cuda",
    bottom: float = 3.0,
) -> Path:
    """A run of `rows` steps that was preempted at some of them; each next attempt goes on from ten steps before."""
    run, noise = folder / run_id, random.Random(seed)
    run.mkdir(parents=True)
    values = config_dict(Config())
    for key, value in (settings or {}).items():
        section, _, name = key.partition(".")
        values[section][name] = value
    (run / "config.yaml").write_text(yaml.safe_dump(values))
    about: dict[str, Any] = {
        "id": run_id,
        "command": list(command),
        "directory": "/home/me",
        "python": "3.11.7",
        "git": GIT,
    }
    about["sweep"] = {"id": folder.name, "overrides": [f"{key}={value}" for key, value in (settings or {}).items()]}
    (run / "run.json").write_text(json.dumps({**about, "versions": {"tmrc": "0.1.0", "torch": "2.13.0"}}))
    _live(run, rows, preempted_at, state, device, noise, bottom, values["optimizer"]["lr"])
    return run


def _live(
    run: Path,
    rows: int,
    preempted_at: Sequence[int],
    state: str,
    device: str,
    noise: random.Random,
    bottom: float,
    peak: float,
) -> None:
    clock = BEGAN + noise.random() * 600
    events: list[dict[str, Any]] = [{"event": "submitted", "time": clock, "executor": "slurm", "job_id": "7"}]
    metrics: dict[int, list[dict[str, Any]]] = {}
    starts = [0, *(max(0, stop - 10) for stop in preempted_at)]
    for number, (first, last) in enumerate(zip(starts, [*preempted_at, rows], strict=True), 1):
        clock += 120 + noise.random() * 900  # in the queue
        began = clock
        clock += 45
        kind = "resumed" if number > 1 else "started"
        about = {"attempt": number, "step": first, "total_steps": rows, "world_size": 8, "device": device}
        events.append({"event": kind, "time": clock, **about})
        metrics = {step: found for step, found in metrics.items() if step <= first}
        for step in range(first + 1, last + 1):
            clock += SECONDS * (1 + 0.05 * noise.random())
            metrics[step] = _rows(step, rows, clock, noise, bottom, peak)
        over = last == rows
        clock += 20
        status, why = (state, "") if over else ("stopped", "preempted")
        ending = {
            "status": status,
            "kind": why,
            "message": why,
            "step": last,
            "ended": clock,
            "exit_code": 0 if over else 75,
        }
        spent = {"start": 30.0, "compile": 15.0, "data_wait": 0.02 * (clock - began), "save": 20.0, "validation": 60.0}
        spent["step"] = clock - began - sum(spent.values()) - 5
        if not over:  # saved ten steps before
            kept = {**spent, "step": spent["step"] - 10 * SECONDS}
            events.append(
                {
                    "event": "checkpoint",
                    "time": clock,
                    "attempt": number,
                    "step": last - 10,
                    "seconds": 20.0,
                    "spent": kept,
                }
            )
        folder = run / "attempts" / str(number)
        folder.mkdir(parents=True)
        owner = {"host": f"node{number}", "pid": 1, "started": 1, "job_id": "7", "executor": "slurm", "began": began}
        (folder / "owner.json").write_text(
            json.dumps({**owner, "nodes": [f"node{number}"], "logs": [], "log_offset": 0})
        )
        (folder / "job.json").write_text(json.dumps({**ending, "action": "none" if over else "requeued"}))
        sums = {"began": began, "at": clock, "phase": "step", "step": last, "seconds": spent}
        (folder / "spent.json").write_text(json.dumps(sums))
        event = state if over else "requeued"
        events.append({"event": event, "time": clock, "attempt": number, "step": last, "kind": why, "cause": why})
    write_rows(run / "metrics.jsonl", [row for found in metrics.values() for row in found])
    write_rows(run / "events.jsonl", events)


def _rows(
    step: int, total: int, clock: float, noise: random.Random, bottom: float, peak: float
) -> list[dict[str, Any]]:
    clean = bottom + 7.5 * math.exp(-step / (0.04 * total)) + 0.9 * math.exp(-step / (0.4 * total))
    warm = min(1.0, step / (0.05 * total))
    row = {
        "step": step,
        "loss": clean + noise.gauss(0, 0.06) + (0.9 if noise.random() < 0.0008 else 0.0),
        "lr": peak * warm * (0.55 + 0.45 * math.cos(math.pi * step / total)),
        "grad_norm": 0.4 + 2.5 * math.exp(-step / (0.03 * total)) + abs(noise.gauss(0, 0.08)),
        "tokens": step * TOKENS,
        "epoch": 0,
        "tokens_per_s": TOKENS / SECONDS * (1 - 0.05 * noise.random()),
        "memory_gib": 41.2,
        "data_wait": 0.001 * noise.random(),
        "time": clock,
    }
    if step % max(1, total // 50) and step != total:
        return [row]
    return [row, {"step": step, "val_loss": clean + 0.05 + noise.gauss(0, 0.005), "time": clock + 0.5}]


def make_sweep(folder: Path, runs: int, rows: int) -> Path:
    """A sweep over learning rate, dropout and activation, with all sorts of lives."""
    sweep = folder / "lr-dropout-1a2b3c4d"
    sweep.mkdir(parents=True)
    points: list[dict[str, Any]] = []
    for n in range(runs):
        rate = 10 ** (-4 + 2 * ((n * 7) % runs) / runs)
        settings: dict[str, Any] = {
            "optimizer.lr": float(f"{rate:.3g}"),
            "model.dropout_p": (n % 3) / 10,
            "model.activation": ("relu", "gelu")[n % 2],
            "training.artifacts_path": str(sweep),
        }
        swept = [f"{key}={value}" for key, value in settings.items() if key != "training.artifacts_path"]
        points.append({"run_id": f"{sweep.name}-{n:03}-{n * 2654435761 % 65536:04x}", "overrides": swept})
        bottom = 2.9 + 0.35 * abs(math.log10(rate) + 3.2) + 0.1 * settings["model.dropout_p"] + 0.03 * (n % 2)
        stops = ((), (rows // 3,), (rows // 4, rows // 2))[n % 3]
        command: Sequence[str] = (
            "tmrc-submit",
            "-m",
            "--partition",
            "gpu",
            "cfg.yaml",
            "optimizer.lr=1e-4,3e-4,1e-3",
            "model.dropout_p=0,0.1,0.2",
        )
        state = "failed" if n % 11 == 10 else "finished"
        make_run(
            sweep,
            points[-1]["run_id"],
            rows,
            settings,
            n,
            stops,
            state,
            command,
            bottom=bottom,
        )
    (sweep / "sweep.json").write_text(json.dumps({"id": sweep.name, "points": points}))
    return sweep
