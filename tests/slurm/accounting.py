"""slurmdbd and the database behind it, so that sacct answers."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from tests.slurm.processes import kill_daemon
from tests.slurm.settings import Layout, Options

TABLES = Path("/usr/share/mysql/mysql_system_tables.sql")
SMALL = [
    "--skip-grant-tables",
    "--innodb-log-file-size=8M",
    "--innodb-buffer-pool-size=32M",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-flush-method=nosync",
    "--innodb-doublewrite=0",
    "--innodb-lock-wait-timeout=900",  # slurmdbd asks for it
    "--performance-schema=OFF",
]


def start(layout: Layout, options: Options) -> None:
    """Start both and register the cluster; with `enforce` also the account `lab` and the QoS `long`."""
    root = layout.root
    server = [
        "mariadbd",
        "--no-defaults",
        f"--datadir={root}/sql",
        "--user=root",
        *SMALL,
        f"--log-error={root}/log/sql.log",
    ]
    (root / "sql").mkdir()
    tables = f"create database mysql;\nuse mysql;\n{TABLES.read_text()}"
    subprocess.run([*server, "--bootstrap"], input=tables, text=True, capture_output=True, check=True, timeout=60)
    place = [
        f"--port={layout.sql}",
        "--bind-address=127.0.0.1",
        f"--socket={root}/sql.sock",
        f"--pid-file={root}/pid/sql.pid",
    ]
    quiet = subprocess.DEVNULL
    subprocess.Popen([*server, *place], stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
    _wait_for(root / "pid/sql.pid")
    file = root / "etc/slurmdbd.conf"
    file.write_text(_slurmdbd_conf(layout))
    file.chmod(0o600)
    environment = {**os.environ, "SLURM_CONF": str(layout.conf)}
    log = (root / "log/slurmdbd.out").open("ab")
    with log:
        subprocess.run(["slurmdbd"], env=environment, stdin=quiet, stdout=log, stderr=log, check=True, timeout=60)
    _wait_for(root / "pid/slurmdbd.pid")
    for words in (["cluster", layout.name], *(_associations(layout) if options.enforce else [])):
        _register(words, environment)


def stop(layout: Layout) -> None:
    """Stop both, if they run."""
    kill_daemon(layout.root / "pid/slurmdbd.pid", "slurmdbd")
    kill_daemon(layout.root / "pid/sql.pid", "mariadbd")
    shutil.rmtree(layout.root / "sql", ignore_errors=True)


def _associations(layout: Layout) -> list[list[str]]:
    return [
        ["qos", "long"],
        ["account", "lab", f"cluster={layout.name}"],
        ["user", "root", "account=lab", f"cluster={layout.name}", "qos=normal,long", "defaultqos=normal"],
    ]


def _register(words: list[str], environment: dict[str, str], patience: float = 30.0) -> None:
    """`sacctmgr add`, again until slurmdbd listens."""
    deadline = time.monotonic() + patience
    while True:
        command = ["sacctmgr", "-i", "add", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        if done.returncode == 0:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        time.sleep(0.1)


def _wait_for(file: Path, patience: float = 30.0) -> None:
    deadline = time.monotonic() + patience
    while not (file.exists() and file.read_text().strip()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{file} does not appear")
        time.sleep(0.02)


def _slurmdbd_conf(layout: Layout) -> str:
    root = layout.root
    settings = {
        "AuthType": "auth/none",
        "DbdHost": "localhost",
        "DbdAddr": "127.0.0.1",
        "DbdPort": layout.database,
        "SlurmUser": "root",
        "LogFile": root / "log/slurmdbd.log",
        "PidFile": root / "pid/slurmdbd.pid",
        "StorageType": "accounting_storage/mysql",
        "StorageHost": "127.0.0.1",
        "StoragePort": layout.sql,
        "StorageUser": "root",
        "StorageLoc": "slurm_accounting",
        "CommitDelay": 1,
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())
