"""The folders of runs: the kind of each, and what it holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError

from jackpot_sim.diagnose.report.records import REPORT
from jackpot_sim.diagnose.results import Diagnosis
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.folders import MANIFEST
from jackpot_sim.studies.kinds import Kind, kind_of_folder
from jackpot_sim.training import conduct
from jackpot_sim.training.records import OUTCOMES


def latest() -> Path:
    """The folder below runs/ that was begun last.

    Raises:
        StudyError: there is none.
    """
    found = [path for path in Path("runs").glob(f"*/{MANIFEST}") if path.is_file()]
    if not found:
        raise StudyError("there is no run below runs/: name the folder of one, as in runs/default-1234abcd")
    return max(found, key=lambda path: (path.stat().st_mtime_ns, str(path))).parent


def kind_of(root: Path) -> Kind:
    """The kind of a folder.

    Raises:
        StudyError: it holds no run of any kind.
    """
    path = root / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StudyError(
            f"{root} holds no run: {path} cannot be read ({error.strerror}); give the folder that a sweep, a study of "
            "training or `diagnose --out` wrote, and to `diagnose` that of rollouts"
        ) from error
    except ValueError as error:
        raise StudyError(f"{path} is damaged: run the command that wrote it once more") from error
    kind = kind_of_folder(content) if isinstance(content, dict) else None
    if kind is None:
        raise StudyError(f"{path} is not the manifest of a run: give the folder that a command wrote")
    return kind


def of_training(root: Path) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]:
    """The manifest of a study of training, the rows of its steps and its outcomes.

    Raises:
        StudyError: the study is not finished, or its records cannot be read.
    """
    about = conduct.manifest(root)
    try:
        steps, outcomes = conduct.load(root)
        steps[["setting", "method", "seed", "step"]], outcomes[OUTCOMES.names]
    except (KeyError, ValueError) as error:  # a column that is not there; a file that is no Parquet
        if isinstance(error, StudyError):
            raise
        raise StudyError(f"{root} holds records that cannot be read: run the study again") from error
    return about, steps, outcomes


def of_diagnosis(root: Path) -> Diagnosis:
    """A diagnosis.

    Raises:
        StudyError: it is missing, damaged or of another version.
    """
    path = root / REPORT
    try:
        return Diagnosis.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise StudyError(f"{path} is missing, damaged or of another version: make the diagnosis anew") from error
