"""Crafted checkpoints and run directories, other people's files, and our own sources: nothing runs that should not."""

from __future__ import annotations

import ast
import json
import os
import pickle
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.trust import refuse_others
from tests.faults.calls import CANARY, ROOT, call, hashes
from tests.faults.test_crafted import DEEP, Payload, home, refused
from tests.launch.fake_queue import HandMade
from tests.launch.helpers import call as start
from tests.launch.helpers import write_config
from tests.train.conftest import Trial, pretend_code
from tmrc.config.errors import CheckpointError
from tmrc.config.load import load_config
from tmrc.config.rundir import RunDir

__all__ = ["home"]  # an autouse fixture

# Checkpoints


def seal(folder: Path) -> None:
    """A manifest that fits whatever is there: its hashes show damage, not who has written it."""
    from tmrc.train import durable

    (folder / durable.MANIFEST).unlink(missing_ok=True)
    durable.seal(folder)


def header(values: object, length: int | None = None) -> bytes:
    text = values.encode() if isinstance(values, str) else json.dumps(values).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text


TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def test_checkpoints(home: Path, train: Callable[..., Trial]) -> None:
    """Whatever stands in it: no code runs, and a resume ends with exit code 2 and one line, or takes another one."""
    trial = train("training.train_steps=2", "training.save_every=0.001")
    newest = max(trial.run.checkpoints.glob("step_*"))
    weights, state = newest / "model.safetensors", newest / "trainer.json"
    good, values = weights.read_bytes(), json.loads(state.read_text())
    pickled = pickle.dumps(Payload())
    tensors = [
        pickled, b"", header("{", 1 << 62), header({"a": TENSOR}, 1 << 40), header({"a": TENSOR}), header("{" * DEEP),
        header({"a": TENSOR, "b": TENSOR}) + bytes(8),
        header('{"a":%s,"a":%s}' % ((json.dumps(TENSOR),) * 2)) + bytes(8),
        header({"a": {**TENSOR, "shape": [1 << 40, 1 << 40]}}) + bytes(8), header({"a": {**TENSOR,
        "dtype": "X"}}) + bytes(8),
        header({"a": {**TENSOR, "data_offsets": [8, 0]}}) + bytes(8), header({"a": {**TENSOR,
        "shape": [-2]}}) + bytes(8),
        header({}) , header([]), header({"__metadata__": {"a": {}}}),
    ]  # fmt: skip
    for content in tensors:
        weights.write_bytes(content)
        seal(newest)
        with pytest.raises(CheckpointError) as error:
            load_all(trial.run, newest)
        assert "\n" not in str(error.value)
    weights.write_bytes(good)
    states: list[object] = [
        [], None, {}, 5, {**values, "step": "2"}, {**values, "step": float("nan")}, {**values, "step": True},
        {**values, "step": 10**400}, {**values, "extra": 1}, {**values, "scaler": 5}, {**values, "step": [2]},
        {**values, "world_size": None}, {**values, "data_fingerprint": {"a": 1}},
    ]  # fmt: skip
    texts = [json.dumps(one) for one in states] + [
        "[" * DEEP,
        '{"step": ' + "9" * 9000 + "}",
        "\0",
        pickled.decode("latin1"),
    ]
    for text in texts:
        state.write_text(text, "utf8")
        seal(newest)
        try:
            load_all(trial.run, newest)
        except CheckpointError as error:
            assert "\n" not in str(error), text[:50]
    state.write_text(json.dumps(values))
    secret = home / "secret"
    secret.write_text("not of the checkpoint")
    from tmrc.train.checkpoint import find_checkpoint

    for name in ("../../../secret", str(secret), "a/../../../../secret", "\0", "."):
        manifest = {"version": 1, "files": {name: {"bytes": secret.stat().st_size, "sha256": "0" * 64}}}
        (newest / "manifest.json").write_text(json.dumps(manifest))
        found, damaged = find_checkpoint(trial.run)
        assert (found is None or found.path != newest) and "SHA-256" not in damaged[0], damaged


def load_all(run: RunDir, path: Path) -> None:
    """Load a checkpoint as a resume does."""
    from tmrc.model.build import build_model
    from tmrc.train.checkpoint import Checkpoint, load_model, load_state

    step = int(path.name.removeprefix("step_"))
    load_state(Checkpoint(path, step))
    load_model(Checkpoint(path, step), build_model(load_config(run.config)))


# Run directories

