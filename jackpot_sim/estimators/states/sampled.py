"""Monte Carlo moments of a correction at states, which share only the true gradient with the exact ones.

Tokens are drawn from the actor, masks from their acceptance probabilities, and the update is formed as a trainer
forms it, `replicates` times over. The mean and the spread of the replicates must agree with the closed forms within
the standard errors (delete-one jackknife over replicates). `estimators.replicates` says why `bias` may be nan.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from jackpot_sim.core.arrays import Array, Floats, Ints
from jackpot_sim.core.backend import to_numpy
from jackpot_sim.core.checks import check_advantage, check_alike, check_pair
from jackpot_sim.core.log_ratios import ess_fraction
from jackpot_sim.core.numerics import log_ratio
from jackpot_sim.core.policy_gradient import feature_norm_sq, policy_gradient
from jackpot_sim.core.sampling import categorical
from jackpot_sim.core.support import BelievedLaws
from jackpot_sim.estimators.corrections.composed import require_known_laws
from jackpot_sim.estimators.corrections.correction import Correction
from jackpot_sim.estimators.corrections.inputs import Tokens, TokenWeights, in_numpy
from jackpot_sim.estimators.replicates import Sampled, gradient_figures, jackknife, off_diagonal
from jackpot_sim.estimators.states.tokens import check_parameters, drawn_tokens, tokens_of_states
from jackpot_sim.estimators.statistics import Denominator


def estimate(
    policy_log_probs: Array,
    actor_log_probs: Array,
    advantage: Array,
    correction: Correction,
    generator: np.random.Generator,
    *,
    n_samples: int,
    replicates: int = 64,
    denominator: Denominator | str = Denominator.PROPOSED,
    believed: BelievedLaws | None = None,
) -> Sampled:
    """The moments of `correction` from `replicates` simulated updates of `n_samples` proposals per state.

    With the `accepted` and `self_normalized` denominators an update is a ratio of sums, whose mean
    and variance differ from the exact (delta-method) ones by O(1/n_samples).

    Args:
        policy_log_probs: log p, shape (..., vocab), nats.
        actor_log_probs: log q, the same shape.
        advantage: A(x), the same shape.
        correction: a correction of single tokens.
        generator: the source of all randomness.
        n_samples: proposals per state and replicate.
        replicates: simulated updates, at least 3.
        denominator: a `Denominator` or its name.
        believed: as in `moments.exact`.

    Raises:
        ValueError: as `moments.exact`, or fewer than 3 replicates.
    """
    denominator = Denominator(denominator)
    if n_samples < 1:
        raise ValueError(f"n_samples must be at least 1, got {n_samples}")
    if replicates < 3:
        raise ValueError(f"replicates must be at least 3, got {replicates}")
    check_alike(policy_log_probs=policy_log_probs, actor_log_probs=actor_log_probs, advantage=advantage)
    check_pair(policy_log_probs, actor_log_probs)
    check_advantage(advantage)
    vocab = policy_log_probs.shape[-1]
    told = (policy_log_probs, actor_log_probs)
    if believed is not None:
        told = (believed.policy_log_probs, believed.actor_log_probs)
        check_alike(policy_log_probs=policy_log_probs, believed=told[0])
    flat = [to_numpy(x).reshape(-1, vocab) for x in (policy_log_probs, actor_log_probs, advantage, *told)]
    check_parameters(correction, len(flat[0]))
    require_known_laws(correction, believed)
    draws = _Draws(replicates, states=len(flat[0]))
    for state, (log_p, log_q, values, *laws) in enumerate(zip(*flat, strict=True)):
        own = correction.at(slice(state, state + 1))
        every = tokens_of_states(laws[0][None], laws[1][None], own, values[None])
        _simulate(draws, state, log_p, log_q, every, own, generator, n_samples, denominator)
    everything = np.ones(replicates, dtype=bool)
    value = _figures(draws, everything, denominator, n_samples)
    left_out = [_figures(draws, np.arange(replicates) != r, denominator, n_samples) for r in range(replicates)]
    error = {name: jackknife([each[name] for each in left_out]) for name in value}
    return Sampled(value, error, n_samples, replicates)


class _Draws:
    """Sums of the simulation, for each replicate."""

    def __init__(self, replicates: int, states: int) -> None:
        each = (states, replicates)
        self.accepted, self.weight, self.weight_sq = (np.zeros(each) for _ in range(3))
        """Means over a state's proposals of m, m·w and m·w²."""
        self.gram = np.zeros((replicates, replicates))
        """Σ over states of ⟨X_r, X_r'⟩ for the updates X."""
        self.along = np.zeros(replicates)
        """Σ over states of ⟨X_r, g⟩."""
        self.surprise = np.zeros((2, *each))
        """Means over tokens of the *policy* of ℓ − log a and of ℓ − log aw."""
        self.mass = np.zeros((2, *each))
        """Means over tokens of the actor of a and of aw."""
        self.grad_norm_sq = self.on_policy_variance = 0.0


