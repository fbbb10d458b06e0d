"""What each token of a sequence weighs in the update: a correction applied along paths of prefixes.

With p_ref the policy before the update at hand and p_new the one being trained, a token adds
m·w·(p_new/p_ref)·A(y)·∇log p_new(y_t|s_t): the importance ratio of the policy-gradient surrogate leads
from p_ref to p_new, unclipped, and the correction from the actor to p_ref. Jackpot may aim at p_new
instead ([J] section 4.3): its weight then carries p_ref/p_new, clipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.numerics import log_ratio
from jackpot_sim.core.obrs import overlap
from jackpot_sim.core.sequences import SequenceLaws, Sequences
from jackpot_sim.estimators.corrections.correction import Correction, TokenWeights


class UpdateTarget(StrEnum):
    """Which policy the correction leads to."""

    REFERENCE = "p_ref"
    """The policy before the update; what is usual."""
    POLICY = "p_new"
    """The policy being trained, for corrections that carry p_ref/p_new."""


@dataclass(frozen=True, eq=False)
class Proposals:
    """Sequences of the actor after one prompt.

    Attributes:
        laws: the policies at every prefix.
        sequences: n sequences to which the actor gives a positive probability.
        advantage: A(y) of each, shape (n,).
    """

    laws: SequenceLaws
    sequences: Sequences
    advantage: Floats

    def aim(self, target: UpdateTarget) -> Floats:
        """log p_target at every (prefix, token), nats."""
        return self.laws.reference_log_probs if target is UpdateTarget.REFERENCE else self.laws.policy_log_probs

    def log_ratio_table(self, target: UpdateTarget) -> Floats:
        """ℓ = log p_target − log q at every (prefix, token), nats."""
        return np.asarray(log_ratio(self.aim(target), self.laws.actor_log_probs))

    @cached_property
    def surrogate_ratio(self) -> Floats | None:
        """p_new/p_ref at every (prefix, token); None where the two are the same."""
        laws = self.laws
        if laws.reference_log_probs is laws.policy_log_probs:
            return None
        new, old = laws.policy_log_probs, laws.reference_log_probs
        return np.where(new == old, 1.0, np.exp(log_ratio(new, old)))  # also where neither has support


def require_target(correction: Correction, target: UpdateTarget) -> None:
    """Refuses a target that the correction cannot have.

    Raises:
        ValueError: the target is p_new, and the correction carries no p_ref/p_new.
    """
    if target is UpdateTarget.POLICY and not correction.carries_reference_ratio:
        raise ValueError(
            f"{correction.name} cannot target p_new: it carries no p_ref/p_new to undo the surrogate's ratio, "
            "as jackpot does; leave the target at p_ref"
        )


def weigh(parts: Sequence[Proposals], correction: Correction, target: UpdateTarget) -> list[TokenWeights]:
    """Accept probability and weight, p_new/p_ref included, of every token of one batch.

    Args:
        parts: the batch, a part for each prompt.
        correction: any correction.
        target: see `UpdateTarget`.

    Returns:
        For each part the pair, shapes (n, length), 0 at padding.

    Raises:
        ValueError: as `require_target` and `Correction.weights`.
    """
    require_target(correction, target)
    if correction.is_per_token:
        tables = [weight_tables(part, correction, target) for part in parts]
        return [
            TokenWeights(*(part.sequences.gather(table) for table in pair))
            for part, pair in zip(parts, tables, strict=True)
        ]
    lengths = np.cumsum([len(part.sequences) for part in parts])[:-1]
    context = _Context.of(parts, correction, target)
    accept, weight = correction.weights(context.log_ratio, **context.others())
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
        target: see `UpdateTarget`.
    """
    if not correction.looks_at_batch:
        return correction
    context = _Context.of(parts, correction, target)
    return correction.in_the_limit(context.log_ratio, np.concatenate(probability) / len(parts), **context.others())


class _Context(NamedTuple):
    """What corrections look at, of one batch: shapes (n, length), and (n, 1) for the advantages."""

    log_ratio: Floats
    overlap: Floats | None
    log_reference_ratio: Floats | None
    mask: Any
    advantages: Floats

    @classmethod
    def of(cls, parts: Sequence[Proposals], correction: Correction, target: UpdateTarget) -> _Context:
        columns = [
            (
                part.sequences.gather(part.log_ratio_table(target)),
                _gathered(part, _overlap(part, correction, target)),
                _gathered(part, _log_reference_ratio(part, target)),
                part.sequences.mask,
                part.advantage[:, None],
            )
            for part in parts
        ]
        joined: list[Any] = [
            None if column[0] is None else np.concatenate(column) for column in zip(*columns, strict=True)
        ]
        return cls(*joined)

    def others(self) -> dict[str, Any]:
        return {name: value for name, value in self._asdict().items() if name != "log_ratio"}


def weight_tables(part: Proposals, correction: Correction, target: UpdateTarget) -> TokenWeights:
    """The same pair at every (prefix, token), shape (prefixes, vocab), of a correction of single tokens.

    Tokens out of the actor's reach have a meaningless weight, which may be infinite.
    """
    z = _overlap(part, correction, target)
    accept, weight = correction.weights(
        part.log_ratio_table(target),
        None if z is None else z[:, None],
        log_reference_ratio=_log_reference_ratio(part, target),
    )
    return TokenWeights(accept, _times(weight, part.surrogate_ratio))


def _times(weight: Any, ratio: Floats | None) -> Any:
    """weight · p_new/p_ref; 0 where p_new is, though p_ref/p_new may have made the weight infinite there."""
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
