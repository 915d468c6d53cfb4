"""Which run or sweep is meant: a directory, an id, or the beginning of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tmrc.config.errors import UserError, nearest, shown
from tmrc.config.rundir import RunDir

ARTIFACTS = Path("artifacts")  # the default of training.artifacts_path


def find_run(name: str, artifacts: Path = ARTIFACTS, option: str = "") -> RunDir:
    """The run that `name` is the directory of, or the id of, whole or its beginning if no other run's begins so.

    Ids are looked up in `artifacts` and in the working directory, and in the sweeps there. Raises UserError, whose line
    begins with `option`.
    """
    return RunDir(_readable(name, option, lambda: _find(name, artifacts, option, sweeps=False)))


def find_runs(names: Sequence[str], artifacts: Path = ARTIFACTS) -> list[RunDir]:
    """The runs that `names` mean, each once: a run, a sweep (all its points), or a directory of runs.

    Raises UserError for the first name that means none of them.
    """
    found = [run for name in names for run in find_target(name, artifacts).runs()]
    return list({run.path: run for run in found}.values())


@dataclass(frozen=True)
class Target:
    """What a name means: one run, or a directory with many (a sweep, or one that holds runs)."""

    path: Path

    @property
    def is_sweep(self) -> bool:
        return is_sweep(self.path)

    @property
    def run(self) -> RunDir | None:
        """The run; None where many are meant."""
        return RunDir(self.path) if _may_be_run(self.path) and not self.is_sweep else None

    def runs(self) -> list[RunDir]:
        """The run, or all of the directory's. Raises UserError when it cannot be read."""
        if self.run:
            return [self.run]
        return [RunDir(path) for path in _points_of(self.path)] if self.is_sweep else runs_in(self.path)


def find_target(name: str, artifacts: Path = ARTIFACTS) -> Target:
    """The run, the sweep or the directory of runs that `name` means. Raises UserError."""

    def find() -> Path:
        folder = Path(name)
        if name and folder.is_dir() and not _may_be_run(folder):
            return folder.resolve()
        return _find(name, artifacts, "", sweeps=True)

    return Target(_readable(name, "", find))


def runs_in(folder: Path) -> list[RunDir]:
    """The runs directly below `folder` and those of the sweeps there, by name. Raises UserError for no directory."""
    try:
        return [RunDir(path) for path in _runs_below(folder.resolve())]
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror or error}") from None


def is_run(path: Path) -> bool:
    """Whether `path` is a run's directory, even a damaged one. run.json is the last file that is made."""
    return (path / "run.json").is_file() or (path / "events.jsonl").is_file()


def is_sweep(path: Path) -> bool:
    """Whether `path` is the directory of a sweep."""
    return (path / "sweep.json").is_file()


def default_folder() -> Path:
    """Where runs are when nothing is said: `artifacts`, or the working directory. Raises UserError without either."""
    if ARTIFACTS.is_dir():
        return ARTIFACTS
    if runs_in(Path()):
        return Path()
    raise UserError(
        f"no directory {str(ARTIFACTS)!r} here: name a run, or the directory of runs (training.artifacts_path)"
    )


def _readable(name: str, option: str, find: Callable[[], Path]) -> Path:
    """What `find` finds. Raises UserError for a name that no path has, or a directory that cannot be read."""
    try:
        return find()
    except ValueError:  # a NUL byte
        raise UserError(f"{option}{shown(name)} is no run directory") from None
    except OSError as error:
        raise UserError(f"{option}{shown(name)}: cannot be read: {error.strerror or error}") from None


def _may_be_run(path: Path) -> bool:
    """A run, or a copy of which only the part that is wanted is left."""
    return is_run(path) or (path / "metrics.jsonl").is_file() or (path / "checkpoints").is_dir()


def _runs_below(folder: Path) -> list[Path]:
    found = []
    for path in sorted(folder.iterdir()):
        if is_run(path):
            found.append(path)
        elif is_sweep(path):
            found += _points_of(path)
    return found


def _points_of(sweep: Path) -> list[Path]:
    return [path for path in sorted(sweep.iterdir()) if is_run(path)]


def _find(name: str, artifacts: Path, option: str, sweeps: bool) -> Path:
    given = Path(name)
    if name and (_may_be_run(given) or (sweeps and is_sweep(given))):
        return given.resolve()
    roots = [given.parent] if "/" in name else [artifacts, Path()]
    known = {path.name: path for root in reversed(roots) if root.is_dir() for path in _named(root, sweeps)}
    if given.name in known:
        return known[given.name].resolve()
    begin = sorted(run_id for run_id in known if given.name and run_id.startswith(given.name))
    begin = [one for one in begin if known[one].parent.name not in begin]  # a sweep, and not its points as well
    if len(begin) == 1:
        return known[begin[0]].resolve()
    if not sweeps and any(is_sweep(root / given.name) for root in roots):
        raise UserError(f"{option}{shown(name)} is a sweep; name one of its runs, such as {', '.join(begin[:3])}")
    if begin:
        more = ", ..." if len(begin) > 5 else ""
        raise UserError(f"{option}{shown(name)} is the beginning of {len(begin)} runs: {', '.join(begin[:5])}{more}")
    if name and given.is_dir():
        what = "a sweep's; name one of its runs" if is_sweep(given) else "a directory, but not a run's"
        raise UserError(f"{option}{shown(name)} is {what}")
    where = " or ".join(dict.fromkeys(str(root) for root in roots))
    elsewhere = "" if "/" in name else "; a run elsewhere is named by its directory"
    close = nearest(given.name, known) or elsewhere
    raise UserError(f"{option}{shown(name)} is no run directory and no run in {where}{close}")


def _named(root: Path, sweeps: bool) -> list[Path]:
    """What in `root` can be meant by an id."""
    return _runs_below(root) + [path for path in root.iterdir() if sweeps and is_sweep(path)]
