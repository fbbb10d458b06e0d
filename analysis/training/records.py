"""The records of a study of training: of all its runs, or of those that are finished so far."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from jackpot_sim.studies.errors import StudyError
from jackpot_sim.training import conduct, records
from jackpot_sim.training.loop.run import STEPS
from jackpot_sim.training.records import KEYS, OUTCOMES
from jackpot_sim.training.study import name_of_run

from .. import asked

SHOWN = ("accuracy", "mean_at_k", "pass_at_k", "kl_policy_actor", "distillation_weight", "rejected_budget")
"""The columns that figures show; records of other versions may lack some of the others."""


Training: TypeAlias = Mapping[str, Any]
"""The configuration of a run as its manifest holds it; other versions may have other fields."""


@dataclass(frozen=True)
class Trained:
    """The records of a study."""

    root: Path
    steps: pd.DataFrame
    outcomes: pd.DataFrame
    grid: Mapping[str, Mapping[str, Training]]
    """The configuration of every setting and method."""
    quick: bool = False
    """True for the quick version, which shows the look of a figure and decides nothing."""

    @property
    def settings(self) -> list[str]:
        """The settings, in the order of the study."""
        return list(dict.fromkeys(self.outcomes["setting"]))

    @property
    def methods(self) -> list[str]:
        """The methods of all settings, in the order of the study."""
        return list(dict.fromkeys(self.outcomes["method"]))

    @property
    def seeds(self) -> int:
        """The number of seeds."""
        return int(self.outcomes["seed"].nunique())

    @property
    def about(self) -> str:
        """Task, models, steps and seeds in words, for the foot of a figure."""
        config = {"grid": self.grid, "seeds": sorted(set(self.outcomes["seed"]))}
        words = asked.sentence(asked.of_training(config), without=("settings", "methods"))
        return f"{words}; a quick look" if self.quick else words

    def asked(self, setting: str, method: str) -> int:
        """The number of steps in the configuration of these runs, however early they ended."""
        return int(self.grid[setting][method]["steps"])

    def of(self, *settings: str) -> Trained:
        """The records of these settings alone."""
        steps, outcomes = (each[each["setting"].isin(settings)] for each in (self.steps, self.outcomes))
        return Trained(self.root, steps, outcomes, {name: self.grid[name] for name in settings}, self.quick)

    def need(self, methods: Iterable[str], settings: Iterable[str] | None = None) -> None:
        """Refuses records in which one of these methods is missing from a setting.

        Args:
            methods: the methods that a figure compares.
            settings: the settings that need them; None: any setting is enough.

        Raises:
            StudyError: a method is missing; the message names the first.
        """
        trained = set(zip(self.outcomes["setting"], self.outcomes["method"], strict=True))
        for method in methods:
            for setting in settings or ():
                if (setting, method) not in trained:
                    raise StudyError(f"{self.root} lacks {method} in setting {setting}: give a study that has both")
            if method not in self.methods:
                raise StudyError(
                    f"{self.root} lacks the method {method} (it has {', '.join(self.methods)}): "
                    "give a study that has it, or none for the records that ship with the figure"
                )


def of_folder(root: Path, quick: bool = False) -> Trained:
    """The records in a folder.

    Raises:
        StudyError: the folder holds no finished study, or other files.
    """
    try:
        steps, outcomes = (table.copy(deep=False) for table in _tables(root.resolve(), *_stamps(root)))
    except ValueError as error:  # of pyarrow, for a file that is not Parquet
        raise _unreadable(root) from error
    return _checked(root, steps, outcomes, quick)


@functools.cache
def _tables(root: Path, *_: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The steps and the outcomes of a study, read once: three figures and the verdicts show the factorial."""
    return conduct.load(root)


def _stamps(root: Path) -> Iterator[int]:
    """The times and sizes of a study's files, which tell them from later ones in the same place."""
    for path in (root / STEPS, root / conduct.OUTCOMES):
        if path.is_file():
            yield from (path.stat().st_mtime_ns, path.stat().st_size)


def so_far(root: Path) -> tuple[Trained, int]:
    """The records of the finished runs of a study that need not be finished, and the number of runs asked for.

    Raises:
        StudyError: the folder holds no study of training, no run is finished, or records cannot be read.
    """
    runs = planned(root, conduct.manifest(root))
    if (root / conduct.OUTCOMES).exists():
        trained = of_folder(root)
        return trained, max(len(runs), len(trained.outcomes))
    steps, outcomes = [], []
    try:
        for run, of_run in runs.items():
            path = root / "runs" / name_of_run(*run) / STEPS
            if path.exists():
                table, reason = records.read(path)
                steps.append(table.to_pandas())
                outcomes.append(records.outcome(table, reason, of_run))
    except (ValueError, KeyError, OSError) as error:
        raise _unreadable(root) from error
    if not outcomes:
        raise StudyError(f"{root}: none of the {len(runs)} runs is finished yet; the command that began it goes on")
    return _checked(root, pd.concat(steps, ignore_index=True), pd.DataFrame(outcomes), quick=False), len(runs)


def planned(root: Path, manifest: Mapping[str, Any]) -> dict[tuple[str, str, int], int]:
    """The steps asked of each run of the manifest in a folder, by setting, method and seed.

    Raises:
        StudyError: the manifest is that of another version, or damaged.
    """
    untold = f"{root / conduct.MANIFEST} does not say what was to be trained: it is damaged, or too old"
    try:
        config = manifest["config"]
        runs = {
            (setting, method, int(seed)): int(training["steps"])
            for setting, methods in config["grid"].items()
            for method, training in methods.items()
            for seed in config["seeds"]
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StudyError(untold) from error
    if not runs:
        raise StudyError(untold)
    return runs


def _unreadable(root: Path) -> StudyError:
    return StudyError(f"{root} holds records that cannot be read: run the study again")


def _checked(root: Path, steps: pd.DataFrame, outcomes: pd.DataFrame, quick: bool) -> Trained:
    grid = conduct.manifest(root)["config"].get("grid")
    lacking = ({*KEYS.names, *SHOWN} - {*steps.columns}) | ({*OUTCOMES.names} - {*outcomes.columns})
    if lacking or outcomes.empty or not _describes(grid, outcomes):
        reason = f"they lack {min(lacking)}" if lacking else "their manifest is that of another study"
        raise StudyError(f"{root} does not hold the records of a study of training: {reason}")
    return Trained(root, steps, outcomes, grid, quick)


def _describes(grid: Mapping[str, Mapping[str, Training]], outcomes: pd.DataFrame) -> bool:
    """True where the grid of a manifest has the number of steps of each run."""
    runs = {*zip(outcomes["setting"], outcomes["method"], strict=True)}
    try:
        return all(int(grid[setting][method]["steps"]) > 0 for setting, method in runs)
    except (KeyError, TypeError, ValueError):
        return False
