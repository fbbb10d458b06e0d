"""The kinds of studies: what tells their configurations and their folders, and the command for each.

No command can import another, and a user may give any one another's file or folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jackpot_sim.studies.errors import StudyError


@dataclass(frozen=True)
class Kind:
    """A kind of study."""

    noun: str
    """The name of its folder in sentences."""
    module: str
    """The module of its command."""
    fields: frozenset[str]
    """The fields of its configurations that the other kind does not have."""
    reading: str
    """The clause that says how the folder `{root}` is read."""


SWEEP = Kind(
    "run",
    "jackpot_sim.sweep",
    frozenset({"env", "estimators", "denominators", "n_samples", "replicates", "normalizers", "best_thresholds"}),
    "a run of `python -m jackpot_sim.sweep`, which `jackpot-sim analysis {root}` reads",
)
TRAINING = Kind(
    "study",
    "jackpot_sim.training",
    frozenset(
        {"task", "policy", "actor", "correction", "budget", "steps", "rollout", "update", "evaluation", "settings"}
        | {"quick", "precision", "mixed_precision", "overlap", "device", "checkpoint_every", "checkpoint_minutes"}
        | {"stop_after_collapse"}
    ),
    "a study of training, of which `python -m jackpot_sim.report {root}` shows the table",
)
DIAGNOSIS = Kind(
    "diagnosis",
    "jackpot_sim.diagnose",
    frozenset(),
    "a diagnosis of `python -m jackpot_sim.diagnose`, which `jackpot-sim analysis {root}` reads",
)


def kind_of_folder(manifest: Mapping[str, object]) -> Kind | None:
    """The kind of the study whose manifest this is; None for anything else."""
    if isinstance(manifest.get("cells"), list):
        return SWEEP
    if isinstance(manifest.get("diagnosis"), Mapping):
        return DIAGNOSIS
    config = manifest.get("config")
    return TRAINING if isinstance(config, Mapping) and "grid" in config else None


def require_kind(kind: Kind, path: Path, configuration: Mapping[str, object]) -> None:
    """Refuses a configuration of the other kind.

    Args:
        kind: the kind whose command was given the file.
        path: the file.
        configuration: its contents.

    Raises:
        StudyError: the file has fields of the other kind, and none that this kind alone has.
    """
    other = TRAINING if kind is SWEEP else SWEEP
    theirs = [name for name in configuration if name in other.fields]
    if theirs and not kind.fields & configuration.keys():
        raise StudyError(
            f"config {path} has {theirs[0]}, which is a field of another kind of study: "
            f"run `python -m {other.module} --config {path}`"
        )
