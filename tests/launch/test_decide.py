"""What is done with a run when an attempt has ended: every cause, told apart, without processes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.attempts import Ending
from launch.decide import HARDWARE, OWN_FAULT, Past, Situation, decide, nodes_to_avoid
from launch.hang import describe_hang
from launch.jobs import JobFacts

RUNNING = JobFacts("RUNNING", "None", 0, False)
COMPLETING = replace(RUNNING, state="COMPLETING")
STOPPED = Ending(75, "stopped", "", 10, "stopped", checkpoint=10)


def crash(kind: str = "code_error", checkpoint: int | None = None, node: str | None = None) -> Ending:
    return Ending(1, "failed", "boom", 10, kind, node, checkpoint)


@pytest.mark.parametrize(
    ("situation", "kind", "action"),
    [
        (Situation(Past(Ending(0, "finished", kind="finished"))), "finished", "none"),
        (Situation(Past(Ending(2, "failed", "key: bad", kind="config")), facts=RUNNING), "config", "none"),
        (Situation(Past(STOPPED), facts=RUNNING), "signal", "requeued"),
        (Situation(Past(STOPPED), facts=RUNNING, warned=True), "time_limit", "requeued"),
        (Situation(Past(STOPPED), facts=replace(RUNNING, preempted=True), warned=True), "preempted", "requeued"),
        (Situation(Past(STOPPED), facts=replace(COMPLETING, preempted=True)), "preempted", "requeued"),
        (Situation(Past(STOPPED), facts=replace(COMPLETING, restarts=1)), "requeued", "requeued"),
        (Situation(Past(STOPPED), facts=replace(COMPLETING, reason="TimeLimit")), "time_limit", "requeued"),
        (Situation(Past(STOPPED), facts=COMPLETING), "cancelled", "none"),
        (Situation(Past(STOPPED), facts=RUNNING, cancelled=True), "cancelled", "none"),
        (Situation(Past(crash()), facts=COMPLETING), "cancelled", "none"),
        (Situation(Past(crash()), facts=RUNNING), "code_error", "requeued"),
        (Situation(Past(crash("out_of_memory")), facts=RUNNING), "out_of_memory", "requeued"),
        (Situation(Past(crash("killed")), facts=replace(COMPLETING, preempted=True)), "preempted", "requeued"),
        (Situation(Past(crash("killed")), facts=RUNNING, down=("n2",)), "node_failure", "requeued"),
        (Situation(Past(STOPPED), superseded=True), "superseded", "none"),
        (Situation(Past(STOPPED), facts=None), "signal", "requeued"),
    ],
)
def test_what_is_done_after_an_attempt(situation: Situation, kind: str, action: str) -> None:
    ending = decide(situation)
    assert (ending.kind, ending.action) == (kind, action)
    assert (ending.status == "cancelled") == (kind == "cancelled")


@pytest.mark.parametrize("kind", sorted(OWN_FAULT))
def test_a_fault_of_its_own_three_times_without_progress_holds_the_run(kind: str) -> None:
    earlier = [Past(crash(kind)), Past(crash(kind))]
    assert decide(Situation(Past(crash(kind)), earlier[:1], RUNNING)).action == "requeued"
    held = decide(Situation(Past(crash(kind)), earlier, RUNNING))
    assert held.action == "held" and "boom" in held.message and "3 attempts without a new checkpoint" in held.message
    assert decide(Situation(Past(crash(kind, checkpoint=5), 4), earlier, RUNNING)).action == "requeued"
    after_progress = [earlier[0], Past(crash(kind, checkpoint=5), 4), earlier[1]]
    assert decide(Situation(Past(crash(kind, 5), 5), after_progress, RUNNING)).action == "requeued"


def test_a_time_limit_that_never_suffices_holds_the_run() -> None:
    late = Ending(75, "stopped", "", 0, "stopped", checkpoint=None)
    past = [Past(replace(late, kind="time_limit"))] * 2
    assert decide(Situation(Past(late), past, RUNNING, warned=True)).action == "held"
    assert decide(Situation(Past(late), past, replace(RUNNING, preempted=True))).action == "requeued"


@given(st.lists(st.sampled_from(["preempted", "node_failure", "requeued", "signal", "lost"]), max_size=30))
def test_what_comes_from_outside_uses_up_nothing(kinds: list[str]) -> None:
    past = [Past(crash(kind)) for kind in kinds]
    assert decide(Situation(Past(crash()), past, RUNNING)).action == "requeued"
    assert decide(Situation(Past(crash()), [Past(crash()), *past], RUNNING)).action == "requeued"
    assert decide(Situation(Past(crash()), [Past(crash()), *past, Past(crash())], RUNNING)).action == "held"


def test_a_node_is_avoided_after_two_failures_that_look_like_its_own() -> None:
    for kind in HARDWARE:
        once = Past(crash(kind, node="n7"))
        assert nodes_to_avoid([once, Past(crash(kind, node="n8"))]) == ()
        assert nodes_to_avoid([once, Past(crash("code_error", node="n8")), Past(crash(kind, 3, "n7"))]) == ("n7",)
    assert nodes_to_avoid([Past(crash("out_of_memory", node="n7"))] * 5) == ()


def place(counter: int, frozen: bool = False) -> dict[str, object]:
    return {"counter": counter, "step": 12, "phase": "data", "still": 601.2, "frozen": frozen}


@pytest.mark.parametrize(
    ("places", "blamed", "text"),
    [
        ([place(9), place(7), place(9)], [1], "rank 1 has not moved for 601 seconds (data, step 12); the others wait"),
        ([place(9), place(9, frozen=True)], [1], "rank 1 has not moved"),
        ([place(9), place(9)], [0, 1], "no rank has moved for 600 seconds; all are in the same place (data, step 12)"),
        ([], [], "no training process has given a sign of life for 600 seconds"),
    ],
)
def test_the_rank_that_hangs_is_named(places: list[dict[str, object]], blamed: list[int], text: str) -> None:
    message, ranks = describe_hang({str(rank): found for rank, found in enumerate(places)}, 600)
    assert ranks == blamed and message.startswith(text)
