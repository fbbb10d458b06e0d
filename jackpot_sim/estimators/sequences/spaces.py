"""The space of gradients: the logits at every prefix, or the parameters of a model.

φ(s, x) = ∇ log p(x|s) is the contribution of a token to the update. In logits it is e_x − p(·|s) in the row of its
prefix, so that tokens at different prefixes are orthogonal; in parameters they are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from typing_extensions import override

from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.checks import check_axes, check_floats
from jackpot_sim.core.policy_gradient import feature_norm_sq, gradient_under
from jackpot_sim.core.sequences import SequenceLaws, Sequences, per_sequence

_BLOCK = 1 << 22
"""The number of elements of per-sequence gradients in parameters that are held at a time."""
_ON_TABLE, _ON_TOKENS = "one number per prefix and token", "one number per token of each sequence"


def check_features(features: Sequence[Floats], laws: Sequence[SequenceLaws]) -> None:
    """Refuses features that are not one array of shape (prefixes, vocab, parameters) for each prompt.

    Raises:
        TypeError: one is not a numpy array of real floating numbers.
        ValueError: there are more or fewer than prompts, or a shape does not fit the laws.
    """
    if len(features) != len(laws):
        raise ValueError(f"features holds {len(features)} arrays for {len(laws)} prompts")
    for each, own in zip(features, laws, strict=True):
        _check_features(each, own.shape)


def _check_features(features: Floats, table: tuple[int, ...]) -> None:
    check_floats(features, (*table, *np.shape(features)[2:]), "features", "one number per prefix, token and parameter")
    check_axes(features, "features", "prefixes", "vocab", "parameters")


def believed_features(features: Floats, laws: SequenceLaws) -> Floats:
    """∂log p̂(x|s)/∂θ of the policy as a trainer believes it, from ∂log p/∂θ; (prefixes, vocab, parameters).

    p̂ is p renormalised on a support, or p itself: ∂log p̂ = ∂log p − E_p̂[∂log p].
    """
    _check_features(features, laws.shape)
    if laws.told.policy_log_probs is laws.policy_log_probs:
        return features
    p = np.exp(laws.told.policy_log_probs)
    return np.asarray(features - np.einsum("sx,sxp->sp", p, features)[:, None])


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

    def centred_path_norm_sq(self, sequences: Sequences, coefficients: Floats, weight: Floats, law: Floats) -> Floats:
        """‖Σ_t c_t (v(s_t, y_t) φ(s_t, y_t) − h(s_t))‖² of every sequence, with h(s) = Σ_x law(s, x) φ(s, x).

        Args:
            sequences: n sequences.
            coefficients: c, shape (n, length), 0 at padding.
            weight: v, shape (prefixes, vocab).
            law: any measure, the same shape.

        Returns:
            Shape (n,).
        """
        ...


class Logits(Space):
    """The logits at every prefix, from laws p of shape (prefixes, vocab); vectors have the same shape.

    Raises:
        TypeError: an array is not a numpy array of real floating numbers.
        ValueError: an array has another shape than its space wants.
    """

    def __init__(self, p: Floats) -> None:
        check_axes(check_floats(p, np.shape(p), "p", _ON_TABLE), "p", "prefixes", "vocab")
        self._p = p
        self.norm_sq: Floats = np.asarray(feature_norm_sq(p, np.ones_like(p)))

    @override
    def update(self, mass: Floats) -> Floats:
        check_floats(mass, self._p.shape, "mass", _ON_TABLE)
        return np.asarray(gradient_under(mass, self._p, np.ones_like(self._p)))

    @override
    def along(self, vector: Floats) -> Floats:
        check_floats(vector, self._p.shape, "vector", _ON_TABLE)
        return np.asarray(vector - np.sum(self._p * vector, axis=-1, keepdims=True))

    @override
    def path_norm_sq(self, sequences: Sequences, coefficients: Floats) -> Floats:
        check_floats(coefficients, sequences.mask.shape, "coefficients", _ON_TOKENS)
        return per_sequence(coefficients, coefficients, sequences.gather(self.norm_sq))

    @override
    def centred_path_norm_sq(self, sequences: Sequences, coefficients: Floats, weight: Floats, law: Floats) -> Floats:
        check_floats(coefficients, sequences.mask.shape, "coefficients", _ON_TOKENS)
        check_floats(weight, self._p.shape, "weight", _ON_TABLE)
        check_floats(law, self._p.shape, "law", _ON_TABLE)
        mean = self.update(law)  # the row of a prefix holds its h
        across = -2 * weight * self.along(mean) + np.sum(mean**2, axis=-1, keepdims=True)
        return per_sequence(coefficients, coefficients, sequences.gather(weight**2 * self.norm_sq + across))


class Parameters(Space):
    """A model's parameters, from ∂log p(x|s)/∂θ, (prefixes, vocab, parameters); vectors are (parameters,).

    Raises:
        TypeError: an array is not a numpy array of real floating numbers.
        ValueError: an array has another shape than its space wants.
    """

    def __init__(self, features: Floats) -> None:
        _check_features(features, np.shape(features)[:2])
        self._features = features
        self.norm_sq: Floats = np.asarray(np.einsum("sxp,sxp->sx", features, features))

    @override
    def update(self, mass: Floats) -> Floats:
        check_floats(mass, self.norm_sq.shape, "mass", _ON_TABLE)
        return np.asarray(np.tensordot(mass, self._features, axes=2))

    @override
    def along(self, vector: Floats) -> Floats:
        check_floats(vector, self._features.shape[2:], "vector", "one number per parameter")
        return np.asarray(self._features @ vector)

    @override
    def path_norm_sq(self, sequences: Sequences, coefficients: Floats) -> Floats:
        check_floats(coefficients, sequences.mask.shape, "coefficients", _ON_TOKENS)
        return _path_norm_sq(self._features, sequences, coefficients)

    @override
    def centred_path_norm_sq(self, sequences: Sequences, coefficients: Floats, weight: Floats, law: Floats) -> Floats:
        check_floats(coefficients, sequences.mask.shape, "coefficients", _ON_TOKENS)
        check_floats(weight, self.norm_sq.shape, "weight", _ON_TABLE)
        check_floats(law, self.norm_sq.shape, "law", _ON_TABLE)
        mean = np.einsum("sx,sxp->sp", law, self._features)
        return _path_norm_sq(weight[..., None] * self._features - mean[:, None, :], sequences, coefficients)


def _path_norm_sq(features: Floats, sequences: Sequences, coefficients: Floats) -> Floats:
    """‖Σ_t c_t·features(s_t, y_t)‖² of every sequence, (n,), a block of sequences at a time."""
    out = np.zeros(len(sequences))
    step = max(1, _BLOCK // features.shape[-1])
    for start in range(0, len(sequences), step):
        rows = slice(start, start + step)
        total: Floats = np.zeros(())
        for t in range(sequences.mask.shape[1]):
            phi = features[sequences.prefix[rows, t], sequences.token[rows, t]]
            total = total + coefficients[rows, t, None] * phi
        out[rows] = np.sum(total**2, axis=-1)
    return out
