"""Rollouts of both models, scored at every token: the laws there, and the weights of each correction."""

from __future__ import annotations

import collections
import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.core.backend import namespace, row_blocks, to_numpy, topk
from jackpot_sim.core.scored import ScoredRollouts
from jackpot_sim.core.two_laws import kl_by_blocks
from jackpot_sim.environments.engines.engine import LawEngine
from jackpot_sim.environments.language_models.generation import Written
from jackpot_sim.environments.randomness import keyed_generator
from jackpot_sim.environments.recorded import LogProbs
from jackpot_sim.environments.rollouts.built import ROLES, LawPair, RealisedRollouts, Role
from jackpot_sim.estimators import Correction
from jackpot_sim.estimators.corrections.centring import on_stored
from jackpot_sim.estimators.mismatch import overlap_estimates
from jackpot_sim.estimators.mismatch.overlap_estimates import Comparison, LawBlock
from jackpot_sim.estimators.rollouts import weights as scored
from jackpot_sim.estimators.rollouts.at_states import Visited
from jackpot_sim.sweep.spec import Study
from jackpot_sim.sweep.subjects import served_states
from jackpot_sim.sweep.subjects.served_states import Served

LOG = logging.getLogger(__name__)

LAM = 1.0
"""The λ of the overlap between the models that is reported."""

Figures: TypeAlias = Mapping[str, tuple[float, float]]
"""Figures with their standard errors, by name."""


class Stored:
    """The likeliest tokens of the actor at every state of n rollouts, and both laws there, as corrections get them.

    Attributes:
        ids: (n, length, k), likeliest first; 0 where there is no token.
        policy_log_probs: log p, (n, length, k), nats.
        actor_log_probs: log q, likewise.
    """

    def __init__(self, shape: tuple[int, ...], k: int, vocab: int) -> None:
        size = (*shape, min(k, vocab))
        self.ids = np.zeros(size, dtype=np.int64)
        self.policy_log_probs, self.actor_log_probs = np.zeros(size), np.zeros(size)

    def add(self, pair: LawPair) -> None:
        """Adds the states of a few tokens."""
        policy, actor = pair.told
        values, ids = topk(actor, self.ids.shape[-1])
        at = pair.sequence, pair.step
        self.ids[at], self.actor_log_probs[at] = to_numpy(ids), to_numpy(values)
        self.policy_log_probs[at] = to_numpy(namespace(policy).take_along_axis(policy, ids, axis=-1))

    def coefficients(self, correction: Correction, rollouts: ScoredRollouts, overlap: Floats | None) -> Floats:
        """The coefficients of ∇log p in the mean term of each state, (n, length, k), 0 where there is no token.

        Args:
            correction: a centred correction.
            rollouts: the rollouts, of which advantages are taken.
            overlap: Z(λ) at each state, (n, length), where the correction needs it.
        """
        out = np.zeros(self.ids.shape)
        for rows in row_blocks(len(out), math.prod(out.shape[1:])):
            live = rollouts.mask[rows]
            out[rows][live] = on_stored(
                correction,
                self.policy_log_probs[rows][live],
                self.actor_log_probs[rows][live],
                overlap=None if overlap is None else overlap[rows][live],
                advantages=np.broadcast_to(rollouts.advantage[rows, None], live.shape)[live],
            )
        return out


@dataclass(frozen=True, eq=False)
class Observed:
    """The rollouts of one cell; n of each role, replicate by replicate and in it prompt by prompt.

    Attributes:
        written: the rollouts of each role.
        rewards: R of each rollout, (n,).
        advantage: R − b of each rollout, (n,); 0 where nothing looks at it.
        visited: the figures at the states of the actor's rollouts.
        actor: the actor's rollouts, with both log-probs as corrections are given them.
        log_ratio: log p − log q of the law that the actor sampled from, at its tokens, (n, length), nats.
        policy_kl: KL(p‖q) at every token of the policy's rollouts, (n, length), nats; None where the actor shows its
            likeliest tokens alone.
        comparisons: the ways to estimate Z, if the study compares them.
        stored: the actor's likeliest tokens, if a correction is centred.
    """

    written: Mapping[Role, Written]
    rewards: Mapping[Role, Floats]
    advantage: Mapping[Role, Floats]
    visited: Visited | Served
    actor: ScoredRollouts
    log_ratio: Floats
    policy_kl: Floats | None
    comparisons: list[Comparison]
    stored: Stored | None


class Weighed(NamedTuple):
    """One correction on the actor's rollouts."""

    mask: Flags
    """m, drawn for each token, (n, length)."""
    weight: Floats
    """m·w, (n, length)."""
    mean: Floats | None
    """The coefficients of ∇log p of the stored tokens in the mean term, (n, length, k), of a centred correction."""
    accept: Floats
    """a, (n, length)."""
    figures: Figures
    seconds: float
    """The time that masks and weights of all tokens took."""