def _simulate(
    draws: _Draws,
    state: int,
    log_p: Floats,
    log_q: Floats,
    every: Tokens,
    correction: Correction,
    generator: np.random.Generator,
    n_samples: int,
    denominator: Denominator,
) -> None:
    """Draws tokens and masks of one state, and adds its updates to the sums; `every` is what the trainer sees."""
    replicates = draws.along.shape[0]
    vocab = len(log_p)
    advantage, told = (np.asarray(each)[0] for each in (every.advantages, every.policy_log_probs))
    ratio = np.asarray(log_ratio(log_p, log_q))

    def drawn_from(law: Floats) -> tuple[Ints, TokenWeights[Floats]]:
        drawn = np.asarray(categorical(law, generator.random(replicates * n_samples)))
        tokens = drawn.reshape(replicates, n_samples)
        return tokens, in_numpy(correction.weights(drawn_tokens(every, tokens, correction)))

    tokens, (accept, weight) = drawn_from(log_q)
    mask = generator.random(accept.shape) < accept
    masked_weight = np.where(mask, weight, 0.0)
    pull = masked_weight * advantage[tokens]
    updates = np.zeros((replicates, vocab))
    np.add.at(updates, (np.arange(replicates)[:, None], tokens), pull)
    p = np.exp(log_p, dtype=np.float64)
    updates = (updates - pull.sum(axis=1, keepdims=True) * np.exp(told, dtype=np.float64)) / n_samples
    if correction.subtracts_mean:
        updates -= _lost(every, correction, np.exp(log_q, dtype=np.float64), p, advantage[tokens]) / n_samples
    draws.accepted[state], draws.weight[state] = mask.mean(axis=1), masked_weight.mean(axis=1)
    draws.weight_sq[state] = (masked_weight**2).mean(axis=1)
    if denominator is Denominator.SELF_NORMALIZED:
        with np.errstate(divide="ignore", invalid="ignore"):
            updates = updates / draws.weight[state][:, None]
    gradient = np.asarray(policy_gradient(p, advantage))
    draws.gram += updates @ updates.T
    draws.along += updates @ gradient
    draws.grad_norm_sq += float(gradient @ gradient)
    draws.on_policy_variance += float(p @ feature_norm_sq(p, advantage) - gradient @ gradient)
    draws.mass[:, state] = accept.mean(axis=1), (accept * weight).mean(axis=1)
    possible = in_numpy(correction.weights(every))
    missed = (log_p > -math.inf) & ((log_q == -math.inf) | (possible.accept[0] == 0))
    tokens, (accept, weight) = drawn_from(log_p)
    with np.errstate(divide="ignore", invalid="ignore"):
        accepted = ratio[tokens] - np.log(accept)
        # Beyond the actor's reach both ratio and weight may be inf, though the law has no mass there.
        effective = np.where((accept > 0) & (ratio[tokens] < math.inf), accepted - np.log(weight), math.inf)
    draws.surprise[:, state] = accepted.mean(axis=1), effective.mean(axis=1)
    if missed.any():
        # Draws may miss a rare support violation, which makes the KL infinite; the whole laws show it.
        draws.surprise[:, state] = math.inf


def _lost(every: Tokens, correction: Correction, q: Floats, p: Floats, advantage: Floats) -> Floats:
    """Σ A·h over the tokens of each replicate, (replicates, vocab), from the advantages, (replicates, n_samples).

    h = E_q[a·w·(e_x − p)] is that of the sign of A; corrections that do not look at it have the same for both.
    """
    total = np.zeros((len(advantage), len(p)))
    for sign in (1.0, -1.0):
        signed = dataclasses.replace(every, advantages=np.full((1, len(p)), sign))
        law = q * np.where(q > 0, in_numpy(correction.weights(signed)).expected()[0], 0.0)
        total += np.sum(advantage, axis=1, where=sign * advantage > 0)[:, None] * (law - law.sum() * p)
    return total


def _figures(draws: _Draws, keep: NDArray[np.bool_], denominator: Denominator, n_samples: int) -> dict[str, float]:
    """The figures by name, from the replicates in `keep`."""
    replicates = int(keep.sum())
    gram, along = draws.gram[np.ix_(keep, keep)], draws.along[keep]
    accepted, weight, weight_sq = (x[:, keep] for x in (draws.accepted, draws.weight, draws.weight_sq))
    with np.errstate(divide="ignore", invalid="ignore"):
        if denominator is Denominator.ACCEPTED:
            rate = accepted.mean(axis=0)
            gram, along = gram / np.outer(rate, rate), along / rate
        laws = draws.surprise[:, :, keep].mean(axis=2) + np.log(draws.mass[:, :, keep].mean(axis=2))
        kl_accepted, kl_effective = laws.mean(axis=1)
        return {
            "acceptance_rate": float(accepted.mean()),
            "kl_accepted": float(kl_accepted),
            "kl_effective": float(kl_effective),
            "kl_prefix": 0.0,
            **gradient_figures(
                own=np.trace(gram) / replicates,
                others=off_diagonal(gram),
                dot=along.mean(),
                signal=draws.grad_norm_sq,
                on_policy_variance=draws.on_policy_variance,
                n_samples=n_samples,
            ),
            "ess_fraction": float(ess_fraction(weight.mean(), weight_sq.mean(), 1.0)),
        }
