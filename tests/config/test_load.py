"""The configuration as users meet it: files, overrides, defaults lists, and one-line refusals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tmrc.config.errors import ConfigError
from tmrc.config.load import config_dict, load_config, packaged_configs, write_config
from tmrc.config.schema import Config

SEED = Path(__file__).parents[2] / "configs" / "train" / "default.yaml"


def write(folder: Path, text: str, name: str = "cfg.yaml") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def refusal(file: Path | str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(file, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_seed_document_loads_unchanged() -> None:
    config = load_config(SEED)
    given = yaml.safe_load(SEED.read_text())
    loaded = config_dict(config)
    for section, values in given.items():
        for key, value in values.items():
            expected = float(value) if key == "eps" else value  # plain YAML takes 1e-8 for text
            assert loaded[section][key] == expected, f"{section}.{key}"


def test_a_packaged_configuration_is_found_by_name() -> None:
    assert load_config("default") == load_config(SEED)
    assert {"default", "quickstart"} <= set(packaged_configs())


def test_every_packaged_configuration_is_valid() -> None:
    for file in packaged_configs().values():
        load_config(file, ["datasets.path=data"])


def test_overrides_reach_their_keys_with_their_types() -> None:
    config = load_config(
        SEED,
        [
            "training.batch_size=8",
            "optimizer.lr=3e-4",
            "model.flex=false",
            "model.mask=causal",
            "optimizer.betas=[0.8,0.95]",
        ]
        + ["launch.warning=300", "launch.python=apptainer exec --nv image.sif python", "training.hang_timeout=90"]
        + ["launch.time=1:30:00", "+launch.exclude=node1,node2", "wandb_log.tags=[a, b]", "~training.save_every"],
    )
    assert config.training.batch_size == 8
    assert config.optimizer.lr == 3e-4
    assert config.model.flex is False
    assert config.optimizer.betas == (0.8, 0.95)
    assert config.launch.time == "1:30:00"  # not 5,400, as YAML 1.1 would have it
    assert config.launch.exclude == "node1,node2"
    assert config.launch.warning == 300
    assert config.launch.python == "apptainer exec --nv image.sif python"
    assert config.training.hang_timeout == 90
    assert load_config(SEED).launch.warning == "auto"
    assert config.wandb_log.tags == ["a", "b"]
    assert config.training.save_every == Config().training.save_every


def test_heads_too_narrow_for_a_gpu_are_refused_where_one_is_asked_for() -> None:
    narrow = ["model.n_head=64", "training.device=cuda"]
    assert "heads of width 8" in refusal(SEED, *narrow)
    assert load_config(SEED, ["model.n_head=64", "training.device=cpu"]).model.n_head == 64
    assert load_config(SEED, [*narrow, "model.flex=false", "model.mask=causal"]).model.n_head == 64


def test_paths_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    config = load_config(SEED, ["datasets.path=data", "training.artifacts_path=~/runs"])
    assert config.datasets.path == str(tmp_path / "data")
    assert config.training.artifacts_path == "/home/someone/runs"


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("model.n_haed=4", ["model.n_haed", "unknown", "'n_head'"]),
        ("modle.n_head=4", ["modle", "unknown", "'model'"]),
        ("training.save_every=1e300", ["training.save_every", "1e+300", "a number below 1e+300"]),
        ("training.save_every=-.inf", ["training.save_every", "-inf", "a number above 0"]),
        ("model.n_head=four", ["model.n_head", "'four'", "an integer of at least 1"]),
        ("model.n_head=4.0", ["model.n_head", "4.0", "an integer"]),
        ("model.n_head=true", ["model.n_head", "True", "an integer"]),
        ("model.n_head=0", ["model.n_head", "0", "at least 1"]),
        ("model.n_head=3", ["model.n_head", "3", "divisor of d_model 512"]),
        ("model.dropout_p=1.0", ["model.dropout_p", "1.0", "below 1"]),
        ("model.flex=1", ["model.flex", "1", "true or false"]),
        ("model.activation=swoosh", ["model.activation", "'swoosh'", "gelu", "relu"]),
        ("model.mask=causl", ["model.mask", "'causl'", "did you mean 'causal'"]),
        ("model.name=gtp", ["model.name", "'gtp'", "gpt"]),
        ("optimizer.name=adamw", ["optimizer.name", "'adamw'", "AdamW"]),
        ("training.scheduler=cosin", ["training.scheduler", "'cosin'", "constant, cosine, linear, wsd"]),
        ("model.autocast_precision=fp8", ["model.autocast_precision", "'fp8'", "float32, float16 or bfloat16"]),
        ("optimizer.precision=float16", ["optimizer.precision", "'float16'", "bfloat16"]),
        ("optimizer.lr=0", ["optimizer.lr", "0", "above 0"]),
        ("optimizer.lr=.nan", ["optimizer.lr", "nan", "a number"]),
        ("optimizer.betas=[0.9]", ["optimizer.betas", "[0.9]", "2 numbers"]),
        ("optimizer.betas=[0.9, 1.0]", ["optimizer.betas", "below 1"]),
        ("training.micro_batch_size=7", ["training.micro_batch_size", "7", "divisor of training.batch_size 256"]),
        ("training.device=gpu", ["training.device", "'gpu'", "auto, cuda or cpu"]),
        ("training.keep_checkpoints=1", ["training.keep_checkpoints", "1", "at least 2"]),
        ("training.hang_timeout=-1", ["training.hang_timeout", "-1", "at least 0"]),
        ("training.hang_timeout=1e9", ["training.hang_timeout", "at most 604800"]),
        ("launch.warning=0", ["launch.warning", "0", "an integer of at least 1", "65535", "auto"]),
        ("launch.warning=soon", ["launch.warning", "'soon'", "auto"]),
        ("launch.warning=70000", ["launch.warning", "70000", "at most 65535"]),
        ('launch.python="python3\\nrm"', ["launch.python", "control characters"]),
        ('launch.python="\\e[2Jpython3"', ["launch.python", "control characters"]),
        ("launch.python=' '", ["launch.python", "words that start Python"]),
        ("launch.python=[python3]", ["launch.python", "['python3']", "a text or null"]),
        ("model.flash=true", ["model.flash", "model.flex"]),
        ("model.flex=false", ["model.mask", "causal_document", "flex"]),
        ("tokenizer.name=gpt2", ["tokenizer.name", "'gpt2'", "'t5-base'"]),
        ("HydraConf.version_base='0.9'", ["HydraConf.version_base", "'0.9'", "1.1"]),
        ("datasets.eos_token=99999", ["datasets.eos_token", "99999", "32128"]),
        ("training.warmup_steps=200000", ["training.warmup_steps", "200000", "100000"]),
        ("training=5", ["training", "5", "section"]),
        ("model.n_head=[1", ["model.n_head", "command line"]),
        ("model.n_head", ["'model.n_head'", "key=value"]),
        ("model.n_head.deep=1", ["model.n_head"]),
        ("model._target_=os.system", ["_target_", "unknown"]),
        ("datasets.path=${oc.env:WANDB_API_KEY}", ["datasets.path", "WANDB_API_KEY", "secret"]),
        ("datasets.path=${oc.decode:1}", ["datasets.path", "oc.env"]),
        ("datasets.path=${oc.env:${tokenizer.name}}", ["datasets.path", "oc.env"]),
        ("datasets.path=${nothing.here}", ["datasets.path", "nothing"]),
        ("datasets.path=", ["datasets.path", "a path"]),
        ("~model.n_haed", ["model.n_haed", "'n_head'"]),
        ("~modle", ["modle", "'model'"]),
        ("datasets.path=~nobody-of-that-name/x", ["datasets.path"]),
        ("model.d_model=100000000003", ["model.n_head", "divisor"]),
    ],
)
def test_a_wrong_value_is_one_line_with_key_and_remedy(override: str, parts: list[str]) -> None:
    message = refusal(SEED, override)
    assert message.startswith(("command line: ", f"{SEED}: ", "'model.n_head'"))
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("model:\n  n_head: 4\n  n_head: 8\n", ["line 3", "'n_head'", "twice"]),
        ("model: [1, 2\n", ["line 2"]),
        ("- a\n- b\n", ["sections"]),
        ("model: !!python/object/apply:os.system ['true']\n", ["line 1", "python"]),
        ("datasets: {path: x}\nmodel: 5\n", ["model", "5", "section"]),
        ("model: {n_head: 4}\n", ["datasets.path", "not given"]),
        ("? [a, b]\n: 1\n", ["line 1", "plain text"]),
        ("datasets: {path: " + "x" * 20_000 + "}\n", ["20,000 characters"]),
        ("#" * 1_000_001, ["bytes"]),
        ("\0", ["not valid YAML"]),
        ("launch: {setup: &a [*a]}\n", ["line 1", "aliases"]),
        ("model: {n_layer: !!int ''}\n", ["not valid YAML"]),
        ("wandb_log: {name: env, group: '${oc.${wandb_log.name}:HOME}'}\n", ["within another"]),
        ("defaults: ['${oc.env:MY_SECRET}', _self_]\n", ["MY_SECRET", "secret"]),
        ("defaults: 5\n", ["defaults"]),
        ("defaults: [cfg]\n", ["defaults"]),
    ],
)
def test_a_broken_file_is_one_line_naming_the_file(tmp_path: Path, text: str, parts: list[str]) -> None:
    message = refusal(write(tmp_path, text))
    for part in ["cfg.yaml", *parts]:
        assert part in message, message


def test_missing_and_unreadable_files_are_named(tmp_path: Path) -> None:
    assert "quickstart" in refusal("quickstrat")
    assert "not a file" in refusal(tmp_path)
    for impossible in ("x" * 300, "y" * 100_000, "nul\0"):
        assert len(refusal(impossible)) < 500
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\xfa")
    assert "UTF-8" in refusal(tmp_path / "bytes.yaml")


def test_defaults_lists_compose(tmp_path: Path) -> None:
    write(tmp_path, "defaults: [base, _self_]\nmodel: {n_layer: 2}\n", "cfg.yaml")
    write(tmp_path, "datasets: {path: /data}\nmodel: {n_layer: 12, n_head: 8}\n", "base.yaml")
    config = load_config(tmp_path / "cfg.yaml", ["training.seed=7"])
    assert (config.model.n_layer, config.model.n_head, config.training.seed) == (2, 8, 7)


def test_defaults_lists_find_packaged_configurations_and_groups(tmp_path: Path) -> None:
    (tmp_path / "optimizer").mkdir()
    write(tmp_path, "lr: 0.5\n", "optimizer/fast.yaml")
    write(tmp_path, "lr: 0.25\n", "optimizer/slow.yaml")
    file = write(tmp_path, "defaults: [default, optimizer: fast, _self_]\ntraining: {batch_size: 4}\n")
    assert load_config(file).optimizer.lr == 0.5
    assert load_config(file).model == load_config("default").model
    assert load_config(file, ["optimizer=slow"]).optimizer.lr == 0.25


def test_version_base_is_hydras(tmp_path: Path) -> None:
    """Without `_self_`, Hydra 1.1 and later put this file's own values last only under their version base."""
    write(tmp_path, "datasets: {path: /data}\nmodel: {n_layer: 12}\n", "base.yaml")
    file = write(tmp_path, "defaults: [base]\nmodel: {n_layer: 2}\nHydraConf: {version_base: '1.1'}\n")
    assert load_config(file).model.n_layer == 2
    old = write(tmp_path, "defaults: [base]\nHydraConf: {version_base: '0.8'}\n", "old.yaml")
    assert "version_base" in refusal(old)


