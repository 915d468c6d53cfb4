"""A run's place at Weights & Biases: one id, one curve, and what is sent besides it.

How far the curve has come is asked of the place itself, the server or the files of earlier attempts, and is written
down nowhere else. So a process may be killed at any moment: the next one sends what is lacking there.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from tmrc.config.load import config_dict
from tmrc.config.rundir import EXIT_FINISHED, EXIT_WANTS_REQUEUE, RunDir
from tmrc.config.schema import Config, WandbConfig
from tmrc.train.curve import Curve, validated_steps
from tmrc.train.offline_log import next_step

Mode = Literal["online", "offline", "disabled"]
INIT_SECONDS = 30.0
ANSWER_SECONDS = 5.0
# Of the job: wandb would send all SLURM_* (a token among them, SLURM_JWT). And what would make another run of this one.
_NOT_FOR_WANDB = re.compile(r"(SLURM|SBATCH|SRUN|SUBMITIT|TORCHELASTIC|TMRC)|WANDB_(RUN_ID|RESUME|SWEEP_ID|SERVICE)$")


@dataclass
class Place:
    """An open run of wandb's, and the curve that goes there."""

    tracked: Any  # wandb.Run
    online: bool
    first: int  # the first step that is lacking there
    curve: Curve
    last: int = -1  # the last step that has been sent from here
    sent: int = 0  # steps that have been sent from here
    _told: dict[str, float] = field(default_factory=dict)

    @property
    def url(self) -> str | None:
        """Where the run is to be seen."""
        return self.tracked.url if self.online else None

    def send(self, ended: bool, alive: Callable[[], None] = lambda: None) -> None:
        """Send the steps that are complete. `ended`: no rows will follow."""
        for point in self.curve.points(ended):
            if point.step < self.first:
                continue
            when = {} if point.time is None else {"_timestamp": point.time}
            self.tracked.log({**point.values, **when}, step=point.step, commit=True)
            self.last, self.sent = point.step, self.sent + 1
            if self.sent % 1000 == 0:
                alive()

    def summarize(self, values: dict[str, float]) -> None:
        """Set summary values, where they have changed."""
        if values != self._told:
            self.tracked.summary.update(values)
            self._told = values

    def finish(self, exit_code: int) -> None:
        """End it: 0 finished; 75 preempted, which wandb does not show as an end; else failed. Waits for the upload."""
        self.curve.close()
        if exit_code == EXIT_WANTS_REQUEUE:
            self.tracked.mark_preempting()
        self.tracked.finish(exit_code=exit_code)


def open_place(run: RunDir, config: Config, mode: Mode, folder: Path | None = None, **settings: Any) -> Place:
    """The run at wandb, made or continued; wandb's files go into `folder`. Raises what wandb raises."""
    import wandb

    wandb_log = config.wandb_log
    tracked = wandb.init(
        mode=mode,
        project=wandb_log.name,
        entity=wandb_log.entity,
        group=wandb_log.group,
        job_type=wandb_log.job_type,
        tags=wandb_log.tags or None,
        id=run.run_id,
        name=run.run_id,
        dir=str(folder or run.path),
        config=shown_config(run, config),
        resume="allow" if mode == "online" else None,
        settings=_settings(settings),
    )
    online = mode == "online"
    first = int(tracked.starting_step or 0) if online else next_step(run.wandb)
    return Place(tracked, online, first, Curve(run.metrics, validated_steps(run, config.training)))


def _settings(more: dict[str, Any]) -> Any:
    """wandb's settings: nothing of the code, the console or the git repository. Those a version lacks are left out."""
    import wandb

    wanted = {
        "init_timeout": INIT_SECONDS,
        "console": "off",
        "disable_git": True,
        "disable_code": True,
        "save_code": False,
        **more,
    }
    return wandb.Settings(**{name: wanted[name] for name in wanted if name in wandb.Settings.model_fields})


def shown_config(run: RunDir, config: Config) -> dict[str, Any]:
    """The run's configuration, and for a point of a sweep what it varies."""
    shown = config_dict(config)
    try:
        sweep = json.loads(run.run_json.read_bytes())["sweep"]
        shown["sweep"] = {"id": str(sweep["id"]), "overrides": " ".join(map(str, sweep["overrides"]))}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return shown


def forget_the_job() -> None:
    """Take out of this process's environment what wandb is not to know, or would take for its own."""
    for name in [name for name in os.environ if _NOT_FOR_WANDB.match(name)]:
        del os.environ[name]
    # At its end it would look for the server that takes its own errors, and wait where a node has no way out.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")


def choose_mode(config: WandbConfig) -> Mode:
    """`auto` is WANDB_MODE where it is set, else online with a login and offline without."""
    if config.mode != "auto":
        return config.mode
    asked = os.environ.get("WANDB_MODE")
    if asked in ("online", "offline", "disabled"):
        return cast(Mode, asked)
    return "online" if logged_in() else "offline"


def logged_in() -> bool:
    """Whether there is a login: an API key or a token in the environment, or in the home directory. Asks no server."""
    import wandb

    with contextlib.redirect_stderr(io.StringIO()):
        try:
            with _silent(wandb.setup().settings):
                return bool(wandb.login(prompt=False, verify=False))
        except TypeError:  # of an earlier version
            return bool(wandb.api.api_key)
        except Exception:  # a key that cannot be one, or a server's address
            return False


@contextlib.contextmanager
def _silent(settings: Any) -> Iterator[None]:
    """Within, wandb greets nobody: it would ask the server for the name, and wait for it."""
    before, settings.silent = settings.silent, True
    try:
        yield
    finally:
        settings.silent = before


def require_answer() -> None:
    """Raises OSError where no server answers, sooner than wandb would notice."""
    import wandb

    url = wandb.setup().settings.base_url
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_SECONDS):
            return
    except urllib.error.HTTPError:
        return  # it is there
    except (OSError, ValueError) as error:
        raise OSError(f"{url} does not answer ({error})") from None


def start_anew() -> None:
    """End wandb's own process, which keeps the id of a run that could not be made: "run ID is in use"."""
    import wandb

    with contextlib.suppress(Exception):
        wandb.teardown()


def goodput_summary(run: RunDir) -> dict[str, float]:
    """Where the run's time has gone, in seconds, and the share of it that was training."""
    try:
        from tmrc.config.goodput import account

        spent = account(run)
        shares = {} if spent.goodput is None else {"goodput/share": spent.goodput}
        return {**{f"goodput/{bucket}": seconds for bucket, seconds in spent.seconds.items()}, **shares}
    except Exception:  # it is no reason to lose the curve
        return {}


def said_exit_code(word: str) -> int | None:
    """The exit code of a run that has ended in this way: finished, stopped; None for anything else."""
    return {"finished": EXIT_FINISHED, "stopped": EXIT_WANTS_REQUEUE}.get(word)
