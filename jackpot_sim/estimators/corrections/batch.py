"""Corrections that look at the whole batch: the weights of a token depend on the other sequences.

Such corrections have no moments per sample. `weights` takes all live tokens of its array as the batch. In an
infinitely large batch each becomes a correction that no longer looks at the batch, and `in_the_limit` returns it
exactly (ours). Both use the same sums over sequences, in which each counts 1 or its probability.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from typing_extensions import override

from jackpot_sim.core.arrays import Array, Floats
from jackpot_sim.core.backend import as_array, floating, namespace, to_numpy
from jackpot_sim.core.log_ratios import k2
from jackpot_sim.estimators.corrections.composed import Wrapper
from jackpot_sim.estimators.corrections.correction import Correction, Level, TokenCorrection
from jackpot_sim.estimators.corrections.inputs import Tokens, TokenWeights
from jackpot_sim.estimators.corrections.parameters import require_positive
from jackpot_sim.estimators.corrections.registry import register
from jackpot_sim.estimators.corrections.sequence import SequenceCorrection

_LAW_TOLERANCE = 1e-5


@register("m2po")
@dataclass(frozen=True)
class SecondMomentMask(SequenceCorrection):
    """(1[ℓ² below the batch's cut], 1): drops the largest ℓ² until the mean of the rest is ≤ τ (M2PO, AReaL).

    Of the tokens tied at the cut as many stay as the mean allows, drawn at random: each has a = kept/tied.
    AReaL asks for a mean below τ, and keeps one token where even the smallest ℓ² is too large.
    """

    _threshold: ClassVar[str | None] = "threshold"
    threshold: float = 0.04
    """τ > 0, nats²."""

    def __post_init__(self) -> None:
        require_positive(self, "threshold", infinite=False)

    @property
    @override
    def unit(self) -> Level:
        # Each token is kept or dropped by itself, once the batch has given the cut.
        return Level.TOKEN

    @property
    @override
    def looks_at_batch(self) -> bool:
        return True

    @override
    def accept(self, tokens: Tokens) -> Array:
        """a = 1 below the cut, kept/tied at it and 0 above."""
        flat = to_numpy(tokens.log_ratio)[to_numpy(tokens.live)]
        return self._cut(tokens.log_ratio, flat, np.ones(flat.size), whole=True).accept(tokens)

    @override
    def in_the_limit(self, tokens: Tokens, probability: Array) -> Correction:
        """The cut for the law of tokens in which each token of sequence i has a mass ∝ probability[i]."""
        tokens = self.checked(tokens)
        mass = to_numpy(tokens.live) * to_numpy(_law(tokens.log_ratio, probability))
        flat = mass > 0
        return self._cut(tokens.log_ratio, to_numpy(tokens.log_ratio)[flat], mass[flat], whole=False)

    def _cut(self, like: Array, log_ratio: Floats, mass: Floats, whole: bool) -> _Cut:
        """The cut for tokens of these masses; `whole` tokens cannot be kept in part."""
        # Squared by the same function as in `_Cut`, so that the ties are the same.
        values, group = np.unique(to_numpy(_square(as_array(log_ratio, like))), return_inverse=True)
        if not values.size:
            return _Cut(math.inf, 0.0)
        tied = np.bincount(group, weights=mass)
        # The mean of the smallest ℓ² is ≤ τ as long as their excess over τ adds up to at most 0.
        with np.errstate(invalid="ignore"):
            excess = np.cumsum(tied * (values.astype(np.float64) - self.threshold))
        at = int(np.argmax(excess > 0)) if bool(np.any(excess > 0)) else len(values)
        if at == len(values):
            return _Cut(float(values[-1]), 1.0)
        room = -float(excess[at - 1]) / (float(values[at]) - self.threshold) if at else 0.0
        return _Cut(float(values[at]), (math.floor(room) if whole else room) / float(tied[at]))


@dataclass(frozen=True)
class _Cut(TokenCorrection):
    """(1 below the cut on ℓ², `fraction` at it, 0 above; 1): m2po with a known cut."""

    cut: float
    """nats²."""
    fraction: float
    """The share of the tokens at the cut that stay."""

    name = "m2po"

    @override
    def accept(self, tokens: Tokens) -> Array:
        """a(ℓ²)."""
        xp = namespace(tokens.log_ratio)
        square, cut = _square(tokens.log_ratio), as_array(self.cut, tokens.log_ratio)
        nothing = xp.zeros_like(tokens.log_ratio)
        return xp.where(square < cut, 1.0, xp.where(square == cut, self.fraction, nothing))


def _square(log_ratio: Array) -> Array:
    """ℓ²."""
    return 2 * k2(log_ratio)


def batch_normalize(correction: Correction) -> BatchNormalized:
    """The correction with its weights divided by the batch's mean of a·w, so that this mean is 1.

    For a correction of single tokens the mean is over live tokens. For one of sequences it is over sequences,
    each with the mean over its live tokens (verl, after truncation; slime by default). verl divides by the
    mean before rejection: `combined(batch_normalize(tis), mask)`.

    >>> import numpy as np
    >>> from jackpot_sim import estimators
    >>> batch_normalize(estimators.get("tis", clip=2.0)).weights(np.log([[1.0, 5.0, 0.6]])).weight.round(3)
    array([[0.833, 1.667, 0.5  ]])
    """
    return BatchNormalized(correction)


@dataclass(frozen=True)
class BatchNormalized(Wrapper):
    """The correction that `batch_normalize` makes."""

    def __post_init__(self) -> None:
        if self.of.subtracts_mean:
            raise ValueError(f"{self.of.name} subtracts the mean of each state: it cannot be divided by the batch's")

    @property
    @override
    def name(self) -> str:  # type: ignore[override]
        return f"batch-normalize({self.of.name})"

    @property
    @override
    def level(self) -> Level:
        # A token's weight depends on the other tokens.
        return Level.SEQUENCE

    @property
    @override
    def looks_at_batch(self) -> bool:
        return True

    @property
    @override
    def weighs(self) -> bool:
        return True

    @override
    def pair(self, tokens: Tokens) -> TokenWeights:
        one_each = namespace(tokens.log_ratio).ones_like(tokens.log_ratio[..., :1])
        return self._scaled(self.of, tokens, one_each).pair(tokens)

    @override
    def in_the_limit(self, tokens: Tokens, probability: Array) -> Correction:
        """The inner correction's limit, its weights divided by their mean under the law."""
        tokens = self.checked(tokens)
        inner = self.of.in_the_limit(tokens, probability)
        return self._scaled(inner, tokens, _law(tokens.log_ratio, probability))

    def _scaled(self, inner: Correction, tokens: Tokens, mass: Array) -> _Scaled:
        """`inner` divided by the mean of its a·w, over tokens or sequences with masses (..., 1).

        Raises:
            ValueError: the mean is infinite.
        """
        xp, live = namespace(tokens.log_ratio), tokens.live
        law = xp.where(live, inner.pair(tokens).expected(), 0.0)
        count = xp.sum(xp.astype(live, law.dtype), axis=-1, keepdims=True)
        if self.of.unit is Level.SEQUENCE:
            mass = mass / xp.where(count > 0, count, 1.0)
        # A token of probability 0 is not in the batch.
        law, mass = xp.where(mass > 0, law, 0.0), xp.where(live, mass, 0.0)
        total = float(xp.sum(mass))
        mean = float(xp.sum(mass * law)) / total if total > 0 else 0.0
        if mean == math.inf:
            raise ValueError(f"{self.name}: the mean weight is infinite; truncate the weights first")
        # If nothing is kept there is nothing to divide.
        return _Scaled(inner, mean if mean > 0 else 1.0, self.name)


@dataclass(frozen=True)
class _Scaled(Wrapper):
    """The inner correction with its weights divided by a known number."""

    divisor: float
    owner: str

    @property
    @override
    def name(self) -> str:  # type: ignore[override]
        return self.owner

    @override
    def pair(self, tokens: Tokens) -> TokenWeights:
        accept, weight = self.of.pair(tokens)
        return TokenWeights(accept, weight / self.divisor)


def _law(log_ratio: Array, probability: Array) -> Array:
    """`probability` as a column, shape (n, 1), for log-ratios of shape (n, length)."""
    column = as_array(floating(probability, "probability"), log_ratio)[..., None]
    rows = log_ratio.shape[:-1]
    if log_ratio.ndim != 2 or column.shape[:-1] != rows:
        raise ValueError(
            f"probability has shape {tuple(column.shape[:-1])}, log_ratio has shape {tuple(log_ratio.shape)}: "
            "they must be (n,) and (n, length)"
        )
    total = float(np.sum(to_numpy(probability), dtype=np.float64))
    if not (bool(namespace(column).all(column >= 0)) and abs(total - 1) <= _LAW_TOLERANCE):
        raise ValueError(f"probability must be a law over the {rows[0]} sequences: it adds up to {total:g}")
    return column
