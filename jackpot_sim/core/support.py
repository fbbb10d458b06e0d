"""The support that a sampler left of a law, and the laws between which a trainer takes its ratios.

A sampler that cuts a law, by top-p or top-k, returns log-probs of what is left, renormalised. Against the policy's law
over the whole vocabulary their ratio is then r = S·(p/S)/q at every token, where S is the policy's mass on the tokens
kept: at a cut of the policy itself nothing but S. Trainers that record the tokens kept renormalise the policy on them
too (the "sampling mask" of DeepSeek-V3.2, support replay); their r is (p/S)/q, and their gradients are those of p/S.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from jackpot_sim.core.arrays import Array, Flags, Ints
from jackpot_sim.core.backend import namespace
from jackpot_sim.core.checks import check_ids, check_integers, check_numpy, check_pair, check_rows
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


@dataclass(frozen=True, eq=False)
class SamplingMask:
    """The tokens that a sampler kept at some states, as inference servers return them; numpy arrays.

    Attributes:
        ids: the tokens kept, one state after the other, int32 (total,).
        offsets: state i kept ids[offsets[i] : offsets[i + 1]], int64 (states + 1,).
        places: the state of each token of n sequences, (n, length) or any shape. A state without any ids was not cut.

    Raises:
        TypeError: an array is not a numpy array of integers.
        ValueError: the offsets do not lead from 0 to the number of ids, or a place has no state.
    """

    ids: Ints
    offsets: Ints
    places: Ints

    def __post_init__(self) -> None:
        check_numpy(ids=self.ids, offsets=self.offsets, places=self.places)
        check_integers(self.offsets, "offsets", "states + 1")
        check_integers(self.ids, "ids", "total")
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.ids) or np.any(np.diff(self.offsets) < 0):
            raise ValueError(f"offsets must grow from 0 to the number of ids, which is {len(self.ids)}")
        check_ids(self.places, len(self.offsets) - 1, "places")

    def take(self, rows: slice | Ints) -> SamplingMask:
        """Those of some sequences, by rows (m,) or a slice."""
        check_rows(rows)
        return SamplingMask(self.ids, self.offsets, self.places[rows])

    def dense(self, vocab: int) -> Flags:
        """True on the tokens kept, (n, length, vocab); everywhere at a state that was not cut.

        Raises:
            ValueError: an id is none of the vocabulary.
        """
        check_ids(self.ids, vocab, "ids")
        places = self.places.reshape(-1)
        count = self.offsets[places + 1] - self.offsets[places]
        row = np.repeat(np.arange(len(places)), count)
        within = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        out: Flags = np.zeros((len(places), vocab), dtype=np.bool_)
        out[row, self.ids[np.repeat(self.offsets[places], count) + within]] = True
        out[count == 0] = True
        return out.reshape(*self.places.shape, vocab)
