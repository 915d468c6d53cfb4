"""The faults of a run on this machine. Adding one: a function with a decorator; its docstring is its help."""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path

from launch.attempts import last_attempt
from launch.drill.damage import damage, leave_rubbish
from launch.drill.processes import Process, send_all, wait_until_gone
from launch.drill.scene import Scene, Trouble, fault
from launch.drill.twin import second_trainer
from tmrc.config.rundir import RunDir, checkpoint_steps

PATIENCE = 90.0  # seconds for processes to go: ranks whose torchrun has died have 60 to save


@fault("kill", "local")
def kill(scene: Scene) -> None:
    """SIGKILL of one process: a rank, torchrun, Submitit's job or its controller, tmrc-submit"""
    _send_one(scene, signal.SIGKILL)


@fault("node", "local")
def node(scene: Scene) -> None:
    """SIGKILL of all processes at once, as when the machine dies"""
    found = scene.processes()
    scene.say(f"{len(found)} processes")
    while found:
        send_all(found, signal.SIGKILL)
        found = scene.processes()


@fault("term", "local")
def term(scene: Scene) -> None:
    """SIGTERM to one process, or to all"""
    _send(scene, signal.SIGTERM)


@fault("usr2", "local")
def usr2(scene: Scene) -> None:
    """SIGUSR2 to one process, or to all"""
    _send(scene, signal.SIGUSR2)


@fault("int", "local")
def interrupt(scene: Scene) -> None:
    """SIGINT to one process, or to all; sometimes two or three times, as by an impatient person"""
    for _ in range(scene.random.choices((1, 2, 3), (70, 15, 15))[0]):
        _send(scene, signal.SIGINT)
        time.sleep(0.2 * scene.random.random())


@fault("hup", "local")
def hup(scene: Scene) -> None:
    """SIGHUP to one process, or to all"""
    _send(scene, signal.SIGHUP)


@fault("stop", "local")
def stop(scene: Scene) -> None:
    """SIGSTOP of a rank, then SIGCONT some seconds later; sometimes SIGKILL instead"""
    process = scene.one("rank")
    if process is None:
        scene.say("no rank was there yet")
        return
    seconds, for_good = 3.0 * scene.random.random(), scene.random.random() < 0.3
    process.send(signal.SIGSTOP)
    time.sleep(seconds)
    process.send(signal.SIGKILL if for_good else signal.SIGCONT)
    scene.say(f"{process.name} for {seconds:.1f} s{', then killed' if for_good else ''}")


@fault("corrupt", "local", "slurm")
def corrupt(scene: Scene) -> None:
    """after a kill: bytes, files or the manifest of the newest checkpoint damaged, or rubbish beside it"""
    how = scene.random.random()
    if scene.slurm is None:
        node(scene)
    else:
        scene.slurm.call("scancel", "--signal=KILL", f"{scene.slurm.job_id}.0")
    scene.after.append(lambda: _damage(scene, everything=how < 0.12, rubbish=how > 0.85))


@fault("twin", "local")
def twin(scene: Scene) -> None:
    """a second attempt while the first lives: tmrc-submit must refuse, a later trainer must shut the first one out"""
    if scene.run is None:
        return node(scene)
    refuses_a_second(scene)
    if scene.random.random() < 0.4:
        return _send_one(scene, signal.SIGKILL)
    second_trainer(scene)
    return None


@fault("disk", "local")
def disk(scene: Scene) -> None:
    """rank 0 can write no more for a while (RLIMIT_FSIZE); where we are not root, also a read-only directory"""
    if os.geteuid() != 0 and scene.run is not None and scene.random.random() < 0.5:
        return _read_only(scene, scene.run.checkpoints)
    ranks = [process for process in scene.processes("rank") if process.rank == 0]
    if not ranks:
        scene.say("no rank 0 was there yet")
        return None
    limit = scene.random.choice((0, 4096, 100_000))
    seconds = 0.5 + 4.0 * scene.random.random()
    if _limit(ranks[0], limit):
        scene.say(f"files of rank 0 limited to {limit} bytes for {seconds:.1f} s")
        time.sleep(seconds)
        _limit(ranks[0], resource.RLIM_INFINITY)
    return None


