"""The part of a law over a large vocabulary that a rollout stores: the k likeliest tokens and their log-probs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jackpot_sim.core import backend
from jackpot_sim.core.arrays import Array
from jackpot_sim.core.backend import floating, namespace, stop_gradient
from jackpot_sim.core.checks import check_ids, check_log_probs, check_same_shape, check_same_states, require_vocabulary


@dataclass(frozen=True, eq=False)
class TopK:
    """The k likeliest tokens of each state, in 8·k bytes.

    Attributes:
        ids: the tokens, int32 of shape (..., k), likeliest first; among ties the lower id first.
        log_probs: their log-probabilities under the law that was sampled from, float32 of the same
            shape, nats; −inf where the law has fewer than k tokens.

    Raises:
        ValueError: the shapes differ, k is 0, or an array is not of the dtype above.
    """

    ids: Array
    log_probs: Array

    def __post_init__(self) -> None:
        check_same_shape(self.ids, self.log_probs, "ids", "log_probs")
        require_vocabulary(self.log_probs, "log_probs")
        xp = namespace(self.ids, self.log_probs)
        for name, dtype in (("ids", xp.int32), ("log_probs", xp.float32)):
            if getattr(self, name).dtype != dtype:
                raise ValueError(f"{name} has dtype {getattr(self, name).dtype}: store it as {dtype}")

    @classmethod
    def of(cls, log_probs: Array, k: int) -> TopK:
        """The top-k of laws of shape (..., vocab), nats, as constants of differentiation.

        Args:
            log_probs: the laws; −inf marks a token that cannot be sampled.
            k: the number of tokens kept, 1 ≤ k; a k beyond the vocabulary keeps all of it.

        Raises:
            ValueError: k < 1, or a law is not normalised.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        log_probs = stop_gradient(check_log_probs(log_probs, "log_probs"))
        xp = namespace(log_probs)
        values, ids = backend.topk(log_probs, k)
        return cls(xp.astype(ids, xp.int32), xp.astype(values, xp.float32))

    @property
    def k(self) -> int:
        """The number of tokens kept per state."""
        return int(self.ids.shape[-1])

    @property
    def nbytes(self) -> int:
        """Bytes of both arrays: 8·k per state."""
        return 8 * int(math.prod(self.ids.shape))

    def first(self, k: int) -> TopK:
        """The k likeliest of these tokens, 1 ≤ k; a k beyond their number keeps all of them."""
        return TopK(self.ids[..., :k], self.log_probs[..., :k])

    def gather(self, log_probs: Array) -> Array:
        """Another law, of shape (..., vocab), on these tokens: shape (..., k), in its own dtype.

        Raises:
            ValueError: the leading shapes differ, or an id lies outside the vocabulary.
        """
        check_same_states(floating(log_probs, "log_probs"), self.ids, "log_probs", "ids")
        check_ids(self.ids, log_probs.shape[-1], "ids of log_probs")
        xp = namespace(log_probs, self.ids)
        return xp.take_along_axis(log_probs, xp.astype(self.ids, xp.int64), axis=-1)
