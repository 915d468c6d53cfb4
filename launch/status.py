"""Where runs stand: their files' word and Slurm's, put together for people and programs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from launch.facts import Attempt, Facts, Row, integer, number_of, read_facts, word
from launch.queue import QueueRow, QueueUnknown, accounting, queue
from launch.standing import ACTIVE, ENDED, Slurm, Standing, current_job, executor, phase, standing
from launch.sweepdir import varying_overrides
from launch.words import why_waiting
from tmrc.config.rundir import RunDir


@dataclass(frozen=True)
class RunStatus:
    """One run as `tmrc status` shows it. Times are unix times, durations seconds; None is not known."""

    run_id: str
    run_dir: str
    state: str  # one of launch.standing.STATES
    sure: bool  # False: by its files alone, since whoever runs it could not be asked
    step: int | None
    total_steps: int | None
    loss: float | None
    val_loss: float | None
    tokens_per_s: float | None
    eta: float | None
    attempts: int
    checkpoint_step: int | None
    checkpoint_time: float | None
    executor: str | None  # slurm or local
    job_id: str | None
    where: str | None  # nodes, in Slurm's short form
    waits: str | None  # why it is pending, in plain words
    reason: str | None  # the same in Slurm's word
    start: float | None  # when a pending job is expected to start
    time_left: float | None  # until the job's time limit
    kind: str | None  # why the last attempt ended, in one word
    cause: str | None  # the same in a line
    created: float
    point: str | None = None  # of a sweep: the overrides that set it apart

    @property
    def active(self) -> bool:
        """Whether it is in the queue or runs."""
        return self.state in ACTIVE


@dataclass
class Asker:
    """Asks Slurm about jobs, not again within `patience` seconds unless something has happened to their runs."""

    patience: float = 0.0
    aloud: bool = True  # whether people are told on stderr what is waited for
    known: frozenset[tuple[str, str]] = frozenset()
    when: float = -math.inf
    answer: Slurm = Slurm()

    def ask(self, found: Iterable[Facts]) -> Slurm:
        """What squeue says of the jobs that may still do something for their runs, as these runs' files tell."""
        phases = ((current_job(facts), phase(facts)) for facts in found)
        known = frozenset((job, now) for job, now in phases if job and now in ("waiting", "running"))
        if not known <= self.known or time.monotonic() - self.when >= self.patience:
            try:
                self.answer = Slurm(queue((job for job, _ in known), self.aloud), self.answer.accounts)
            except QueueUnknown as problem:
                self.answer = Slurm(problem=str(problem))
            self.known, self.when = known, time.monotonic()
        return self.answer

    def ask_accounts(self, jobs: Iterable[str]) -> Slurm:
        """The same with what sacct says of `jobs`, which are gone."""
        new = set(jobs) - set(self.answer.accounts)
        if new:
            self.answer = replace(self.answer, accounts={**self.answer.accounts, **accounting(new, self.aloud)})
        return self.answer


def statuses(runs: Iterable[RunDir], asker: Asker | None = None) -> tuple[list[RunStatus], str]:
    """Where `runs` stand, and why Slurm could not be asked (empty when it could, or need not be)."""
    asker = asker or Asker()
    found = [read_facts(run) for run in runs]
    slurm = asker.ask(found)
    gone = [n for n, facts in enumerate(found) if standing(facts, slurm).cause]
    for n in gone:  # its last words may have come while Slurm was being asked
        found[n] = read_facts(found[n].run)
    jobs = [current_job(found[n]) for n in gone if standing(found[n], slurm).cause]
    slurm = asker.ask_accounts(filter(None, jobs))
    points = varying_overrides(facts.run for facts in found)
    judged = (judge(facts, slurm) for facts in found)
    return [replace(one, point=points.get(one.run_id)) for one in judged], slurm.problem


