"""The support that a sampler left of a law, and the laws between which a trainer takes its ratios.

A sampler that cuts a law, by top-p or top-k, returns log-probs of what is left, renormalised. Against the policy's law
over the whole vocabulary their ratio is then r = S·(p/S)/q at every token, where S is the policy's mass on the tokens
kept: at a cut of the policy itself nothing but S. Trainers that record the tokens kept renormalise the policy on them
too (the "sampling mask" of DeepSeek-V3.2, support replay); their r is (p/S)/q, and their gradients are those of p/S.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from jackpot_sim.core.arrays import Array
from jackpot_sim.core.backend import namespace
from jackpot_sim.core.checks import check_pair
from jackpot_sim.core.numerics import log_softmax


@dataclass(frozen=True, eq=False)
class BelievedLaws:
    """The laws of which a trainer takes ratios and gradients, where they are not those that are at work.

    Attributes:
        policy_log_probs: log p̂, shape (..., vocab), nats: the policy's law, or what is left of it on a support.
        actor_log_probs: log q̂, the same shape: the log-probs that the actor returns.

    Raises:
        ValueError: the shapes differ, or a law is not normalised.
    """

    policy_log_probs: Array
    actor_log_probs: Array

    def __post_init__(self) -> None:
        check_pair(self.policy_log_probs, self.actor_log_probs)


def on_support(policy_log_probs: Array, actor_log_probs: Array) -> Array:
    """log p/S on the tokens that the actor's sampler keeps, −inf on the others; S is the mass of p on those kept.

    >>> import numpy as np
    >>> p, cut = np.log([0.5, 0.3, 0.2]), np.array([np.log(0.625), np.log(0.375), -np.inf])
    >>> np.exp(on_support(p, cut)).round(6).tolist()
    [0.625, 0.375, 0.0]

    Args:
        policy_log_probs: log p, shape (..., vocab), nats.
        actor_log_probs: log q of the law that is sampled from, the same shape; −inf on the tokens that it cuts.

    Raises:
        ValueError: a law is not normalised, the shapes differ, or p has no mass on the support of a state.
    """
    policy_log_probs, actor_log_probs = check_pair(policy_log_probs, actor_log_probs)
    xp = namespace(policy_log_probs)
    kept = xp.where(actor_log_probs > -math.inf, policy_log_probs, -math.inf)
    if not bool(xp.all(xp.any(kept > -math.inf, axis=-1))):
        raise ValueError("policy_log_probs gives no mass to any token that the actor keeps at some state: S is 0 there")
    return log_softmax(kept)


def cuts(policy_log_probs: Array, actor_log_probs: Array) -> bool:
    """True if the actor never draws some token to which p gives a probability; both (..., vocab), nats."""
    policy_log_probs, actor_log_probs = check_pair(policy_log_probs, actor_log_probs)
    xp = namespace(policy_log_probs)
    return bool(xp.any((actor_log_probs == -math.inf) & (policy_log_probs > -math.inf)))
