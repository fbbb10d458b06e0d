"""Tokens to try corrections on, in every array library that is installed."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from jackpot_sim.core.arrays import Array, Flags, Floats
from jackpot_sim.estimators import Correction, Level, Tokens, TokenWeights

INF = math.inf
OVERLAP = 0.8
"""Z of the tokens, unless something else is said."""
SIGNS = (1.0, -1.0, 0.0, 2.0, -0.5)
"""Advantages of the tokens, in turn."""

ToLibrary: TypeAlias = Callable[[Floats | Flags], Array]
"""A numpy array, of numbers or flags, as one of another library."""


def weighs_tokens(correction: Correction) -> bool:
    """True for a correction that weighs each token by itself, as exact figures at states require."""
    return correction.level is Level.TOKEN


def draws(shape: tuple[int, ...] = (5, 40), seed: int = 3, scale: float = 1.0) -> Floats:
    """Log-ratios N(0, scale²) of this shape, nats."""
    return np.random.default_rng(seed).normal(scale=scale, size=shape)


def fields_beside(log_ratio: Floats) -> dict[str, Floats]:
    """The fields that a correction may look at besides ℓ and Z: A of all signs, and p, q ≤ 1 with p/q = e^ℓ."""
    last = log_ratio.shape[-1] if log_ratio.ndim else 1
    signs, larger = (np.resize(values, last) for values in (SIGNS, [0.9, 0.3, 1.0, 1e-3]))
    fields = {
        "advantages": np.broadcast_to(signs, (*log_ratio.shape[:-1], last)),
        "policy_log_probs": np.log(larger) + np.minimum(log_ratio, 0.0),
        "actor_log_probs": np.log(larger) - np.maximum(log_ratio, 0.0),
    }
    return {name: np.array(values).reshape(log_ratio.shape) for name, values in fields.items()}


def tokens_of(
    correction: Correction,
    log_ratio: Floats,
    overlap: float | Floats = OVERLAP,
    to_library: ToLibrary = np.asarray,
    mask: Flags | None = None,
    fields: Mapping[str, Floats] | None = None,
) -> Tokens:
    """Tokens with the fields that the correction needs; for sequences with a mask, in which all tokens count.

    Args:
        correction: the correction.
        log_ratio: ℓ, nats.
        overlap: Z, a number or as in `Tokens`.
        to_library: makes the arrays.
        mask: another mask.
        fields: other values of fields, which are taken where the correction needs them.
    """
    values = {
        name: values
        for name, values in (fields_beside(log_ratio) | dict(fields or {})).items()
        if name in correction.needs
    }
    if correction.overlap_lam is not None:
        values["overlap"] = np.asarray(overlap, dtype=np.float64)
    if mask is None and not weighs_tokens(correction):
        mask = np.ones(log_ratio.shape, dtype=bool)
    given = {name: to_library(each) for name, each in values.items()}
    return Tokens(to_library(log_ratio), mask=None if mask is None else to_library(mask), **given)


def weigh(correction: Correction, log_ratio: Floats, overlap: float | Floats = OVERLAP) -> TokenWeights[Floats]:
    """(a, w) of tokens with these log-ratios."""
    accept, weight = correction.weights(tokens_of(correction, log_ratio, overlap))
    return TokenWeights(np.asarray(accept), np.asarray(weight))


def libraries() -> dict[str, ToLibrary]:
    """The array libraries that are installed, each by a function that makes its arrays: numbers as float64."""
    strict = "array_api_strict"
    modules = {"numpy": "array_api_compat.numpy", "torch": "array_api_compat.torch", strict: strict}
    return {name: _maker(module) for name, module in modules.items() if importlib.util.find_spec(name) is not None}


def _maker(module: str) -> ToLibrary:
    library = importlib.import_module(module)

    def make(values: Floats | Flags) -> Array:
        made: Array = library.asarray(np.array(values))
        return made

    return make
