"""The weights of the tokens of a sequence in the update: a correction along a path of prefixes.

With p_ref the policy before the update at hand and p_new the one being trained, a token adds
m·w·(p_new/p_ref)·A(y)·∇log p_new(y_t|s_t). The correction leads from the actor to p_ref, and the
importance ratio of the policy-gradient surrogate, unclipped, from p_ref to p_new. Jackpot may aim at p_new
instead ([J] §4.3): its weight then has the factor p_ref/p_new, clipped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np

from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.checks import check_floats, check_numpy
from jackpot_sim.core.numerics import log_ratio
from jackpot_sim.core.obrs import overlap
from jackpot_sim.core.sequences import SequenceLaws, Sequences, check_advantages
from jackpot_sim.estimators.corrections.correction import Correction
from jackpot_sim.estimators.corrections.inputs import Tokens, TokenWeights, given, in_numpy


class UpdateTarget(StrEnum):
    """The policy that the correction leads to."""

    REFERENCE = "p_ref"
    """The policy before the update, the usual target."""
    POLICY = "p_new"
    """The policy being trained, for corrections whose weight has the factor p_ref/p_new."""


@dataclass(frozen=True, eq=False)
class Proposals:
    """Sequences of the actor after one prompt.

    Attributes:
        laws: the policies at every prefix.
        sequences: n sequences to which the actor gives a positive probability.
        advantage: A(y) of each, shape (n,).

    Raises:
        TypeError: the advantages are not a numpy array of real floating numbers.
        ValueError: an advantage is not finite, or there is not one per sequence.
    """

    laws: SequenceLaws
    sequences: Sequences
    advantage: Floats

    def __post_init__(self) -> None:
        check_numpy(advantage=self.advantage)
        check_advantages(self.advantage, self.sequences, "advantage")

    def aim(self, target: UpdateTarget) -> Floats:
        """log p_target at every (prefix, token), shape (prefixes, vocab), nats."""
        return self.laws.reference_log_probs if target is UpdateTarget.REFERENCE else self.laws.policy_log_probs

    def log_ratio_table(self, target: UpdateTarget) -> Floats:
        """ℓ = log p_target − log q at every (prefix, token), shape (prefixes, vocab), nats."""
        return np.asarray(log_ratio(self.aim(target), self.laws.actor_log_probs))

    @cached_property
    def surrogate_ratio(self) -> Floats | None:
        """p_new/p_ref at every (prefix, token), shape (prefixes, vocab); None where the two are the same."""
        laws = self.laws
        if laws.reference_log_probs is laws.policy_log_probs:
            return None
        new, old = laws.policy_log_probs, laws.reference_log_probs
        return np.where(new == old, 1.0, np.exp(np.asarray(log_ratio(new, old))))  # also where neither has support


def require_target(correction: Correction, target: UpdateTarget) -> None:
    """Refuses a target that the correction cannot have.

    Raises:
        ValueError: the target is p_new, and the correction's weight has no factor p_ref/p_new.
    """
    if target is UpdateTarget.POLICY and not correction.carries_reference_ratio:
        cap = "give c2, its cap, or " if "c2" in correction.parameters() else ""
        raise ValueError(
            f"{correction.name} cannot target p_new without p_ref/p_new in its weight: {cap}leave the target at p_ref"
        )


def weigh(parts: Sequence[Proposals], correction: Correction, target: UpdateTarget) -> list[TokenWeights[Floats]]:
    """Accept probability and weight, p_new/p_ref included, of every token of one batch.

    Args:
        parts: the batch, a part for each prompt.
        correction: any correction.
        target: the policy that the correction leads to.

    Returns:
        For each part the pair, shapes (n, length), 0 at padding.

    Raises:
        ValueError: as `require_target` and `Correction.weights`.
    """
    require_target(correction, target)
    if correction.fits_a_table:
        tables = [weight_tables(part, correction, target) for part in parts]
        return [
            TokenWeights(*(part.sequences.gather(table) for table in pair))
            for part, pair in zip(parts, tables, strict=True)
        ]
    lengths = np.cumsum([len(part.sequences) for part in parts])[:-1]
    accept, weight = in_numpy(correction.weights(tokens_of_sequences(parts, correction, target)))
    pairs = zip(parts, np.split(accept, lengths), np.split(weight, lengths), strict=True)
    return [TokenWeights(a, _times(w, _gathered(part, part.surrogate_ratio))) for part, a, w in pairs]


def in_the_limit(
    parts: Sequence[Proposals], probability: Sequence[Floats], correction: Correction, target: UpdateTarget
) -> Correction:
    """The correction in an infinitely large batch with equally many sequences of every prompt.

    Args:
        parts: every sequence of every prompt.
        probability: q(y) of each, a part for each prompt, shapes (n,).
        correction: any correction.
        target: the policy that the correction leads to.

    Raises:
        TypeError: probabilities are not a numpy array of real floating numbers.
        ValueError: there is not one probability per sequence, or as `Correction.in_the_limit`.
    """
    for part, each in zip(parts, probability, strict=True):
        check_floats(each, (len(part.sequences),), "probability", "one number per sequence")
    if not correction.looks_at_batch:
        return correction
    tokens = tokens_of_sequences(parts, correction, target)
    return correction.in_the_limit(tokens, np.concatenate(probability) / len(parts))


def tokens_of_sequences(parts: Sequence[Proposals], correction: Correction, target: UpdateTarget) -> Tokens:
    """The tokens of one batch, shape (n, length), with advantages of shape (n, 1).

    Args:
        parts: the batch, a part for each prompt.
        correction: the correction that will weigh the tokens.
        target: the policy that the correction leads to.
    """

    def joined(of_part: Callable[[Proposals], Floats | None]) -> Floats | None:
        columns = [_gathered(part, of_part(part)) for part in parts]
        return None if any(x is None for x in columns) else np.concatenate([x for x in columns if x is not None])

    log_ratio = joined(lambda part: part.log_ratio_table(target))
    needs = correction.needs
    return Tokens(
        given(log_ratio),
        policy_log_probs=joined(lambda part: part.aim(target)) if "policy_log_probs" in needs else None,
        actor_log_probs=joined(lambda part: part.laws.actor_log_probs) if "actor_log_probs" in needs else None,
        overlap=joined(lambda part: _overlap(part, correction, target)),
        log_reference_ratio=joined(lambda part: _log_reference_ratio(part, target)),
        mask=np.concatenate([part.sequences.mask for part in parts]),
        advantages=np.concatenate([part.advantage for part in parts])[:, None],
    )


def weight_tables(
    part: Proposals, correction: Correction, target: UpdateTarget, sign: float | None = None
) -> TokenWeights[Floats]:
    """The pair at every (prefix, token), shape (prefixes, vocab), of a correction that fits a table.

    One that looks at the sign of the advantage fits a table for each `sign`.

    Tokens beyond the actor's reach have a meaningless weight, which may be infinite.
    """
    z = _overlap(part, correction, target)
    tokens = Tokens(
        part.log_ratio_table(target),
        policy_log_probs=part.aim(target),
        actor_log_probs=part.laws.actor_log_probs,
        overlap=None if z is None else z[:, None],
        log_reference_ratio=_log_reference_ratio(part, target),
        advantages=None if sign is None else np.full((1, 1), sign),
    )
    accept, weight = in_numpy(correction.weights(tokens))
    return TokenWeights(accept, _times(weight, part.surrogate_ratio))


def _times(weight: Floats, ratio: Floats | None) -> Floats:
    """weight · p_new/p_ref; 0 where p_new is 0, even if p_ref/p_new has made the weight infinite there."""
    return weight if ratio is None else np.where(ratio > 0, weight, 0.0) * ratio


def _overlap(part: Proposals, correction: Correction, target: UpdateTarget) -> Floats | None:
    """Z(λ) at every prefix, shape (prefixes,)."""
    lam = correction.overlap_lam
    if lam is None:
        return None
    return np.asarray(overlap(part.aim(target), part.laws.actor_log_probs, lam))


def _log_reference_ratio(part: Proposals, target: UpdateTarget) -> Floats | None:
    """log p_ref − log p_new at every (prefix, token) where p_new is the target."""
    if target is UpdateTarget.REFERENCE:
        return None
    return np.asarray(log_ratio(part.laws.reference_log_probs, part.laws.policy_log_probs))


def _gathered(part: Proposals, table: Floats | None) -> Floats | None:
    return None if table is None else part.sequences.gather(table)
