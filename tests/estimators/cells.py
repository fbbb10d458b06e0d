"""States to try estimators on, drawn from a seed."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.core.laws import normalised
from tests.estimators.brute import Cell

COLUMNS = (
    *("acceptance_rate", "kl_accepted", "kl_effective", "grad_norm_sq", "on_policy_variance", "bias_sq"),
    *("direction_bias", "gain", "variance", "noise_to_signal", "mse", "mse_rescaled", "ess_fraction"),
    "degenerate_states",
)


def random_cell(states: int, vocab: int, seed: int = 0, shift: float = 0.7) -> Cell:
    """Ordinary states: policy logits N(0, 1), the actor's off by N(0, shift²), advantages N(0, 1)."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(states, vocab))
    policy = normalised(logits)
    actor = normalised(logits + shift * generator.normal(size=(states, vocab)))
    return Cell(policy, actor, generator.normal(size=(states, vocab)))


def columns(moments: Any) -> dict[str, Any]:
    """The figures of a `Moments`, the bias squared: near 0 its root has only half of the digits."""
    return {name: moments.bias**2 if name == "bias_sq" else getattr(moments, name) for name in COLUMNS}


def assert_same(found: Any, expected: Any, rtol: float = 1e-13, atol: float = 1e-13) -> None:
    """Every column of two `Moments`."""
    other = columns(expected)
    for name, value in columns(found).items():
        np.testing.assert_allclose(value, other[name], rtol=rtol, atol=atol, err_msg=name)
