"""Which run is meant: a directory, a run id, or the beginning of one."""

from __future__ import annotations

from pathlib import Path

from tmrc.config.errors import UserError, nearest, shown
from tmrc.config.rundir import RunDir

ARTIFACTS = Path("artifacts")  # the default of training.artifacts_path


def find_run(name: str, artifacts: Path = ARTIFACTS, option: str = "") -> RunDir:
    """The run that `name` is the directory of, or the id of, whole or its beginning if no other run's begins so.

    Ids are looked up in `artifacts` and in the working directory. Raises UserError, whose line begins with `option`.
    """
    try:
        return _find(name, artifacts, option)
    except ValueError:  # a NUL byte
        raise UserError(f"{option}{shown(name)} is no run directory") from None
    except OSError as error:
        raise UserError(f"{option}{shown(name)}: cannot be read: {error.strerror or error}") from None


def runs_in(folder: Path) -> list[RunDir]:
    """The runs directly below `folder`, by name. Raises UserError when it cannot be read."""
    try:
        return [RunDir(path) for path in sorted(folder.resolve().iterdir()) if is_run(path)]
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror or error}") from None


def is_run(path: Path) -> bool:
    """Whether `path` is a run's directory, even a damaged one. run.json is the last file that is made."""
    return (path / "run.json").is_file() or (path / "events.jsonl").is_file()


def default_folder() -> Path:
    """Where runs are when nothing is said: `artifacts`, or the working directory. Raises UserError without either."""
    if ARTIFACTS.is_dir():
        return ARTIFACTS
    if runs_in(Path()):
        return Path()
    raise UserError(
        f"no directory {str(ARTIFACTS)!r} here: name a run, or the directory of runs (training.artifacts_path)"
    )


def _find(name: str, artifacts: Path, option: str) -> RunDir:
    given = Path(name)
    # What is named as a directory may be a copy of which only the part that is wanted is left.
    if name and (is_run(given) or (given / "metrics.jsonl").is_file() or (given / "checkpoints").is_dir()):
        return RunDir(given.resolve())
    roots = [given.parent] if "/" in name else [artifacts, Path()]
    known = {path.name: path for root in reversed(roots) if root.is_dir() for path in root.iterdir() if is_run(path)}
    if given.name in known:
        return RunDir(known[given.name].resolve())
    begin = sorted(run_id for run_id in known if given.name and run_id.startswith(given.name))
    if len(begin) == 1:
        return RunDir(known[begin[0]].resolve())
    if begin:
        more = ", ..." if len(begin) > 5 else ""
        raise UserError(f"{option}{shown(name)} is the beginning of {len(begin)} runs: {', '.join(begin[:5])}{more}")
    if name and given.is_dir():
        raise UserError(f"{option}{shown(name)} is a directory, but not a run's")
    where = " or ".join(dict.fromkeys(str(root) for root in roots))
    elsewhere = "" if "/" in name else "; a run elsewhere is named by its directory"
    close = nearest(given.name, known) or elsewhere
    raise UserError(f"{option}{shown(name)} is no run directory and no run in {where}{close}")
