"""Stand-ins for sbatch, srun and sinfo: they record what they are given; srun runs the task here."""

from __future__ import annotations

import os
from pathlib import Path

SBATCH = """#!/bin/bash
cp "$1" "$(dirname "$0")/submitted.sh"
echo "Submitted batch job 4242"
"""
REFUSING = """#!/bin/bash
echo "sbatch: error: Invalid account or account/partition combination specified" >&2
exit 1
"""
SRUN = """#!/bin/bash
while [[ "$1" == -* ]]; do
  if [[ "$1" == --output ]]; then out=$2; shift; fi
  shift
done
out=${out//%j/$SLURM_JOB_ID}
exec "$@" >> "${out//%t/0}" 2>&1
"""
SINFO = """#!/bin/bash
echo 'gpu*|3-00:00:00|10|gpu:h100:4(S:0-1)'
echo 'gpu*|3-00:00:00|2|gpu:a100:8'
echo 'test|1:00:00|2|(null)'
echo 'long|infinite|4|gpu:2'
"""
JOB = {
    "SLURM_JOB_ID": "4242", "SLURM_JOB_NUM_NODES": "1", "SLURM_NTASKS": "1", "SLURM_NODEID": "0",
    "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_NODELIST": "here",
}  # fmt: skip


def install(folder: Path, **commands: str) -> dict[str, str]:
    """Write `commands` (name -> script) into `folder`; returns the environment in which they are found first."""
    folder.mkdir(exist_ok=True)
    for name, text in commands.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
