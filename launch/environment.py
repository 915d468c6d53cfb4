"""What a command of Slurm's, and the job that sbatch starts, get to see of the environment.

Whoever submits from inside a job (an interactive session, a notebook) has that job's variables around, and sbatch
passes them on: CPU binding, ranks, ports. And sbatch lets SBATCH_* win over the lines of the script, which would make
the script that `--dry-run` prints a lie.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

# Of the job around us: what would mislead the job inside it, and queries about it
_FOREIGN = re.compile(
    r"^(SLURM|SLURMD|SRUN|SALLOC|SBATCH|SUBMITIT|TORCHELASTIC|PET|PMI|PMI2|PMIX|TMRC|SINFO|SQUEUE|SACCT|SCONTROL|SCANCEL)_"
    r"|^((LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|MASTER_(ADDR|PORT))$"
)
_DEVICES = ("CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")  # of the outer job, but the ranks' own within it
# Not of a job: which cluster, and who asks
KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT")
# A user's own defaults that hold where the script has no such line (sbatch's parameter -> its variable)
DEFAULTS = {
    "account": "SBATCH_ACCOUNT", "partition": "SBATCH_PARTITION", "qos": "SBATCH_QOS", "time": "SBATCH_TIMELIMIT",
    "constraint": "SBATCH_CONSTRAINT", "reservation": "SBATCH_RESERVATION", "wckey": "SBATCH_WCKEY",
}  # fmt: skip


def clean_environment(environ: Mapping[str, str], script: str = "") -> dict[str, str]:
    """`environ` for sbatch with `script`, and for queries: without an outer job's variables.

    Of SBATCH_*, only defaults that no line of the script decides are left.
    """
    defaults = user_defaults(environ, script)
    return {
        name: value
        for name, value in environ.items()
        if name in KEPT or name in defaults or not (foreign(name) or name in _DEVICES)
    }


def foreign(name: str) -> bool:
    """Whether the variable belongs to a job around torchrun or around us: CPU binding, ranks, torchrun's options."""
    return _FOREIGN.match(name) is not None


def user_defaults(environ: Mapping[str, str], script: str) -> dict[str, str]:
    """The SBATCH_* variables that decide what `script` leaves open."""
    decided = set(re.findall(r"^#SBATCH --([a-z-]+)", script, re.MULTILINE))
    names = (name for parameter, name in DEFAULTS.items() if parameter not in decided)
    return {name: environ[name] for name in names if environ.get(name)}
