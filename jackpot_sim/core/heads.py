"""Laws of a language model from its last hidden states, a slice of the vocabulary at a time.

With 151,936 tokens of vocabulary the log-probs of a batch are larger than the model's own activations. A law
needs two passes over the vocabulary, one for its normaliser and one for the values that follow from it. Neither
pass has to hold more than a slice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from jackpot_sim.core.arrays import Array
from jackpot_sim.core.backend import floating, into, namespace, overflow_to_inf, stop_gradient

DEFAULT_CHUNKS = 64
"""The number of slices of a vocabulary by default: an array of one slice takes 1/64 of full log-probs."""


@dataclass(frozen=True, eq=False)
class Head:
    """The linear map from last hidden states to logits, a constant of differentiation.

    Attributes:
        weight: shape (vocab, hidden). Half precision is computed in float32, slice by slice.
        bias: shape (vocab,), or None.
        temperature: the positive divisor of the logits.

    Raises:
        ValueError: a shape does not fit, or the temperature is not positive and finite.
    """

    weight: Array
    bias: Array | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if floating(self.weight, "weight").ndim != 2 or 0 in self.weight.shape:
            raise ValueError(f"weight has shape {tuple(self.weight.shape)}: it must be (vocab, hidden), and not empty")
        if self.bias is not None and tuple(floating(self.bias, "bias").shape) != (self.vocab,):
            raise ValueError(f"bias has shape {tuple(self.bias.shape)}: it must be ({self.vocab},) like the weight")
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature must be positive and finite, got {self.temperature}")

    @property
    def vocab(self) -> int:
        """The number of tokens in the vocabulary."""
        return int(self.weight.shape[0])

    def chunks(self, chunk: int | None = None) -> Iterator[slice]:
        """Slices that cover the vocabulary, `chunk` tokens each; None makes `DEFAULT_CHUNKS` of them.

        Raises:
            ValueError: chunk < 1.
        """
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {chunk}")
        step = -(-self.vocab // DEFAULT_CHUNKS) if chunk is None else chunk
        for start in range(0, self.vocab, step):
            yield slice(start, min(start + step, self.vocab))

    def require(self, hidden: Array, name: str = "hidden") -> None:
        """Refuses hidden states that are not of this head's size.

        Raises:
            TypeError: `hidden` holds no real floating numbers.
            ValueError: the last axis has another length.
        """
        if floating(hidden, name).ndim == 0 or hidden.shape[-1] != self.weight.shape[1]:
            raise ValueError(
                f"{name} has shape {tuple(hidden.shape)}, the head's weight has shape {tuple(self.weight.shape)}: "
                "the last axes must be the same"
            )

    def logits(self, hidden: Array, tokens: slice = slice(None)) -> Array:
        """The logits of some tokens, from hidden states (..., hidden) to shape (..., tokens), nats.

        The dtype is the wider of those of the head and the hidden states, and at least float32.

        Raises:
            ValueError: the hidden states are not of this head's size, or as `require`.
        """
        self.require(hidden)
        xp = namespace(hidden, self.weight)
        weight = floating(stop_gradient(self.weight[tokens, ...]))
        states = floating(stop_gradient(hidden))
        dtype = xp.result_type(weight.dtype, states.dtype)
        rows = xp.reshape(xp.astype(states, dtype, copy=False), (-1, hidden.shape[-1]))
        logits = xp.matmul(rows, xp.matrix_transpose(xp.astype(weight, dtype, copy=False)))
        if self.bias is not None:
            logits += xp.astype(floating(stop_gradient(self.bias[tokens])), dtype, copy=False)
        if self.temperature != 1:
            logits /= self.temperature
        return xp.reshape(logits, (*hidden.shape[:-1], logits.shape[-1]))


@dataclass(frozen=True, eq=False)
class ChunkedLaw:
    """The laws of hidden states under a head, of which only the normalisers are computed.

    Attributes:
        head: the map from hidden states to logits.
        hidden: last hidden states, shape (..., hidden).
        peak: the largest logit of each state, shape (..., 1), nats.
        log_total: log Σ exp(logit − peak), shape (..., 1), nats. It is kept apart from the peak: added to a
            large peak it would keep few digits after the point.
    """

    head: Head
    hidden: Array
    peak: Array
    log_total: Array

    @classmethod
    def of(cls, head: Head, hidden: Array, chunk: int | None = None) -> ChunkedLaw:
        """The normaliser in one pass over chunks of the vocabulary, O(tokens × chunk) in memory.

        Raises:
            ValueError: a state's logits hold NaN or +inf, or nothing but −inf; chunk < 1, or the hidden
                states are not of the head's size.
        """
        head.require(hidden)
        xp = namespace(hidden, head.weight)
        running: tuple[Array, Array] | None = None
        with overflow_to_inf():
            for tokens in head.chunks(chunk):
                logits = head.logits(hidden, tokens)
                top = xp.max(logits, axis=-1, keepdims=True)
                if running is None:
                    running = xp.where(xp.isfinite(top), top, xp.zeros_like(top)), xp.zeros_like(top)
                peak, total = running
                # The running total is rescaled to the larger peak; while it is 0, any peak will do.
                larger = xp.where(total > 0, xp.maximum(peak, top), top)
                larger = xp.where(xp.isfinite(larger), larger, peak)
                logits -= larger
                into(logits, "exp", logits)
                moved = total * xp.exp(xp.where(total > 0, peak - larger, 0.0))
                running = larger, moved + xp.sum(logits, axis=-1, keepdims=True)
        assert running is not None
        peak, total = running
        if not bool(xp.all(xp.isfinite(total) & (total > 0))):
            raise ValueError("logits: a state holds NaN or +inf, or nothing but -inf")
        return cls(head, hidden, peak, xp.log(total))

    def log_probs(self, tokens: slice) -> Array:
        """The log-probs of some tokens, shape (..., tokens), nats."""
        out = self.head.logits(self.hidden, tokens)
        out -= self.peak
        out -= self.log_total
        return out
