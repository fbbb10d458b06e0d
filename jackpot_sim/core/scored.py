"""Sequences with the log-probs that two policies give every written token, as a trainer has them.

`sequences` holds whole laws in tables of prefixes. A real vocabulary is too large for such tables, so only
values of the drawn tokens are held here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.core.backend import floating
from jackpot_sim.core.checks import check_advantage, check_integers, check_mask, check_shape
from jackpot_sim.core.numerics import log_ratio


@dataclass(frozen=True, eq=False)
class ScoredRollouts:
    """n sequences of at most `length` tokens; arrays of shape (n, length) unless said.

    Attributes:
        policy_log_probs: log p(y_t|s_t) of the policy that is trained, float64, nats.
        actor_log_probs: log q(y_t|s_t) of the policy that writes rollouts, float64, nats.
        mask: True on tokens, which come before all padding; at padding the other arrays may hold anything.
        advantage: A(y) of each sequence, shape (n,).
        prompt: the number of the prompt of each sequence, int64, shape (n,).

    Raises:
        TypeError: the mask is not boolean, prompts are no integers, or the other arrays no real floating numbers.
        ValueError: the shapes do not fit, a sequence has no token, a log-prob of a token is NaN or +inf, or an
            advantage is not finite.
    """

    policy_log_probs: Floats
    actor_log_probs: Floats
    mask: Flags
    advantage: Floats
    prompt: Ints

    def __post_init__(self) -> None:
        for name in ("policy_log_probs", "actor_log_probs"):
            values: Floats = getattr(self, name)
            floating(values, name)
            check_mask(self.mask, values, name)
            if not np.all(values[self.mask] < np.inf):  # False for NaN too
                raise ValueError(f"{name} holds NaN or +inf at a token")
        if self.mask.ndim != 2:
            raise ValueError(f"mask has shape {self.mask.shape}: it must be (n, length), one row per sequence")
        check_advantage(self.advantage)
        check_integers(self.prompt, "prompt")
        for name in ("advantage", "prompt"):
            check_shape(getattr(self, name), (len(self.mask),), name, "one number per sequence")
        if self.mask.size == 0 or not np.all(self.mask.any(axis=-1)):
            raise ValueError("mask leaves a sequence without any token")

    def __len__(self) -> int:
        return len(self.mask)

    @cached_property
    def lengths(self) -> Floats:
        """The number of tokens of each sequence, shape (n,)."""
        return np.asarray(self.mask.sum(axis=-1), dtype=np.float64)

    @cached_property
    def log_ratio(self) -> Floats:
        """ℓ = log p − log q at every token, shape (n, length), 0 at padding; nats."""
        log_p, log_q = (np.where(self.mask, each, 0.0) for each in (self.policy_log_probs, self.actor_log_probs))
        return np.asarray(log_ratio(log_p, log_q))

    def take(self, rows: slice | Ints) -> ScoredRollouts:
        """Some of the sequences, by rows (m,) or a slice."""
        return ScoredRollouts(
            self.policy_log_probs[rows],
            self.actor_log_probs[rows],
            self.mask[rows],
            self.advantage[rows],
            self.prompt[rows],
        )
