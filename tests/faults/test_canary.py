"""Canaries for secrets: planted in all places from which a run could take one, and looked for in all that it writes."""

from __future__ import annotations

import base64
import json
import subprocess
import urllib.parse
from pathlib import Path

import pytest

from launch.rundirs import git_state
from launch.settings import load_settings
from tests.launch.helpers import REAL, Started, call, write_config
from tmrc.config.errors import ConfigError
from tmrc.config.secrets import looks_secret, redacted, secrets_in

CANARIES = {
    "WANDB_API_KEY": "c1" * 20, "HF_TOKEN": "hf_CanaryTwoCanaryTwoCanaryTwo22",
    "AWS_SECRET_ACCESS_KEY": "canary/three+3AbCdEfGhIj",
    "GITHUB_TOKEN": "ghp_CanaryFourCanaryFourCanaryFour44", "SLURM_JWT": "canary5.jwt5.token5",
    "MY_PASSWORD": "canary-six-6-password",
    "http_proxy": "http://user:canary7proxy7@127.0.0.1:9", "SSH_AUTH_SOCK": "/nowhere/canary8.sock",
    "PLAIN_CANARY": "canary-nine-99",
}  # fmt: skip
WORDS = [value if "://" not in value else "canary7proxy7" for value in CANARIES.values()]


def forms(word: str) -> list[bytes]:
    """A secret as it might be written."""
    raw = word.encode()
    encoded = [base64.b64encode(bytes(lead) + raw)[4:-4] for lead in range(3)]
    return [raw, raw[::-1], urllib.parse.quote(word, safe="").encode(), raw.hex().encode(), *encoded]


def found(*folders: Path) -> list[str]:
    """Where below `folders` a canary stands."""
    looked_for = [(word, form) for word in WORDS for form in forms(word)]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return [f"{path}: {word}" for path in files for word, form in looked_for if form in path.read_bytes()]


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    for number, form in enumerate(forms(WORDS[2])):
        (tmp_path / "file").write_bytes(b"before " + form + b" after")
        assert found(tmp_path), number
    (tmp_path / "file").write_bytes(base64.b64encode(b"some text, " + WORDS[3].encode() + b", and more"))
    assert found(tmp_path)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)


def test_a_run_that_finishes_is_tracked_offline_and_told_of(tmp_path: Path, planted: None) -> None:
    config = write_config(tmp_path, wandb_log={"mode": "offline"}, training={"train_steps": 3})
    done = call("--local", "--json", config, module=REAL, env={"WANDB_MODE": "offline"})
    assert done.code == 0, done.err
    run = Path(done.json["run_dir"])
    assert list(run.glob("wandb/*run-*/*.wandb"))
    told = call(
        "report",
        run,
        "-o",
        tmp_path / "report.html",
        "--csv",
        tmp_path / "report.csv",
        "--json",
        module="launch.cli.main",
    )
    assert told.code == 0, told.err
    crashed = call("--local", config, 'wandb_log.tags=["crash=it is broken"]')
    assert crashed.code == 1
    forget_environments(tmp_path)
    (tmp_path / "said").write_text(done.out + done.err + told.out + told.err + crashed.out + crashed.err)
    assert found(tmp_path) == []


def forget_environments(folder: Path) -> None:
    """Remove what the trainer's stand-in writes for other tests: its environment. It has the secrets, as it must."""
    for file in (folder / "artifacts").rglob("rank_*.env"):
        assert WORDS[0] in file.read_text()
        file.unlink()


