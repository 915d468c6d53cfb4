"""The faults of a run that is a job on Slurm. `corrupt` is the same as on this machine (launch.drill.faults)."""

from __future__ import annotations

import signal

from launch.drill.scene import Scene, Trouble, fault

TARGETS = ("rank", "torchrun", "job", "supervisor", "srun")  # of a job's processes, where its node is this machine


@fault("kill", "slurm")
def kill(scene: Scene) -> None:
    """SIGKILL of the job's step; where its node is this machine, also of one process"""
    process = scene.one(*TARGETS)
    if process is not None and scene.random.random() < 0.7:
        process.send(signal.SIGKILL)
        scene.say(f"SIGKILL to {process.name}")
        return
    _slurm(scene, "scancel", "--signal=KILL", f"{_job(scene)}.0")


@fault("term", "slurm")
def term(scene: Scene) -> None:
    """scancel --signal=TERM, as a preemption does"""
    _slurm(scene, "scancel", "--signal=TERM", _job(scene))


@fault("usr2", "slurm")
def usr2(scene: Scene) -> None:
    """scancel --signal=USR2, as Slurm does before the time limit"""
    _slurm(scene, "scancel", "--signal=USR2", _job(scene))


@fault("requeue", "slurm")
def requeue(scene: Scene) -> None:
    """scontrol requeue"""
    _slurm(scene, "scontrol", "requeue", _job(scene))


@fault("cancel", "slurm")
def cancel(scene: Scene) -> None:
    """scancel; a person resumes the run"""
    _slurm(scene, "scancel", _job(scene))


def _job(scene: Scene) -> str:
    if scene.slurm is None:
        raise Trouble("is no job")
    return scene.slurm.job_id


def _slurm(scene: Scene, *words: str) -> None:
    """Run a command of Slurm's, and note what it was; its complaint too, where the job has just ended."""
    assert scene.slurm is not None
    complaint = scene.slurm.call(*words)
    scene.say(" ".join(words) + (f" ({complaint})" if complaint else ""))
