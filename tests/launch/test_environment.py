from __future__ import annotations

from launch.environment import clean_environment, user_defaults

OUTER = {
    "SLURM_JOB_ID": "1", "SLURM_CPU_BIND": "quiet,mask_cpu:0x1", "SLURM_MEM_PER_CPU": "100", "SRUN_CPUS_PER_TASK": "1",
    "SLURMD_NODENAME": "n1", "SUBMITIT_EXECUTOR": "slurm", "PMI_RANK": "0", "PMIX_RANK": "0", "PET_NNODES": "2",
    "TORCHELASTIC_RUN_ID": "x", "TMRC_ATTEMPT": "3", "RANK": "0", "LOCAL_RANK": "0", "MASTER_PORT": "29500",
    "CUDA_VISIBLE_DEVICES": "0", "SLURM_CLUSTERS": "other", "SINFO_PARTITION": "other", "SQUEUE_FORMAT": "%i",
}  # fmt: skip
STAYS = {
    "SLURM_CONF": "/etc/slurm.conf", "SLURM_JWT": "token", "PATH": "/bin", "HOME": "/root", "WANDB_API_KEY": "k",
    "OMP_NUM_THREADS": "4", "RANKED": "yes", "PMICRO": "yes",
}  # fmt: skip
SCRIPT = "#!/bin/bash\n#SBATCH --partition=gpu\n#SBATCH --requeue\n# SBATCH --account=no\necho '#SBATCH --qos=no'\n"


def test_an_outer_jobs_variables_do_not_leak() -> None:
    assert clean_environment({**OUTER, **STAYS}) == STAYS


def test_the_script_wins_over_the_environment() -> None:
    users = {
        "SBATCH_PARTITION": "cpu", "SBATCH_ACCOUNT": "lab", "SBATCH_NO_REQUEUE": "1", "SBATCH_SIGNAL": "TERM@10",
        "SBATCH_ARRAY_INX": "0-9", "SBATCH_EXPORT": "NONE", "SBATCH_GPUS": "8", "SBATCH_QOS": "", "SBATCH_WAIT": "1",
    }  # fmt: skip
    assert user_defaults(users, SCRIPT) == {"SBATCH_ACCOUNT": "lab"}
    assert clean_environment({**users, **STAYS}, SCRIPT) == {**STAYS, "SBATCH_ACCOUNT": "lab"}