@pytest.mark.campaign
def test_runs_that_fail_or_are_interrupted_and_a_sweep(tmp_path: Path, planted: None) -> None:
    config = write_config(tmp_path, training={"train_steps": 40})
    words = [call("--local", config, 'wandb_log.tags=["crash=it is broken"]').err]
    words.append(call("--dry-run", config).out)
    words.append(call("-m", "--local", "--json", config, "optimizer.lr=1e-4,2e-4", "training.train_steps=2").out)
    started = Started(
        config, 'wandb_log.tags=["step_seconds=0.1"]', f"training.artifacts_path={tmp_path / 'artifacts/other'}"
    )
    started.artifacts = tmp_path / "artifacts/other"
    started.wait_for_step(2)
    started.interrupt()
    words.append(started.end().err)
    forget_environments(tmp_path)
    (tmp_path / "said").write_text("\n".join(words))
    assert found(tmp_path) == []


def test_a_secret_in_a_configuration_is_refused(tmp_path: Path, planted: None) -> None:
    config = write_config(tmp_path)
    texts = [
        f"launch.setup=['export WANDB_API_KEY={WORDS[0]}']", f"wandb_log.name={WORDS[5]}",
        f"wandb_log.tags=[{WORDS[1]}]",
        "launch.setup=['export MY_TOKEN=never-seen-before-1']", "launch.setup=['git clone https://me:passw0rd@host/x']",
        "datasets.name=AKIAABCDEFGHIJKLMNOP", f"launch.sbatch={{comment: {WORDS[5]}}}",
        f"training.artifacts_path=x{WORDS[5]}",
    ]  # fmt: skip
    for text in texts:
        with pytest.raises(ConfigError, match="looks like a secret") as error:
            load_settings(config, [text], {})
        assert not any(word in str(error.value) for word in WORDS)
    refused = call("--local", config, texts[1])
    assert refused.code == 2 and "looks like a secret" in refused.err and not (tmp_path / "artifacts").exists()
    refused = call("-m", "--local", config, f"wandb_log.group=a,{WORDS[5]}")
    assert refused.code == 2 and not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize(
    "text",
    ["module load cuda/12.4", "export OMP_NUM_THREADS=8", "export TOKENIZERS_PARALLELISM=false",
    "source ~/.secrets/token.sh",
     "export WANDB_API_KEY=$(cat ~/.wandb)", "export HF_TOKEN=$TOKEN", "export KEY_FILE=/home/me/.ssh/id_ed25519",
     "https://host/path:8080", "meta-llama/Llama-3-8B", "file:///a:b@c"],
)  # fmt: skip
def test_what_is_no_secret_passes(text: str) -> None:
    assert not looks_secret(text, []) and redacted(text, []) == text


def test_what_of_an_environment_is_secret() -> None:
    environ = {
        **CANARIES,
        "XDG_KEY": "short",
        "SSH_KEY": "/home/me/.ssh/id",
        "EDITOR_KEYMAP": "emacs",
        "NAME": "x" * 30,
    }
    known = secrets_in(environ)
    assert set(known) == {word for word in WORDS if "canary8" not in word and "nine" not in word}
    assert redacted(f"a {WORDS[0]} b {WORDS[0]}", known) == "a *** b ***"


def test_git_tells_of_changes_but_not_of_secrets(
    tmp_path: Path, planted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The remote's address is never asked for; what is uncommitted is kept without what looks secret."""
    from launch import rundirs

    package = tmp_path / "tmrc"
    package.mkdir()
    (package / "__init__.py").write_text("a = 1\n")
    monkeypatch.setattr(rundirs, "PACKAGES", (package,))
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (
        ["init", "-q"],
        ["remote", "add", "origin", f"https://me:{WORDS[3]}@host/x"],
        ["add", "."],
        ["commit", "-qm", "a"],
    ):
        subprocess.run([*git, *words], check=True)
    (package / "__init__.py").write_text(f"a = 2\nkey = '{WORDS[5]}'\nother = 'ghp_NotInTheEnvironment1234567890'\n")
    state = git_state(tmp_path)
    assert state is not None and "+a = 2" in state["diff"] and "***" in state["diff"]
    text = json.dumps(state)
    assert not any(word in text for word in [*WORDS, "ghp_Not"])
