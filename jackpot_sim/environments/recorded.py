"""The log-probs that a trainer is given of what an actor wrote, and the laws that it then believes in."""

from __future__ import annotations

from enum import StrEnum

from jackpot_sim.core.arrays import Array
from jackpot_sim.core.support import BelievedLaws, cuts, on_support


class LogProbs(StrEnum):
    """The log-probs of the actor, and the law of the policy, between which a trainer takes its ratios.

    PROCESSED: the actor's are those of the law that it sampled from, after temperature, top-k and top-p; the policy's
        law is whole. r is p/q on the tokens kept: right for the whole policy but for the tokens that are never drawn,
        and S times the ratio of the policy as it was cut. An actor that cuts the policy itself has r = S.
    RAW: the actor's are those of its model, before the sampler; the policy's law is whole. Ratios are those of the
        models, and blind to what the sampler did.
    SUPPORT: the tokens that the sampler kept are recorded, and both laws are renormalised on them. Ratios, and the
        gradients of the update, are those of the policy cut as the actor was: with them importance sampling is
        unbiased for that policy, and biased for the whole one.
    """

    PROCESSED = "processed"
    RAW = "raw"
    SUPPORT = "support"


def believed(
    told: LogProbs, policy_log_probs: Array, actor_log_probs: Array, model_log_probs: Array
) -> BelievedLaws | None:
    """The laws in which a trainer believes that is told these log-probs; None where they are those at work.

    Args:
        told: the log-probs.
        policy_log_probs: log p, shape (..., vocab), nats.
        actor_log_probs: log q of the law that is sampled from, the same shape.
        model_log_probs: log q of the actor's model before its sampler, the same shape.

    Raises:
        ValueError: a law is not normalised, the shapes differ, or as `on_support`.
    """
    if told is LogProbs.RAW and model_log_probs is not actor_log_probs:
        return BelievedLaws(policy_log_probs, model_log_probs)
    if told is LogProbs.SUPPORT and cuts(policy_log_probs, actor_log_probs):
        return BelievedLaws(on_support(policy_log_probs, actor_log_probs), actor_log_probs)
    return None
