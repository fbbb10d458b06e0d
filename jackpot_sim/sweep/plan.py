"""From a study to its cells, and what they will cost."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jackpot_sim.environments.rollouts.hf import HuggingFace
from jackpot_sim.environments.sequences.small_lm import KL_ROLLOUTS, SmallLM
from jackpot_sim.sweep.spec import Environment, Method, Study, identity

_BUILD_TOKENS = 40
"""Building a pair and its divergences costs about as much as this many passes over it."""
_TARGET_PASSES = 25
"""Evaluations of the KL that solving a knob takes."""
_EXACT_PASSES = 40
_SECONDS_PER_TOKEN_PASS = 2.5e-9
_SECONDS_PER_DRAW = 1.5e-7

_SECONDS_TO_TRAIN = 2.0
"""A tiny language model, from its random start."""
_SECONDS_PER_PREFIX = 4e-5
"""Scoring one prefix with one model."""
_SECONDS_PER_STEP = 2.5e-7
"""One token of one enumerated sequence, for one estimator with one denominator."""
_SECONDS_PER_ROLLOUT_STEP = 1e-6
"""One token of one drawn sequence, likewise."""
_SECONDS_PER_DRAWN_STEP = 5e-6
"""Drawing one token and scoring it with one model."""


@dataclass(frozen=True)
class Cell:
    """One environment and one seed; every estimator is measured in it on the same pair."""

    env: Environment
    seed: int

    @cached_property
    def environment(self) -> str:
        """The environment as canonical JSON: what its randomness and its name depend on."""
        return json.dumps(identity(dataclasses.asdict(self.env)), sort_keys=True, default=str)

    @cached_property
    def id(self) -> str:
        """Names the cell and its shard: readable first, and unique by its digest."""
        digest = hashlib.sha256(self.environment.encode()).hexdigest()[:12]
        return f"{self.env.family}-{self.env.base_kind}-{digest}-{self.seed}"


def cells(study: Study) -> list[Cell]:
    """The cells of a study, in the order of its environments and seeds."""
    return [Cell(env, seed) for env in study.env for seed in study.seeds]


def tokens(cell: Cell) -> int | None:
    """States × vocabulary, or None where only building the environment tells, or its draws."""
    if isinstance(cell.env, SmallLM):
        return cell.env.prompts * cell.env.tree.prefixes * cell.env.vocab if cell.env.enumerable else None
    if isinstance(cell.env, HuggingFace):
        return None
    base: Any = cell.env.base
    vocab = 256 if base.kind == "ngram" else getattr(base, "vocab", None)
    states = getattr(base, "states", None)
    return None if vocab is None or states is None else int(vocab) * int(states)


def seconds(cell: Cell, study: Study) -> float | None:
    """A rough estimate of the serial seconds that a cell takes, for `--dry-run`."""
    if isinstance(cell.env, SmallLM):
        return _seconds_of_sequences(cell.env, study)
    if isinstance(cell.env, HuggingFace):
        return None
    size = tokens(cell)
    if size is None:
        return None
    passes = _BUILD_TOKENS * (_TARGET_PASSES if cell.env.target_kl is not None else 1)
    rows = len(study.estimators) * len(study.denominators)
    cost = 0.0
    if Method.EXACT in study.methods:
        passes += rows * _EXACT_PASSES
    if Method.MONTE_CARLO in study.methods:
        states = int(getattr(cell.env.base, "states", 1))
        cost += rows * states * study.replicates * 2 * study.n_samples * _SECONDS_PER_DRAW
    return cost + size * passes * _SECONDS_PER_TOKEN_PASS


def _seconds_of_sequences(env: SmallLM, study: Study) -> float:
    """The same for small language models."""
    rows = len(study.estimators) * len(study.denominators)
    rollouts = study.replicates * study.n_samples * env.length * env.prompts
    passes = _TARGET_PASSES if env.target_kl is not None else 0
    measured = rollouts * _SECONDS_PER_ROLLOUT_STEP
    if not env.enumerable:
        steps = 4 * rollouts + passes * KL_ROLLOUTS * env.length * env.prompts
        return _SECONDS_TO_TRAIN + steps * _SECONDS_PER_DRAWN_STEP + rows * measured
    measured = measured if Method.MONTE_CARLO in study.methods else 0.0
    if Method.EXACT in study.methods:
        measured += env.prompts * env.tree.sequences_count * env.length * _SECONDS_PER_STEP
    return _SECONDS_TO_TRAIN + env.prompts * env.tree.prefixes * (2 + passes) * _SECONDS_PER_PREFIX + rows * measured
