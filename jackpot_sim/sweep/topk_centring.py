"""The error of centring from the actor's top-k, at the states of a study: a row for each cell, correction and k."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from jackpot_sim.core import divergences
from jackpot_sim.environments.rollouts.hf import HuggingFace
from jackpot_sim.environments.sequences.small_lm import SmallLM
from jackpot_sim.estimators.states.topk_centring import topk_errors
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.sweep.plan import cells
from jackpot_sim.sweep.rows import Row
from jackpot_sim.sweep.spec import Study


def errors(study: Study, ks: Sequence[int]) -> Iterator[Row]:
    """The relative error of h from k tokens, √(Σ‖h_k − h‖² / Σ‖h‖²) over the states of a cell, and its ingredients.

    Args:
        study: environments of states, and the corrections that are centred, by their own names.
        ks: the numbers of tokens stored.

    Raises:
        StudyError: an environment is not one of states.
        ValueError: as `topk_errors`, or an environment cannot be built.
    """
    for cell in cells(study):
        env = cell.env
        if isinstance(env, SmallLM | HuggingFace):
            raise StudyError(f"{env.kind} has no table of laws: the error of centring needs states")
        pair = env.build(cell.seed).pair
        laws = pair.policy_log_probs, pair.actor_log_probs
        kl = float(np.mean(np.asarray(divergences.kl(*laws))))
        for spec in study.estimators:
            norms, missed = topk_errors(*laws, spec.correction(), ks)
            for k, each in zip(ks, missed.T, strict=True):
                yield {
                    "environment": cell.environment,
                    "seed": cell.seed,
                    "vocab": int(laws[0].shape[1]),
                    "states": len(norms),
                    "estimator": spec.label,
                    "k": k,
                    "kl": kl,
                    "norm": math.sqrt(norms.mean()),
                    "error": math.sqrt(each.sum() / norms.sum()) if norms.sum() > 0 else math.nan,
                }
