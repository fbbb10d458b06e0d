"""Base laws: the laws of one of the two policies, before the knob moves the other away.

Each is a frozen configuration with a `kind`, so that pydantic can read a union of them. `log_probs(generator)` gives
laws of shape (states, vocab) in nats. Errors name the field, or the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.backend import overflow_to_inf
from jackpot_sim.core.numerics import log_softmax
from jackpot_sim.environments.fields import FORBID_EXTRA, check_count, check_non_negative, check_positive, check_share
from jackpot_sim.environments.files import load_array
from jackpot_sim.environments.states.ngram import Ngram

OPEN_EXPONENT = (1.0, 1.6)
"""Zipf exponents of the open states of `LmLike`."""

DECADES_OF_DOUBT = (1.0, 5.0)
"""A near-certain state of `LmLike` leaves 10^−1 to 10^−5 to all tokens but the first."""

PROBABILITY_TOLERANCE = 1e-3
"""The largest miss of a sum of 1 by rows of numbers ≥ 0 that are taken for probabilities, in half precision too."""


@dataclass(frozen=True, kw_only=True)
class Dirichlet:
    """p ~ Dirichlet(concentration, …, concentration) at each state: [J] Fig. 2 has concentration 2."""

    kind: Literal["dirichlet"] = "dirichlet"
    vocab: int = 1000
    states: int = 64
    concentration: float = 2.0

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        check_count("vocab", self.vocab, 1)
        check_count("states", self.states, 1)
        check_positive("concentration", self.concentration)

    def log_probs(self, generator: np.random.Generator) -> Floats:
        """The laws, log p of shape (states, vocab)."""
        return log_dirichlet(generator, self.concentration, (self.states, self.vocab))


@dataclass(frozen=True, kw_only=True)
class Zipf:
    """p ∝ rank^−exponent, with the token ids permuted at each state. Exponent 0 is uniform."""

    kind: Literal["zipf"] = "zipf"
    vocab: int = 1000
    states: int = 64
    exponent: float = 1.2

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        check_count("vocab", self.vocab, 1)
        check_count("states", self.states, 1)
        check_non_negative("exponent", self.exponent)

    def log_probs(self, generator: np.random.Generator) -> Floats:
        """The laws, log p of shape (states, vocab)."""
        law = _zipf(np.full((self.states, 1), self.exponent), self.vocab)
        return generator.permuted(law, axis=1)


@dataclass(frozen=True, kw_only=True)
class LmLike:
    """Near-certain states beside open ones, as along the text of a language model.

    A share `near_certain` of the states (rounded to whole states) gives its first token 1 − 10^−U(1, 5) and spreads
    the rest over the others by Zipf; the other states are Zipf throughout. Every state has its own exponent U(1, 1.6)
    and its own permutation of the ids.
    """

    kind: Literal["lm-like"] = "lm-like"
    vocab: int = 1000
    states: int = 64
    near_certain: float = 0.7

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        check_count("vocab", self.vocab, 2)
        check_count("states", self.states, 1)
        check_share("near_certain", self.near_certain)

    def log_probs(self, generator: np.random.Generator) -> Floats:
        """The laws, log p of shape (states, vocab)."""
        exponent = generator.uniform(*OPEN_EXPONENT, size=(self.states, 1))
        doubt = 10.0 ** -generator.uniform(*DECADES_OF_DOUBT, size=(self.states, 1))
        law = _zipf(exponent, self.vocab)
        certain = slice(0, round(self.near_certain * self.states))
        law[certain, :1] = np.log1p(-doubt[certain])
        law[certain, 1:] = np.log(doubt[certain]) + _zipf(exponent[certain], self.vocab - 1)
        return generator.permuted(law, axis=1)


@dataclass(frozen=True, kw_only=True)
class LogitsFile:
    """Laws from a file of a real model's logits.

    `path` is a .npy file, or a .npz file that holds one array, of floating logits of shape (..., vocab) with two axes
    or more; all but the last are states. −inf marks a token that cannot occur. Pickled objects are never loaded.
    Draws that go with the file (advantage, noise) are keyed by the path as it is written.
    """

    kind: Literal["logits-file"] = "logits-file"
    path: Path

    __pydantic_config__ = FORBID_EXTRA

    def log_probs(self, generator: np.random.Generator) -> Floats:
        """The laws, log softmax of the file's logits, shape (states, vocab); nothing is drawn.

        Raises:
            ValueError: the file cannot be read, or does not hold logits; the error names it.
        """
        return read_log_probs(self.path)


BaseLaw: TypeAlias = Dirichlet | Zipf | LmLike | LogitsFile | Ngram


def read_log_probs(path: Path) -> Floats:
    """The laws of a file of logits, log softmax over its last axis, shape (states, vocab).

    Raises:
        ValueError: the file cannot be read, or does not hold logits; the error names it. Rows of probabilities are
            refused: their softmax is a law too, but nobody's.
    """
    logits = load_array(path, "logits")
    if np.issubdtype(logits.dtype, np.integer):
        raise ValueError(
            f"{path}: logits must be floating numbers, got dtype {logits.dtype}: save the model's floating "
            "logits; token ids and counts are none (logits that are whole numbers: save them as float32)"
        )
    if not np.issubdtype(logits.dtype, np.floating):
        raise ValueError(f"{path}: logits must be floating numbers, got dtype {logits.dtype}")
    if logits.ndim < 2 or logits.size == 0:
        raise ValueError(
            f"{path}: logits must have shape (..., vocab) with at least one state, two axes "
            f"or more and nothing empty, got {logits.shape}"
        )
    rows = logits.reshape(-1, logits.shape[-1]).astype(np.float64)
    with overflow_to_inf():
        sums_to_one = np.abs(np.sum(np.maximum(rows, 0.0), axis=-1) - 1) <= PROBABILITY_TOLERANCE
    if np.all(rows >= 0) and np.all(sums_to_one):
        raise ValueError(f"{path}: holds probabilities, not logits: save their logarithm")
    try:
        return np.asarray(log_softmax(rows))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def log_dirichlet(generator: np.random.Generator, concentration: float, shape: tuple[int, int]) -> Floats:
    """Logs of laws drawn from a symmetric Dirichlet over the last axis, shape `shape`.

    By Gamma(a) = Gamma(a + 1)·U^(1/a) in law, in log space: a small concentration makes probabilities that no float64
    holds, and their logarithms are still exact.
    """
    log_gamma = np.log(generator.standard_gamma(concentration + 1.0, size=shape))
    return np.asarray(log_softmax(log_gamma - generator.standard_exponential(shape) / concentration))


def _zipf(exponent: Floats, vocab: int) -> Floats:
    """Laws with log p ∝ −exponent·log rank, likeliest token first: exponent (states, 1) gives (states, vocab)."""
    return np.asarray(log_softmax(-exponent * np.log(np.arange(1.0, vocab + 1.0))))
