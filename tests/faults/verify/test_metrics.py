"""`tmrc verify` on the rows of metrics."""

from __future__ import annotations

import json

from tests.faults.verify.helpers import faults
from tmrc.config.load import load_config, write_config
from tmrc.config.rundir import RunDir


def test_rows_of_metrics(run: RunDir) -> None:
    lines = run.metrics.read_text().splitlines(keepends=True)  # 0v 1 4 8 8v 12 16 16v 20 24 24v

    def with_lines(changed: list[str]) -> tuple[str, ...]:
        run.metrics.write_text("".join(changed))
        return faults(run).get("metrics", ())

    assert with_lines(lines[:3] + lines[4:]) == ("step 8 is missing",)
    assert with_lines(lines[:4] + lines[5:]) == ("the validation of step 8 is missing",)
    assert with_lines(lines[:-1]) == ("the validation of step 24 is missing",)
    assert with_lines(lines[:4] + lines[3:]) == ("step 8 stands there twice (lines 4 and 5)",)
    assert "stands after" in with_lines([*lines[:5], lines[6], lines[5], *lines[7:]])[0]
    other = lines[5].replace('"step": 12', '"step": 13')
    found = with_lines([*lines[:5], other, *lines[6:]])
    assert found[0] == "step 12 is missing" and "is none that log_interval asks for" in found[1]
    assert "step 12: lr is 0.02 instead of 0.01" in with_lines(
        [*lines[:5], lines[5].replace('"lr": 0.01', '"lr": 0.02'), *lines[6:]]
    )
    assert "step 12: tokens is 7 instead of 1536" in with_lines(
        [*lines[:5], lines[5].replace('"tokens": 1536', '"tokens": 7'), *lines[6:]]
    )
    assert with_lines([*lines[:2], "{what\n", *lines[2:]]) == ("line 3 is no row",)
    beyond = lines[-2].replace('"step": 24', '"step": 28')
    assert any("is beyond the last step, 24" in line for line in with_lines([*lines, beyond]))
    assert with_lines([*lines, '{"step": 28, "lo']) == ("its last row is cut off, though the run has finished",)


def test_numbers_of_a_row(run: RunDir) -> None:
    lines = run.metrics.read_text().splitlines(keepends=True)
    for name, value, words in (
        ("epoch", 7, "step 12: epoch is 7 instead of"),
        ("epoch", None, "step 12: epoch is None instead of"),
        ("grad_norm", None, "step 12: grad_norm is missing"),
        ("loss", float("nan"), "step 12: loss is no finite number"),
        ("lr", 10**400, "step 12: lr is"),
    ):
        row = {key: one for key, one in (json.loads(lines[5]) | {name: value}).items() if one is not None}
        run.metrics.write_text("".join([*lines[:5], json.dumps(row) + "\n", *lines[6:]]))
        (line,) = faults(run, read_data=False)["metrics"]
        assert line.startswith(words)


def test_an_edited_learning_rate_is_one_fault_of_the_metrics(run: RunDir) -> None:
    write_config(load_config(run.config, ["optimizer.lr=0.02"]), run.config)
    assert faults(run)["metrics"] == (
        "steps 1 to 24: lr is not what the configuration gives (step 1: 0.01 instead of 0.02)",
    )


def test_numbers_that_are_wrong_in_the_same_way_are_grouped(run: RunDir) -> None:
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]  # 0v 1 4 8 8v 12 16 16v 20 24 24v
    for place in (2, 3, 6):
        rows[place]["tokens"] = 7
    for place in (4, 7):
        rows[place]["val_loss"] = float("nan")
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert faults(run)["metrics"] == (
        "steps 4 and 8: tokens is not what the configuration gives (step 4: 7 instead of 512)",
        "the validations of steps 8 and 16: val_loss is no finite number",
        "step 16: tokens is 7 instead of 2048",
    )


def test_rows_that_are_not_asked_for_are_one_fault(run: RunDir) -> None:
    write_config(load_config(run.config, ["training.log_interval=8"]), run.config)
    assert faults(run)["metrics"] == ("steps 4, 12 and 20 are none that log_interval asks for",)
