"""Stand-ins for sbatch, sinfo and squeue: they record what they are given and answer as Slurm 22.05 does."""

from __future__ import annotations

import os
from pathlib import Path

SBATCH = """#!/bin/bash
if [[ "$1" == --test-only ]]; then
  echo "sbatch: Job 4241 to start at 2026-11-22T14:48:38 using 8 processors on nodes node1 in partition gpu" >&2
  exit 0
fi
cp "$1" "$(dirname "$0")/submitted.sh"
env > "$(dirname "$0")/submitted.env"
echo "Submitted batch job 4242"
"""
REFUSING = """#!/bin/bash
if [[ "$1" == --test-only ]]; then
  echo "allocation failure: Invalid account or account/partition combination specified" >&2
else
  echo "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified" >&2
fi
exit 1
"""
SINFO = """#!/bin/bash
echo 'gpu*|3-00:00:00|1-00:00:00|0/10/0/10|gpu:h100:4(S:0-1)|96|1440000'
echo 'gpu*|3-00:00:00|1-00:00:00|0/2/0/2|gpu:a100:8|64|512000'
echo 'test|1:00:00|n/a|0/2/0/2|(null)|64|512000'
echo 'long|infinite|n/a|0/2/2/4|gpu:2|64|512000'
echo 'brief|2:00|n/a|0/2/0/2|gpu:2|64|512000'
"""
SLOW = "#!/bin/bash\nexec sleep 60\n"


def refusing(text: str) -> str:
    """An sbatch that says `text` on stderr and fails."""
    return f"#!/bin/bash\ncat >&2 <<'END'\n{text}\nEND\nexit 1\n"


def install(folder: Path, **commands: str) -> dict[str, str]:
    """Write `commands` (name -> script) into `folder`; returns the environment in which they are found first."""
    folder.mkdir(exist_ok=True)
    for name, text in commands.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
