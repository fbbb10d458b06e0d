"""The table of `real_model`: its actors by name, and the ways to Z at each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jackpot_sim.core import gaussian
from jackpot_sim.studies.errors import StudyError

from .style import Look

K = 20
"""The k of the paper's number."""
WAYS = {
    "top-k": ("Z_k", "$Z_k$", Look("#999999", "x")),
    "bias-corrected": ("κ·Z_k", "κ·$Z_k$", Look("#0072B2", "o")),
    "intersection-bias-corrected": ("Sparrow", "κ on the intersection (Sparrow)", Look("#CC79A7", "v")),
    "calibrated": ("bracket", "calibrated bracket", Look("#D55E00", "s")),
    "server-calibrated": ("server", "the same, actor's top-k only", Look("#009E73", "^")),
}
"""The ways to Z that are shown: their name in the table and in the figure, and their look."""


@dataclass(frozen=True)
class Measured:
    """The table of the study: a row for each actor, way to Z and k, the actor's own figures repeated in each."""

    root: Path
    ways: pd.DataFrame

    @property
    def actors(self) -> pd.DataFrame:
        """A row for each actor, in the order of the study, with its label and kind."""
        rows = self.ways.drop_duplicates("environment").reset_index(drop=True)
        environments = rows["environment"].map(json.loads)
        rows["label"], rows["kind"] = environments.map(label), environments.map(kind_of)
        rows["rejected"] = 1 - rows["overlap"]
        finite = np.isfinite(rows["kl_policy_actor"])
        rows["kl"] = rows["kl_policy_actor"].where(finite, rows["kl_actor_policy"])
        rows["expected"] = gaussian.total_variation(np.sqrt(2 * rows["kl"].to_numpy()))
        return rows


def kind_of(environment: Mapping[str, Any]) -> str:
    """The kind of the actor, that of a policy which is sampled from a nucleus being top-p."""
    return "top-p" if environment["top_p"] < 1 else str(environment["actor"]["kind"])


def label(environment: Mapping[str, Any]) -> str:
    """The label of an actor."""
    actor = environment["actor"]
    match kind_of(environment):
        case "llama-cpp":
            form = actor.get("format")
            return "llama.cpp, the file itself" if form is None else f"llama.cpp {str(form).upper()}"
        case "quantized-weights":
            return f"weights {actor['format']}"
        case "quantized-kv":
            return f"KV cache {actor['format']}"
        case "precision":
            return f"{actor['precision']} throughout"
        case "sliding-window":
            return f"attends to {actor['window']} tokens"
        case "temperature":
            return f"temperature {actor['temperature']:g}"
        case "top-p":
            return f"top-p {environment['top_p']:g}"
        case "stale":
            return f"stale {actor['steps']} steps"
        case "fewer-layers":
            return "without the last layer" if actor["layers"] == 1 else f"without {actor['layers']} layers"
        case other:
            return other


def at_k(actors: pd.DataFrame, ways: pd.DataFrame, way: str) -> pd.DataFrame:
    """The rows of a way at the paper's k, by the label of their actor.

    Raises:
        StudyError: the table has no such k.
    """
    rows = ways[(ways["k"] == K) & (ways["way"] == way)].set_index("environment")
    if rows.empty:
        raise StudyError(f"the records compare no ways to Z at k = {K}")
    return rows.loc[actors["environment"]].set_axis(pd.Index(actors["label"]))
