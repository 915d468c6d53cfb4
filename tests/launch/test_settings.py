from __future__ import annotations

from pathlib import Path

import pytest

from launch.settings import ALLOWED, load_settings
from launch.templates import load_template
from tests.launch.helpers import REAL, call, write_config
from tmrc.config.errors import ConfigError

HOSTILE = ["a\nb", "a'b", 'a"b', "$(id)", "a;b", "a`b", "a\\b", "a\tb", "é", "\x00", "\udcff", "a" * 1_000_000]


@pytest.fixture(autouse=True)
def no_own_templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))


def write_template(tmp_path: Path, text: str, name: str = "site") -> None:
    (tmp_path / f"{name}.yaml").write_text(text)


def test_template_then_config_then_flags(tmp_path: Path) -> None:
    write_template(tmp_path, "partition: t\naccount: t\nmem: 1G\nnodes: 3\nsetup: [module load t]\n")
    config = write_config(tmp_path, launch={"template": "site", "account": "c", "mem": "2G", "nodes": 1})
    launch = load_settings(config, ["launch.qos=o"], {"mem": "3G", "time": None}).launch
    # nodes: 1 is the default too, and wins over the template because the file gives it
    assert (launch.partition, launch.account, launch.mem, launch.nodes, launch.qos) == ("t", "c", "3G", 1, "o")
    assert launch.setup == ["module load t"]


def test_the_command_lines_unset_options_hide_nothing(tmp_path: Path) -> None:
    write_template(tmp_path, "partition: fromtemplate\naccount: fromtemplate\n")
    config = write_config(tmp_path, launch={"template": "site", "partition": "fromconfig"})
    for options in ([], ["--template", "site"]):
        script = call("--dry-run", *options, config, module=REAL).out
        assert "--partition=fromconfig\n" in script and "--account=fromtemplate\n" in script
    assert "--partition=option\n" in call("--dry-run", "-p", "option", config, module=REAL).out


def test_the_flag_chooses_the_template_over_the_file(tmp_path: Path) -> None:
    write_template(tmp_path, "partition: one", "one")
    write_template(tmp_path, "partition: two", "two")
    config = write_config(tmp_path, launch={"template": "one"})
    assert load_settings(config, [], {}).launch.partition == "one"
    assert load_settings(config, ["launch.template=two"], {}).launch.partition == "two"
    assert load_settings(config, [], {"template": str(tmp_path / "two.yaml")}).launch.partition == "two"


def test_templates_are_found_beside_the_config_then_in_the_users_folder_then_in_the_package(tmp_path: Path) -> None:
    assert load_template("generic", tmp_path)["gpus_per_node"] == 1
    own = tmp_path / "settings" / "tmrc" / "templates"
    own.mkdir(parents=True)
    (own / "generic.yaml").write_text("gpus_per_node: 2")
    assert load_template("generic", tmp_path) == {"gpus_per_node": 2}
    write_template(tmp_path, "gpus_per_node: 3", "generic")
    assert load_template("generic", tmp_path) == {"gpus_per_node": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partiton: gpu", "unknown key 'partiton'; did you mean 'partition'?"),
        ("nodes: many", "nodes: got 'many', valid: an integer of at least 1"),
        ("template: other", "a template cannot name another one"),
    ],
)
def test_a_bad_template_is_refused(tmp_path: Path, text: str, message: str) -> None:
    write_template(tmp_path, text)
    with pytest.raises(ConfigError, match=r"site.yaml: ") as error:
        load_settings(write_config(tmp_path, launch={"template": "site"}), [], {})
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["genric", "../generic", "no/such.yaml", "a\nb", "x" * 100_000])
def test_a_missing_template_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="template") as error:
        load_settings(write_config(tmp_path), [], {"template": name})
    assert len(str(error.value)) < 300
    if name == "genric":
        assert "did you mean 'generic'?" in str(error.value)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_hostile_text_is_refused_in_every_setting(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_settings(write_config(tmp_path), [], {name: text})
    assert f"launch.{name}" in str(error.value) or "command line" in str(error.value)
    assert len(str(error.value)) < 500 and "\n" not in str(error.value)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_refused_in_sbatch_parameters(tmp_path: Path, text: str) -> None:
    for section in ({"comment": text}, {text: "x"}):
        with pytest.raises(ConfigError):
            load_settings(write_config(tmp_path, launch={"sbatch": section}), [], {})


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"sbatch": {"wrap": "id"}}, "launch.sbatch.wrap: the launcher sets it"),
        ({"sbatch": {"partition": "gpu"}}, "launch.sbatch.partition: use launch.partition"),
        ({"sbatch": {"Comment": "x"}}, "valid: a long sbatch option"),
        ({"setup": ["a\nb"]}, "launch.setup: got"),
        ({"setup": ["#SBATCH --wrap=id"]}, "no #SBATCH line"),
        ({"setup": [" #PBS -l x"]}, "#PBS or #BSUB, which sbatch reads too"),
        ({"setup": ["#BSUB -n 2"]}, "#PBS or #BSUB, which sbatch reads too"),
        ({"setup": ["echo a \\"]}, "one whole shell command a line"),
    ],
)
def test_what_may_not_be_set(tmp_path: Path, section: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match="launch") as error:
        load_settings(write_config(tmp_path, launch=section), [], {})
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("partition", "gpu,gpu_requeue"),
        ("account", "kempner_lab"),
        ("mem", "360G"),
        ("time", "2-00:00:00"),
        ("time", "30"),
        ("constraint", "h100&[rack1*2|rack2]"),
        ("exclude", "node[1-3,7],other-9"),
    ],
)
def test_what_slurm_users_write_passes(tmp_path: Path, name: str, text: str) -> None:
    assert getattr(load_settings(write_config(tmp_path), [], {name: text}).launch, name) == text