JUNK = {
    "deep": b"[" * DEEP + b"\n", "object": b'{"a":' * DEEP + b"\n", "number": b'{"step": ' + b"9" * 9000 + b"}\n",
    "nan": b'{"event": "started", "step": NaN, "time": Infinity, "attempt": -Infinity, "loss": NaN}\n',
    "types": b'{"event": [], "step": {}, "time": "x", "attempt": "1", "host": 5, "pid": "x", "logs": [5]}\n',
    "escapes": b'{"event": "failed", "cause": "\\u001b]0;\\u0007\\n\\u202e", "message": "\\u001b", "attempt": 1}\n',
    "surrogate": b'{"event": "failed", "cause": "\\udcff", "host": "\\ud800", "time": 1, "attempt": 1}\n',
    "binary": bytes(range(256)) * 100, "pickle": pickle.dumps(Payload()), "null": b"null\n", "list": b"[1]\n",
    "paths": b'{"host": "h", "pid": 1, "started": 1, "logs": ["/dev/zero", "\\u0000"], "log_offset": -5}\n',
    "twice": b'{"event": "started", "event": "finished", "time": 1, "time": -1e308, "step": 1, "step": 2}\n' * 3,
    "huge": b'{"event": "started", "time": 1e308, "attempt": 1e308, "step": 9007199254740993, "tokens": 1e308}\n' * 3,
}  # fmt: skip
FILES = (
    "run.json", "events.jsonl", "metrics.jsonl", "cancel.json", "attempts/1/owner.json", "attempts/1/job.json",
    "attempts/1/spent.json", "attempts/1/rank_0.json", "attempts/1/rank_0.pid", "attempts/1/node_0.json", "data.json",
    "ledger.bin", "allowed.json", "wandb/sender.json",
)  # fmt: skip
LOOKS = (["status"], ["report"], ["report", "--json"], ["logs"])


def look_at(run: Path, label: str) -> None:
    before = hashes(run)
    for line in LOOKS:
        said = call("tmrc", *line, str(run))
        assert said.problems() == [] and said.code in (0, 2), (label, line, said)
    assert call("tmrc", "status", str(run.parent)).problems() == [], label
    assert hashes(run) == before, label
    said = call("tmrc-submit", "--dry-run", "--local", "--resume", str(run))
    assert said.problems() == [] and said.code in (0, 2), (label, said)


def test_the_files_of_a_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(home))
    for number, (label, junk) in enumerate(JUNK.items()):
        run = HandMade(home / f"artifacts{number}").submitted("7").began(1, None).trains().ended()
        pretend_code(RunDir(run.path))
        write_config(home)
        (run.path / "config.yaml").write_text((home / "toy.yaml").read_text())
        for name in FILES:
            file = run.path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            before = file.read_bytes() if file.exists() else None
            file.write_bytes(junk)
            if name in FILES[:7]:  # each by itself where most is read of it; all together at the end
                said = call("tmrc", "status", str(run.path))
                assert said.problems() == [] and said.code in (0, 2), (label, name, said)
            if number % 2 and before is not None:
                file.write_bytes(before)
        look_at(run.path, label)


def test_the_record_of_a_sweep(home: Path) -> None:
    config = write_config(home)
    said = call("tmrc-submit", "-m", "--dry-run", "--local", "--json", str(config), "optimizer.lr=1,2")
    assert said.code == 0, said
    folder = Path(json.loads(said.out)["sweep_dir"])
    folder.mkdir(parents=True)
    point = {"run_id": "../../x", "identity": "a", "overrides": ["optimizer.lr=1"]}
    records = [*JUNK.values(), json.dumps({"points": [point], "commands": [], "fixed": [], "swept": []}).encode()]
    for junk in records:
        (folder / "sweep.json").write_bytes(junk)
        refused(call("tmrc-submit", "-m", "--dry-run", "--local", str(config), "optimizer.lr=1,2"), "sweep.json")
        for line in (["status"], ["report"]):
            assert call("tmrc", *line, str(folder)).problems() == []


# Whose files

PICKLES = ("submitit/1_submitted.pkl", "submitit/1_0_result.pkl", "submitit/anything.pkl")


def test_what_others_can_write_is_not_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_config(home, training={"train_steps": 4})
    done = start("--local", "--json", config)
    run = RunDir(Path(done.json["run_dir"]))
    refuse_others(run)
    modes = {path: path.stat().st_mode & 0o777 for path in [run.path, *run.path.rglob("*")]}
    assert not [path for path, mode in modes.items() if mode & 0o002] and modes[run.submitit] == 0o700
    package = run.code / "launch"
    for path, mode in (
        (run.path, 0o777), (run.code, 0o757), (package, 0o777), (package / "job.py", 0o666), (run.config, 0o666),
        (run.submitit, 0o770), (run.submitit, 0o707),
    ):  # fmt: skip
        path.chmod(mode)
        before = hashes(run.path)
        resume = ("--local", "--resume", str(run.path), "training.train_steps=8")
        refused(call("tmrc-submit", "--dry-run", *resume), "others may write")
        if path == run.code:  # a process of its own, since a submission locks the run until it ends
            done = start(*resume)
            assert done.code == 2 and "others may write" in done.err
        assert hashes(run.path) == before
        path.chmod(modes[path])
    if os.geteuid() == 0:
        for path in (run.path, package / "job.py", run.submitit, run.config):
            os.chown(path, 12345, -1)
            refused(call("tmrc-submit", "--dry-run", *resume), "another user")
            os.chown(path, 0, -1)
    for name in PICKLES:
        (run.path / name).write_bytes(pickle.dumps(Payload()))
    done = start("--local", "--resume", str(run.path), "training.train_steps=8")
    assert done.code == 0, done.err  # and no pickle was loaded: see the fixture


