"""The tokens that count, as every accumulator of the one pass over a dump reads them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, Self

import numpy as np

from jackpot_sim.core import log_ratios
from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.core.numerics import exp_difference, log_ratio
from jackpot_sim.diagnose.laws import Laws, laws
from jackpot_sim.readers.table import TokenTable

GROUPS = 512
"""The groups of sequences over which intervals resample: sequence i of a dump is in group i mod GROUPS.

Up to so many sequences, each is a group of its own; beyond, memory no longer grows with the dump.
"""


CONFIDENT, LOWER = math.log(0.5), 2.0
"""A confident disagreement: the actor gave the token at least this log-prob, and the policy so many nats less."""


def disagrees_confidently(actor_log_probs: Floats, log_ratio: Floats) -> Flags:
    """True at tokens to which the actor gave at least 0.5 and the policy more than 2 nats less, (N,)."""
    return np.asarray((actor_log_probs >= CONFIDENT) & (log_ratio < -LOWER))


@dataclass(frozen=True, eq=False)
class Batch:
    """Some whole sequences, of which only the tokens that count are left: both log-probs are finite.

    Attributes:
        table: the tokens, with `actor_log_probs` and `policy_log_probs`.
        first: the number of its first sequence among all sequences of the dump that are used.
    """

    table: TokenTable
    first: int

    def __post_init__(self) -> None:
        if self.table.actor_log_probs is None or self.table.policy_log_probs is None:
            raise ValueError("table lacks the log-probs of a side: recompute them first")

    @cached_property
    def log_ratio(self) -> Floats:
        """ℓ = log p − log q of each token, (N,), nats."""
        return np.asarray(log_ratio(self.policy_log_probs, self.actor_log_probs))

    @cached_property
    def size(self) -> Floats:
        """|ℓ| of each token, (N,), nats."""
        return np.asarray(np.abs(self.log_ratio))

    @cached_property
    def k3(self) -> Floats:
        """r − 1 − ℓ of each token, (N,), nats; inf where r exceeds the largest float."""
        return np.asarray(log_ratios.k3(self.log_ratio))

    @cached_property
    def probability_gap(self) -> Floats:
        """|p − q| of each token, (N,)."""
        return np.asarray(np.abs(np.asarray(exp_difference(self.policy_log_probs, self.actor_log_probs))))

    @cached_property
    def total(self) -> Floats:
        """S = Σ ℓ over the tokens of each sequence, (S,), nats."""
        return self.table.per_sequence(self.log_ratio)

    @cached_property
    def laws(self) -> Laws | None:
        """The bounds on both laws that their top-k give at each token; None where there are none."""
        return laws(self.table, self.policy_log_probs, self.actor_log_probs)

    @property
    def policy_log_probs(self) -> Floats:
        """log p of each token, (N,), nats."""
        assert self.table.policy_log_probs is not None
        return self.table.policy_log_probs

    @property
    def actor_log_probs(self) -> Floats:
        """log q of each token, (N,), nats."""
        assert self.table.actor_log_probs is not None
        return self.table.actor_log_probs

    @cached_property
    def confident(self) -> Floats:
        """1 at tokens where the policy disagrees with a confident actor, else 0, (N,)."""
        return disagrees_confidently(self.actor_log_probs, self.log_ratio).astype(np.float64)

    @cached_property
    def group(self) -> Ints:
        """The group of each sequence, (S,)."""
        return np.asarray((self.first + np.arange(self.table.sequences)) % GROUPS)

    def by_group(self, per_sequence: Floats) -> Floats:
        """Σ over the sequences of each group: (S, ...) → (GROUPS, ...)."""
        # Neighbours are in neighbouring groups, so that rounds of all groups can be added as they stand.
        before, others = self.first % GROUPS, per_sequence.shape[1:]
        rounds = np.zeros((-(-(before + len(per_sequence)) // GROUPS) * GROUPS, *others))
        rounds[before : before + len(per_sequence)] = per_sequence
        return np.asarray(rounds.reshape(-1, GROUPS, *others).sum(axis=0))

    def token_sums(self, *values: Floats | None) -> Floats:
        """Σ over the tokens of each group of each value, (N,) each, None for the number of tokens: (GROUPS, values)."""
        ones = np.ones(len(self.table))
        columns = [ones if each is None else each for each in values]
        return self.by_group(np.stack([self.table.per_sequence(each) for each in columns], axis=-1))


class Accumulator(Protocol):
    """Sums, samples or extremes over a dump, a batch at a time.

    A fresh one adds each batch, perhaps in another process, and they are merged in the order of the dump: results do
    not depend on the number of workers.
    """

    def add(self, batch: Batch) -> None:
        """Takes the batch in."""

    def merge(self, later: Self) -> None:
        """Takes in what another one has of the batches that come next."""
