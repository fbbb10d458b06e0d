"""The space of gradients: the logits at every prefix, or the parameters of a model.

φ(s, x) = ∇ log p(x|s) is the contribution of a token to the update. In logits it is e_x − p(·|s) in the row of its
prefix, so that tokens at different prefixes are orthogonal; in parameters they are not.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from typing_extensions import override

from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.policy_gradient import feature_norm_sq, gradient_under
from jackpot_sim.core.sequences import Sequences, per_sequence

_BLOCK = 1 << 22
"""The number of elements of per-sequence gradients in parameters that are held at a time."""


class Space(Protocol):
    """A space of gradients."""

    norm_sq: Floats
    """‖φ(s, x)‖², shape (prefixes, vocab)."""

    def update(self, mass: Floats) -> Floats:
        """Σ mass(s, x) φ(s, x), a vector of the space, from a mass of shape (prefixes, vocab)."""
        ...

    def along(self, vector: Floats) -> Floats:
        """⟨φ(s, x), vector⟩, shape (prefixes, vocab), from a vector of the space."""
        ...

    def path_norm_sq(self, sequences: Sequences, coefficients: Floats) -> Floats:
        """‖Σ_t c_t φ(s_t, y_t)‖² of every sequence, shape (n,), from c of shape (n, length), 0 at padding."""
        ...


class Logits(Space):
    """The logits at every prefix, from laws p of shape (prefixes, vocab); vectors have the same shape."""

    def __init__(self, p: Floats) -> None:
        self._p = p
        self.norm_sq: Floats = np.asarray(feature_norm_sq(p, np.ones_like(p)))

    @override
    def update(self, mass: Floats) -> Floats:
        return np.asarray(gradient_under(mass, self._p, np.ones_like(self._p)))

    @override
    def along(self, vector: Floats) -> Floats:
        return np.asarray(vector - np.sum(self._p * vector, axis=-1, keepdims=True))

    @override
    def path_norm_sq(self, sequences: Sequences, coefficients: Floats) -> Floats:
        return per_sequence(coefficients, coefficients, sequences.gather(self.norm_sq))


class Parameters(Space):
    """A model's parameters, from ∂log p(x|s)/∂θ, (prefixes, vocab, parameters); vectors are (parameters,)."""

    def __init__(self, features: Floats) -> None:
        self._features = features
        self.norm_sq: Floats = np.asarray(np.einsum("sxp,sxp->sx", features, features))

    @override
    def update(self, mass: Floats) -> Floats:
        return np.asarray(np.tensordot(mass, self._features, axes=2))

    @override
    def along(self, vector: Floats) -> Floats:
        return np.asarray(self._features @ vector)

    @override
    def path_norm_sq(self, sequences: Sequences, coefficients: Floats) -> Floats:
        out = np.zeros(len(sequences))
        step = max(1, _BLOCK // self._features.shape[-1])
        for start in range(0, len(sequences), step):
            rows = slice(start, start + step)
            total: Floats = np.zeros(())
            for t in range(sequences.mask.shape[1]):
                phi = self._features[sequences.prefix[rows, t], sequences.token[rows, t]]
                total = total + coefficients[rows, t, None] * phi
            out[rows] = np.sum(total**2, axis=-1)
        return out