def judge(facts: Facts, slurm: Slurm) -> RunStatus:
    """Where one run stands."""
    job, last, found = current_job(facts), facts.last, standing(facts, slurm)
    row = slurm.rows.get(job) if job else None
    waiting = row if found.state == "pending" else None
    active = found.state in ACTIVE
    kind, cause = _why(facts, found)
    step, total, rate = _step(facts, active), _total(facts), _rate(facts)
    return RunStatus(
        run_id=facts.run.path.name,
        run_dir=str(facts.run.path),
        state=found.state,
        sure=found.sure,
        step=step,
        total_steps=total,
        loss=_finite(number_of(facts.row, "loss")),
        val_loss=_finite(facts.val_loss),
        tokens_per_s=rate,
        eta=_eta(facts, step, total, rate) if found.state == "running" else None,
        attempts=last.number if last else 0,
        checkpoint_step=facts.checkpoint[0] if facts.checkpoint else None,
        checkpoint_time=facts.checkpoint[1] if facts.checkpoint else None,
        executor=executor(facts) or None,
        job_id=job,
        where=_where(last, row, found.state),
        waits=why_waiting(waiting) if waiting else None,
        reason=(waiting.reason or None) if waiting else None,
        start=waiting.start if waiting else None,
        time_left=row.time_left if row is not None and active and waiting is None else None,
        kind=kind,
        cause=cause,
        created=facts.created,
    )


def _why(facts: Facts, found: Standing) -> tuple[str | None, str | None]:
    """Kind and cause of the last ending."""
    if found.cause:
        return found.state, found.cause
    last = facts.last
    if last is not None and last.over and (last.kind or last.cause):
        return last.kind or None, last.cause or _plain(last.kind)
    said = facts.newest(*ENDED, "requeued") or {}
    return word(said, "kind") or None, word(said, "cause") or _plain(word(said, "kind"))


def _plain(kind: str) -> str | None:
    """A kind of ending as a cause of its own, such as `preempted`; one that says how it ended is none."""
    return None if kind in ("", *ENDED) else kind.replace("_", " ")


def _step(facts: Facts, active: bool) -> int | None:
    """The last step that is known to be done."""
    rows = facts.of_attempt("started", "resumed", "signal", "checkpoint", *ENDED)
    known = [integer(facts.row, "step"), *(integer(row, "step") for row in rows)]
    known += [facts.checkpoint[0]] if facts.checkpoint else []
    if not active and facts.last is not None:
        known.append(facts.last.step)
    return max((step for step in known if step is not None), default=None)


def _total(facts: Facts) -> int | None:
    """Steps of the whole run, as the last attempt had it or as it was changed since."""
    total = None
    for row in facts.events:
        if row["event"] in ("started", "resumed"):
            total = integer(row, "total_steps")
        elif row["event"] == "changed" and isinstance(changes := row.get("changes"), dict):
            total = _changed_total(total, changes)
    return total


def _changed_total(total: int | None, changes: Row) -> int | None:
    """Training ends with its steps or its epochs, whichever come first. None: it has to say itself how many that is."""
    if "training.epochs" in changes:
        return None
    match changes.get("training.train_steps"):
        case [int(before), int(after)]:
            return min(total, after) if total is not None and total < before else after
    return total


def _rate(facts: Facts) -> float | None:
    """Tokens a second over one attempt's rows at hand, validation and saving included; what its only row says."""
    tokens = (number_of(facts.row, "tokens") or 0.0) - (number_of(facts.earlier, "tokens") or 0.0)
    seconds = (number_of(facts.row, "time") or 0.0) - (number_of(facts.earlier, "time") or 0.0)
    if facts.earlier and tokens > 0 and seconds > 0:
        return _finite(tokens / seconds)
    return _finite(number_of(facts.earlier and facts.row, "tokens_per_s"))


def _eta(facts: Facts, step: int | None, total: int | None, rate: float | None) -> float | None:
    """Seconds left at `rate`."""
    logged, tokens = integer(facts.row, "step"), number_of(facts.row, "tokens")
    if step is None or total is None or total < step or not (logged and tokens and rate and rate > 0):
        return None
    return _finite((total - step) * tokens / logged / rate)


def _where(last: Attempt | None, row: QueueRow | None, state: str) -> str | None:
    """Where it runs, or ran last."""
    if state == "pending":
        return None
    if row is not None and row.nodes:
        return row.nodes
    return ",".join(last.nodes) or None if last else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