def observe(
    realised: RealisedRollouts,
    study: Study,
    seed: int,
    corrections: Mapping[str, Correction],
    *,
    advantages: bool = True,
) -> Observed:
    """Writes the rollouts of both models and scores them.

    Args:
        realised: the environment.
        study: the sizes.
        seed: of the rollouts.
        corrections: by label.
        advantages: whether anything looks at advantages, whose baseline takes rollouts of its own.
    """
    written = {role: realised.write(role, seed, study.n_samples, study.replicates) for role in ROLES}
    rewards = {role: realised.reward(each.prompt, each.tokens, each.mask) for role, each in written.items()}
    baseline = realised.baseline if advantages else None
    advantage = {
        role: np.zeros(len(each.prompt)) if baseline is None else rewards[role] - baseline[each.prompt]
        for role, each in written.items()
    }
    actor, policy = written["actor"], written["policy"]
    visited: Visited | Served
    if isinstance(realised.actor, LawEngine):
        visited, stored, comparisons = _visited(realised, study, seed, corrections, actor)
        policy_kl = _kl_at_tokens(realised, policy)
    else:
        visited, stored = _visited_on_topk(realised, study, corrections, actor)
        comparisons, policy_kl = [], None
    believed = actor.raw_log_probs if realised.setup.log_probs is LogProbs.RAW else actor.log_probs
    return Observed(
        written=written,
        rewards=rewards,
        advantage=advantage,
        visited=visited,
        actor=ScoredRollouts(visited.told_log_probs, believed, actor.mask, advantage["actor"], actor.prompt),
        log_ratio=np.where(actor.mask, visited.policy_log_probs - actor.log_probs, 0.0),
        policy_kl=policy_kl,
        comparisons=comparisons,
        stored=stored,
    )


def _visited(
    realised: RealisedRollouts, study: Study, seed: int, corrections: Mapping[str, Correction], written: Written
) -> tuple[Visited, Stored | None, list[Comparison]]:
    """The figures at the actor's states from both whole laws, what centred corrections need, and the ways to Z."""
    visited = Visited(written.tokens, list(corrections.values()), [LAM])
    centred = any(each.subtracts_mean for each in corrections.values())
    stored = Stored(written.tokens.shape, realised.setup.stored_topk, realised.vocab) if centred else None
    blocks = _visit(realised, written, visited, stored, seed)
    if study.normalizers is None:
        collections.deque(blocks, maxlen=0)
        return visited, stored, []
    k, lam, batch = study.normalizers.k, study.normalizers.lam, study.normalizers.batch
    return visited, stored, overlap_estimates.compare(blocks, k, lam, batch, keyed_generator(seed, "batches"))


def _visited_on_topk(
    realised: RealisedRollouts, study: Study, corrections: Mapping[str, Correction], written: Written
) -> tuple[Served, Stored | None]:
    """The same where the actor shows its likeliest tokens alone."""
    if study.normalizers is not None:
        # The default study asks for it, whatever the actor.
        LOG.warning("the ways to Z are not compared: the exact one takes whole laws, which the actor does not show")
    replicate = np.repeat(np.arange(study.replicates), len(written.tokens) // study.replicates)
    served = served_states.visit(realised, written, list(corrections.values()), LAM, replicate)
    stored, policy = None, served.visited.policy_on_topk
    if any(each.subtracts_mean for each in corrections.values()) and written.topk is not None and policy is not None:
        stored = Stored(written.tokens.shape, written.topk.k, realised.vocab)
        # In float32, as they were returned: sums of whole laws miss 1 in its seventh digit.
        stored.ids[...], stored.actor_log_probs = to_numpy(written.topk.ids), to_numpy(written.topk.log_probs)
        stored.policy_log_probs = policy
    return served, stored


def _visit(
    realised: RealisedRollouts, written: Written, visited: Visited, stored: Stored | None, seed: int
) -> Iterator[LawBlock]:
    """The actor's states on their way to the comparison of normalisers, measured as they pass."""
    uniforms = keyed_generator(seed, "normalizers").random(written.tokens.shape)
    for pair in realised.pairs(written):
        laws = pair.policy_log_probs, pair.actor_log_probs, pair.believed_log_probs
        at = pair.sequence, pair.step
        visited.add(*at, *laws, pair.believed_policy_log_probs)
        if stored is not None:
            stored.add(pair)
        yield LawBlock(*pair.told, written.tokens[at], uniforms[at], pair.sequence)


def _kl_at_tokens(realised: RealisedRollouts, written: Written) -> Floats:
    """KL(p‖q) at every token, (n, length), nats."""
    kl = np.zeros(written.tokens.shape)
    for pair in realised.pairs(written):
        kl[pair.sequence, pair.step] = to_numpy(kl_by_blocks(pair.policy_log_probs, pair.actor_log_probs))
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
        mean = None
        if correction.subtracts_mean and observed.stored is not None:
            mean = observed.stored.coefficients(correction, observed.actor, overlap)
        weighed[label] = Weighed(
            mask, weight, mean, pair.accept, {name: (value[name], error[name]) for name in value}, seconds
        )
    return weighed
