"""Rollouts of both models, scored at every token: the laws there, and the weights of each correction."""

from __future__ import annotations

import collections
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from jackpot_sim.core import divergences
from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.core.backend import to_numpy
from jackpot_sim.core.scored import ScoredRollouts
from jackpot_sim.environments.language_models.generation import Written
from jackpot_sim.environments.randomness import keyed_generator
from jackpot_sim.environments.recorded import LogProbs
from jackpot_sim.environments.rollouts.built import ROLES, RealisedRollouts, Role
from jackpot_sim.estimators import Correction
from jackpot_sim.estimators.mismatch import overlap_estimates
from jackpot_sim.estimators.mismatch.overlap_estimates import Comparison, LawBlock
from jackpot_sim.estimators.rollouts import weights as scored
from jackpot_sim.estimators.rollouts.at_states import Visited
from jackpot_sim.sweep.spec import Study

LAM = 1.0
"""The λ of the overlap between the models that is reported."""

Figures: TypeAlias = Mapping[str, tuple[float, float]]
"""Figures with their standard errors, by name."""


@dataclass(frozen=True, eq=False)
class Observed:
    """The rollouts of one cell; n of each role, replicate by replicate and in it prompt by prompt.

    Attributes:
        written: the rollouts of each role.
        rewards: R of each rollout, (n,).
        advantage: R − b of each rollout, (n,).
        visited: the figures at the states of the actor's rollouts.
        actor: the actor's rollouts, with both log-probs as corrections are given them.
        log_ratio: log p − log q of the law that the actor sampled from, at its tokens, (n, length), nats.
        policy_kl: KL(p‖q) at every token of the policy's rollouts, (n, length), nats.
        comparisons: the ways to estimate Z, if the study compares them.
    """

    written: Mapping[Role, Written]
    rewards: Mapping[Role, Floats]
    advantage: Mapping[Role, Floats]
    visited: Visited
    actor: ScoredRollouts
    log_ratio: Floats
    policy_kl: Floats
    comparisons: list[Comparison]


class Weighed(NamedTuple):
    """One correction on the actor's rollouts."""

    mask: Flags
    """m, drawn for each token, (n, length)."""
    weight: Floats
    """m·w, (n, length)."""
    figures: Figures
    seconds: float
    """The time that masks and weights of all tokens took."""


def observe(realised: RealisedRollouts, study: Study, seed: int, corrections: Mapping[str, Correction]) -> Observed:
    """Writes the rollouts of both models and scores them."""
    written = {role: realised.write(role, seed, study.n_samples, study.replicates) for role in ROLES}
    rewards = {role: realised.reward(each.prompt, each.tokens, each.mask) for role, each in written.items()}
    advantage = {role: rewards[role] - realised.baseline[each.prompt] for role, each in written.items()}
    actor, policy = written["actor"], written["policy"]
    visited = Visited(actor.tokens, list(corrections.values()), [LAM])
    blocks = _visit(realised, actor, visited, seed)
    comparisons: list[Comparison] = []
    if study.normalizers is None:
        collections.deque(blocks, maxlen=0)
    else:
        k, lam, batch = study.normalizers.k, study.normalizers.lam, study.normalizers.batch
        comparisons = overlap_estimates.compare(blocks, k, lam, batch, keyed_generator(seed, "batches"))
    believed = actor.raw_log_probs if realised.setup.log_probs is LogProbs.RAW else actor.log_probs
    return Observed(
        written=written,
        rewards=rewards,
        advantage=advantage,
        visited=visited,
        actor=ScoredRollouts(visited.told_log_probs, believed, actor.mask, advantage["actor"], actor.prompt),
        log_ratio=np.where(actor.mask, visited.policy_log_probs - actor.log_probs, 0.0),
        policy_kl=_kl_at_tokens(realised, policy),
        comparisons=comparisons,
    )


def _visit(realised: RealisedRollouts, written: Written, visited: Visited, seed: int) -> Iterator[LawBlock]:
    """The actor's states on their way to the comparison of normalisers, measured as they pass."""
    uniforms = keyed_generator(seed, "normalizers").random(written.tokens.shape)
    for pair in realised.pairs(written):
        laws = pair.policy_log_probs, pair.actor_log_probs, pair.believed_log_probs
        at = pair.sequence, pair.step
        visited.add(*at, *laws, pair.believed_policy_log_probs)
        yield LawBlock(*pair.told, written.tokens[at], uniforms[at], pair.sequence)


def _kl_at_tokens(realised: RealisedRollouts, written: Written) -> Floats:
    """KL(p‖q) at every token, (n, length), nats."""
    kl = np.zeros(written.tokens.shape)
    for pair in realised.pairs(written):
        kl[pair.sequence, pair.step] = to_numpy(divergences.kl(pair.policy_log_probs, pair.actor_log_probs))
    return kl


def weigh(observed: Observed, corrections: Mapping[str, Correction], replicate: Ints, seed: int) -> dict[str, Weighed]:
    """The masks and weights of every correction.

    Args:
        observed: the rollouts.
        corrections: by label.
        replicate: the update that each sequence belongs to, (n,).
        seed: of the masks.
    """
    weighed = {}
    for label, correction in corrections.items():
        overlap = None if correction.overlap_lam is None else observed.visited.overlap[correction.overlap_lam]
        started = time.perf_counter()
        pair = scored.weigh(observed.actor, correction, overlap, replicate=replicate)
        # One number per token decides its mask, whatever the estimator: they differ in one thing.
        mask, weight = scored.draw(observed.actor, pair, keyed_generator(seed, "masks"))
        seconds = time.perf_counter() - started
        value, error = scored.weight_figures(observed.actor, mask, weight, correction.unit, replicate)
        weighed[label] = Weighed(mask, weight, {name: (value[name], error[name]) for name in value}, seconds)
    return weighed