def test_a_missing_default_is_one_line(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "defaults: [quikstart]\n"))
    assert "no 'quikstart' beside it; did you mean 'quickstart'?; packaged: default" in message


def test_a_key_twice_in_a_default_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "model: {n_layer: 12, n_layer: 13}\n", "base.yaml")
    write(tmp_path, "not: [of, any: concern\n", "neighbour.yaml")
    assert "base.yaml: line 1 key 'n_layer' stands twice" in refusal(write(tmp_path, "defaults: [base, _self_]\n"))


def test_interpolation_of_keys_and_plain_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    monkeypatch.setenv("TOKENIZER_DIR", "/tok")
    file = write(
        tmp_path,
        "datasets: {path: '${oc.env:SCRATCH}/data', name: '${oc.env:TOKENIZER_DIR}'}\n"
        "tokenizer: {name: '${oc.env:NOT_SET, t5}'}\ntraining: {micro_batch_size: '${training.batch_size}'}\n",
    )
    config = load_config(file, ["training.batch_size=32"])
    assert (config.datasets.path, config.datasets.name) == ("/scratch/me/data", "/tok")
    assert (config.tokenizer.name, config.training.micro_batch_size) == ("t5", 32)


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS", "HF_TOKEN", "my_password", "ApiKey", "GOOGLE_CREDENTIALS"])
def test_no_secret_is_read_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "canary")
    message = refusal(write(tmp_path, f"datasets: {{path: 'x${{oc.env:{name}}}'}}\n"))
    assert name in message
    assert "canary" not in message


def test_an_environment_variable_that_is_not_set_is_named(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "datasets: {path: '${oc.env:TMRC_TEST_UNSET}'}\n"))
    assert "the environment variable TMRC_TEST_UNSET is not set" in message


def test_what_is_written_loads_back_equal(tmp_path: Path) -> None:
    config = load_config(SEED, ["wandb_log.tags=['1e5', 'no', 'é']", "launch.time='30'", "optimizer.eps=1e-12"])
    write_config(config, tmp_path / "out.yaml")
    assert load_config(tmp_path / "out.yaml") == config
    assert json.loads(json.dumps(config_dict(config))) == config_dict(config)


@settings(deadline=None, max_examples=50)
@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20), st.lists, max_leaves=4)
)
def test_any_value_loads_or_is_refused_in_one_line(value: object) -> None:
    for section in dataclasses.fields(Config):
        for key in ("name", "lr", "betas", "n_head", "flex", "tags", "path"):
            try:
                load_config(SEED, [f"{section.name}.{key}={json.dumps(value)}"])
            except ConfigError as error:
                assert "\n" not in str(error)
