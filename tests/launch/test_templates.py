"""The templates that come with tmrc: each loads, renders and passes a dry run against a cluster like its site's."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import pytest

from launch.templates import load_template
from tests.launch.fake_slurm import SBATCH, install
from tests.launch.helpers import REAL, ROOT, Done, call, write_config
from tmrc.config.schema import LaunchConfig
from tmrc.config.yaml_file import parse_yaml

SITE = """#!/bin/bash
echo 'gpu*|3-00:00:00|n/a|0/10/0/10|gpu:h100:4(S:0-1)|96|1440000'
echo 'kempner_h100|2-00:00:00|n/a|0/24/0/24|gpu:nvidia_h100_80gb_hbm3:4(S:0-7)|96|1547259'
echo 'kempner_requeue|7-00:00:00|n/a|0/24/0/24|gpu:nvidia_h100_80gb_hbm3:4(S:0-7)|96|1547259'
echo 'kempner_requeue|7-00:00:00|n/a|0/36/0/36|gpu:nvidia_a100-sxm4-40gb:4(S:0-3)|64|1031497'
"""
TEMPLATES = sorted(file.stem for file in (ROOT / "slurm_templates").glob("*.yaml"))


def dry_run(tmp_path: Path, name: str, *arguments: str) -> Done:
    env = install(tmp_path / "bin", sbatch=SBATCH, sinfo=SITE)
    if name == "apptainer":
        image = tmp_path / "tmrc.sif"
        image.touch()
        arguments = (*arguments, f"launch.python=apptainer exec --nv --bind /data {image} python")
    gpu = ["training.device=auto", "training.batch_size=8"]
    return call("--dry-run", "--template", name, write_config(tmp_path), *gpu, *arguments, module=REAL, env=env)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("nodes", ["1", "2"])
def test_a_template_passes_a_dry_run(tmp_path: Path, name: str, nodes: str) -> None:
    done = dry_run(tmp_path, name, "-N", nodes)
    assert (done.code, done.err) == (0, "")
    script = done.out[done.out.index("#!/bin/bash") :]
    assert f"#SBATCH --nodes={nodes}\n" in script and "#SBATCH --gpus-per-node=1\n" in script
    for line in load_template(name, tmp_path).get("setup", []):
        assert f"\n{line}\n" in script


def test_the_kempner_templates_ask_for_what_a_gpu_may_have(tmp_path: Path) -> None:
    for name, days in (("kempner_h100", 2), ("kempner_requeue", 7)):
        script = dry_run(tmp_path, name, "-G", "4").out
        for line in (f"--partition={name}", f"--time={days}-00:00:00", "--cpus-per-gpu=24", "--mem-per-gpu=360G"):
            assert f"#SBATCH {line}\n" in script
        assert ("--constraint=h100" in script) == (name == "kempner_requeue")


def test_what_is_said_of_the_node_replaces_what_is_said_of_a_gpu(tmp_path: Path) -> None:
    script = dry_run(tmp_path, "kempner_requeue", "-C", "[a100|h100]", "-c", "16", "--mem", "240G").out
    assert "--constraint='[a100|h100]'\n" in script and "--cpus-per-task=16\n" in script and "--mem=240G\n" in script
    assert "-per-gpu" not in script
    cpu = dry_run(tmp_path, "kempner_h100", "-G", "0")
    assert cpu.code == 0 and "gpu" not in cpu.out.replace("gpu\n", "").split("#!/bin/bash")[1].split("# a signal")[0]


def test_an_image_that_is_not_there_is_refused(tmp_path: Path) -> None:
    env = install(tmp_path / "bin", sbatch=SBATCH, sinfo=SITE)
    done = call(
        "--dry-run", "--template", "apptainer", write_config(tmp_path), "training.device=auto", module=REAL, env=env
    )
    assert (done.code, done.err) == (2, "error: launch.python: /scratch/my_lab/images/tmrc.sif: no such file\n")
    words = shlex.split(load_template("apptainer", tmp_path)["python"])
    assert words[0] == "apptainer" and words[-1] == "python"


def test_the_page_names_every_template_and_keys_that_there_are() -> None:
    page = (ROOT / "docs/slurm.md").read_text()
    listed = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `") and "`" in line[3:]}
    assert set(TEMPLATES) <= listed
    shown = (ROOT / "docs/launching.md").read_text().split("```yaml\nlaunch:\n")[1].split("```")[0]
    keys = parse_yaml(shown, "docs/launching.md")
    assert set(keys) <= {field.name for field in dataclasses.fields(LaunchConfig)} and keys["warning"] == "auto"
