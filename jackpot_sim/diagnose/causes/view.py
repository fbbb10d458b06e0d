"""The tokens as causes look at them: the log-ratio, its size by sequence, and the lag of the weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.core.log_ratios import k3
from jackpot_sim.core.numerics import log_ratio
from jackpot_sim.core.topk import TopK
from jackpot_sim.estimators.mismatch.clusters import Units
from jackpot_sim.readers.table import TokenTable

HARMLESS = 1e-3
"""Mean k3, nats per token, up to which a mismatch is no fault: below it lie bf16 and int8 actors of the small models of
`python -m tests.confusion`. A real model in bf16 may lie above, and is then named as `precision`."""
FLOOR = 1e-5
"""The square of ℓ that is added before its logarithm is taken: differences below |ℓ| ≈ 0.003 count for nothing."""
_ROUNDING = 1e-3
"""The entropy below 0 that rounding explains, nats."""
_OUTSIDE = 8.0
"""The tokens that must be expected outside of the top-k for their absence to be no chance."""
CLASSES = 8
"""The classes of log q within which tokens are as likely: rounding too makes more mismatch at unlikely ones."""


@dataclass(frozen=True, eq=False)
class View:
    """Whole sequences with both log-probs, finite; N tokens of S sequences."""

    table: TokenTable

    @cached_property
    def actor(self) -> Floats:
        """log q of each token, (N,), nats."""
        assert self.table.actor_log_probs is not None
        return self.table.actor_log_probs

    @cached_property
    def policy(self) -> Floats:
        """log p of each token, (N,), nats."""
        assert self.table.policy_log_probs is not None
        return self.table.policy_log_probs

    @cached_property
    def log_ratio(self) -> Floats:
        """ℓ = log p − log q, (N,), nats."""
        return np.asarray(log_ratio(self.policy, self.actor))

    @cached_property
    def units(self) -> Units:
        """The sequences, as clusters of the tokens."""
        return Units(self.table.owner, self.table.sequences)

    @cached_property
    def k3(self) -> Floats:
        """k3 of each token, (N,), nats."""
        return np.asarray(k3(self.log_ratio))

    @cached_property
    def square(self) -> Floats:
        """ℓ² of each token, (N,)."""
        return self.log_ratio**2

    @cached_property
    def total(self) -> float:
        """Mean ℓ² over tokens: the size of the mismatch, of which a cause explains a share."""
        return float(self.square.mean())

    @cached_property
    def sizes(self) -> Floats:
        """log(mean ℓ² + FLOOR) of each sequence, (S,)."""
        return np.asarray(np.log(self.table.per_sequence(self.square) / self.table.lengths + FLOOR))

    @cached_property
    def _class(self) -> Ints:
        """The class of log q, from 0 to CLASSES − 1, of each token, (N,)."""
        edges = np.quantile(self.actor, np.arange(1, CLASSES) / CLASSES)
        return np.asarray(np.searchsorted(edges, self.actor), dtype=np.int64)

    def usual(self, values: Floats, among: Flags | None = None) -> Floats:
        """The mean of values, (N,), over the tokens as likely as each, (N,), `among` some tokens: nan for no token."""
        some = np.ones(len(values), dtype=np.bool_) if among is None else among
        sums = np.bincount(self._class[some], values[some], minlength=CLASSES)
        with np.errstate(invalid="ignore"):
            return np.asarray((sums / np.bincount(self._class[some], minlength=CLASSES))[self._class])

    @cached_property
    def lag(self) -> Floats | None:
        """The steps since the weights that wrote each sequence, its mean, (S,), up to a constant; None if unknown."""
        if self.table.step is None or self.table.weight_version is None:
            return None
        versions = self.table.per_sequence(self.table.weight_version) / self.table.lengths
        return np.asarray(self.table.step - versions, dtype=np.float64)

    @cached_property
    def entropy(self) -> Floats | None:
        """The entropy of the policy's law at each token, (N,), nats.

        None where it is not known throughout, or where the column holds no entropies: negative numbers, or one number.
        """
        column = self.table.entropy
        if column is None or not np.isfinite(column).all():
            return None
        return column if column.min() >= -_ROUNDING and column.max() > column.min() else None

    @cached_property
    def deviation(self) -> Floats | None:
        """The log-probability of each token less its expectation under the policy, (N,); None if unknown.

        Its mean is 0 where tokens follow the policy. It rests on the entropy, or else on the top-k.
        """
        if self.entropy is not None:
            return np.asarray(self.policy + self.entropy)
        return _beyond_chance(self.table.policy_topk, self.table.token, self.policy)

    @cached_property
    def actor_deviation(self) -> Floats | None:
        """The same under the law that the actor reports, which only its top-k shows."""
        return _beyond_chance(self.table.actor_topk, self.table.token, self.actor)


def slope(of: Floats, on: Floats) -> float:
    """The least-squares slope of one column on another, (N,) each; 0 where the other is constant."""
    centred = on - on.mean()
    square = float(centred @ centred)
    return float(centred @ of) / square if square > 0 else 0.0


def _beyond_chance(topk: TopK | None, token: Ints | None, log_probs: Floats) -> Floats | None:
    """A score of each token less its expectation: log p for a token of the top-k, and one value for all others."""
    if topk is None or token is None:
        return None
    laws = np.asarray(topk.log_probs, dtype=np.float64)
    if np.isnan(laws).any():
        return None
    inside = np.any(np.asarray(topk.ids) == token[:, None], axis=-1)
    if inside.all() and np.sum(1 - np.exp(laws).sum(-1)) > _OUTSIDE:
        return None  # the sampled token was put on the list: the list says nothing about it
    finite = np.isfinite(laws)
    least = np.min(laws, axis=-1, where=finite, initial=0.0)
    mass = np.exp(laws)
    expected = np.sum(mass * np.where(finite, laws, 0.0), axis=-1) + (1 - mass.sum(-1)) * least
    return np.asarray(np.where(inside, log_probs, least) - expected)