def test_what_a_group_may_write_in_a_checkout_is_its_own_in_a_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    from launch import code

    package = home / "package"
    shutil.copytree(ROOT / "tmrc/config", package / "config", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (package, *package.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    monkeypatch.setattr(code, "PACKAGES", (package,))
    code.copy_code(home / "code")
    assert {path.stat().st_mode & 0o022 for path in [home / "code", *(home / "code").rglob("*")]} == {0}


SHADOWS = ("tmrc", "launch", "torch", "yaml", "json", "sitecustomize", "usercustomize", "click", "numpy", "submitit")


def test_the_working_directory_is_not_imported_from(home: Path) -> None:
    """Neither by the commands, as they are installed, nor by the job that they start."""
    config = write_config(home, training={"train_steps": 3})
    folder = home / "shadows"
    folder.mkdir()
    for name in SHADOWS:
        (folder / f"{name}.py").write_text(f"open({str(home / CANARY)!r}, 'w')\n")
    (folder / "evil.pth").write_text(f"import os; os.system('touch {home / CANARY}')\n")
    program = folder.parent / "tmrc-submit"
    program.write_text("from tests.launch.standin.submit import main\nmain('tests.launch.standin.train')\n")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(program), "--local", str(config)],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


# Our own sources

DANGEROUS = re.compile(
    r"\b(pickle|cloudpickle|marshal|shelve|dill)\b|torch\.load|weights_only|\beval\(|\bexec\(|yaml\.(load|unsafe|full)"
    r"|shell=True|os\.system|os\.popen|__import__|import_module|runpy|DelayedSubmission|allow_pickle|np\.load|getoutput|pkgutil"
)
ALLOWED_USES = {
    ("launch/cli/main.py", "import_module"): "names from a table in the same file",
    ("tmrc/config/registry.py", "import_module"): "names of the files in our own package",
    ("tmrc/data/store.py", "import_module"): "one name, written out",
    ("tmrc/train/offline_log.py", "import_module"): "two names, written out",
    ("launch/comeback.py", "DelayedSubmission"): "a job's own pickle, in a directory that launch.trust has looked at",
    ("launch/job.py", "DelayedSubmission"): "made, not loaded",
    ("tmrc/config/yaml_file.py", "yaml.load"): "with a loader that is SafeLoader's child",
    ("tmrc/data/metadata.py", "yaml.load"): "with SafeLoader, after check_nesting",
    ("launch/report/settings.py", "yaml.load"): "with SafeLoader, after check_nesting",
    ("tmrc/train/evaluate.py", "eval("): "a module's mode",
    ("tmrc/train/generate.py", "eval("): "a module's mode",
    ("launch/slurm.py", "pickle"): "names of files that are written, not read",
    ("launch/comeback.py", "pickle"): "the name of that file",
}


def dangerous_uses() -> set[tuple[str, str]]:
    """(file, word) of all that could run code of another's choosing, outside of comments, docstrings and regexes."""
    found = set()
    for file in [*(ROOT / "launch").rglob("*.py"), *(ROOT / "tmrc").rglob("*.py")]:
        tree = ast.parse(file.read_text("utf8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call | ast.Import | ast.ImportFrom | ast.keyword | ast.Name):
                text = ast.unparse(node).split("\n")[0]
                text = re.sub(r"(?<!^)'[^']*'", "''", text)
                found |= {(str(file.relative_to(ROOT)), match[0]) for match in DANGEROUS.finditer(text)}
    return found


def test_no_new_way_to_run_code_from_files() -> None:
    assert dangerous_uses() <= set(ALLOWED_USES), dangerous_uses() - set(ALLOWED_USES)
    for file in ("tmrc/data/metadata.py", "launch/report/settings.py", "tmrc/config/yaml_file.py"):
        assert not re.search(r"yaml\.(Loader|FullLoader|UnsafeLoader|CLoader)\b", (ROOT / file).read_text())