@fault("resize", "local")
def resize(scene: Scene) -> None:
    """stopped, then goes on with another number of processes; only with training.exact_reduction"""
    process = scene.one("rank", "torchrun", "job", "tmrc-submit")  # without its controller a run just goes on
    signum = scene.random.choice((signal.SIGKILL, signal.SIGTERM))
    if process is not None:
        process.send(signum)
        scene.say(f"{signum.name} to {process.name}")
    now, training = scene.config.launch.processes_per_node or 1, scene.config.training
    micro = training.micro_batch_size if isinstance(training.micro_batch_size, int) else 1
    sizes = [size for size in (1, 2, 4) if size != now and training.batch_size % (size * micro) == 0]
    size = scene.random.choice(sizes or [now])
    scene.options.append(f"launch.processes_per_node={size}")
    scene.say(f"then {size} processes")


def refuses_a_second(scene: Scene) -> None:
    """Raise Trouble unless `tmrc-submit --resume` is refused while the run goes on."""
    assert scene.run is not None
    done = scene.submit("--local", "--resume", str(scene.run.path))
    lines = [line for line in done.stderr.splitlines() if not line.startswith("waiting for ")]
    if done.returncode != 2 or len(lines) != 1:
        words = " / ".join(lines[-2:])
        raise Trouble(f"a second tmrc-submit ended with exit code {done.returncode} and not 2: {words}")
    scene.say("a second tmrc-submit was refused")


def _damage(scene: Scene, everything: bool, rubbish: bool) -> None:
    """Damage the newest checkpoint; the only one, or all, only as far as the run says so and can begin anew."""
    run = scene.run
    if run is None or not (steps := list(checkpoint_steps(run).values())):
        scene.say("there was no checkpoint yet")
        return
    if rubbish:
        scene.say(leave_rubbish(run, scene.random))
        return
    if scene.slurm is not None and len(steps) == 1:
        scene.say("the only checkpoint was left alone: without it the job would rightly fail")
        return
    doomed = steps if everything and scene.slurm is None else steps[:1]
    scene.say("; ".join(damage(step, scene.random) for step in doomed))
    if len(doomed) == len(steps):
        _begin_anew(scene, run)


def _begin_anew(scene: Scene, run: RunDir) -> None:
    """No good checkpoint is left. Raise Trouble unless the run refuses to begin anew by itself; do as it says."""
    done = scene.submit("--local", "--resume", str(run.path))
    words = " / ".join(done.stderr.splitlines()[-3:])
    if done.returncode != 2 or "damaged" not in done.stderr:
        raise Trouble(f"with all checkpoints damaged it ended with exit code {done.returncode} and not 2: {words}")
    for path in (run.checkpoints, run.events):
        path.rename(path.with_name(f"moved_{last_attempt(run)}_{path.name}"))
    scene.say("no good one was left: refused; moved away, so that it begins anew")


def _send(scene: Scene, signum: signal.Signals) -> None:
    """To one process or, in a quarter of all cases, to all of them."""
    if scene.random.random() < 0.75:
        _send_one(scene, signum)
        return
    found = scene.processes()
    send_all(found, signum)
    scene.say(f"{signum.name} to all {len(found)}")


def _send_one(scene: Scene, signum: signal.Signals) -> None:
    process = scene.one()
    if process is not None:
        process.send(signum)
        scene.say(f"{signum.name} to {process.name}")


def _limit(process: Process, limit: int) -> bool:
    try:
        _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit if limit >= 0 else hard, hard))
    except OSError:  # it has just ended
        return False
    return True


def _read_only(scene: Scene, folder: Path) -> None:
    if not folder.is_dir():
        return
    mode, seconds = folder.stat().st_mode, 0.3 + 2.0 * scene.random.random()
    folder.chmod(0o500)
    try:
        time.sleep(seconds)
    finally:
        folder.chmod(mode)
    scene.say(f"{folder.name}/ read-only for {seconds:.1f} s")


def leave_no_process(folder: Path) -> None:
    """Raise Trouble when processes of the trial in `folder` stay behind."""
    if left := wait_until_gone(folder, PATIENCE):
        names = ", ".join(f"{process.name} ({process.pid})" for process in left)
        raise Trouble(f"processes are left behind: {names}")
