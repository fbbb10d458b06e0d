"""The batches that frameworks and we are given: random log-probs of both policies, masks and advantages.

Nothing of the project is imported here, since this runs in the framework's own environment.
"""

from __future__ import annotations

from typing import Any

import numpy as np

SCALES = {"tiny": 0.002, "near": 0.05, "far": 0.5, "wild": 2.0}
"""Standard deviations of ℓ by the name of a batch, nats."""
CLAMPED = "clamped"
"""A batch with log-ratios beyond ±20, which frameworks clamp."""


def batches() -> dict[str, dict[str, Any]]:
    """Batches by name: log p and log q (rows, length), a mask with holes, and A, (rows,); rounded to 6 decimals."""
    return {name: _batch(seed, scale) for seed, (name, scale) in enumerate(SCALES.items())} | {CLAMPED: _clamped()}


def _batch(seed: int, scale: float, rows: int = 6, length: int = 8) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    actor = np.log(generator.uniform(0.02, 0.95, size=(rows, length)))
    policy = np.minimum(actor + generator.normal(scale=scale, size=actor.shape), -0.002)
    mask = np.arange(length) < generator.integers(3, length + 1, size=(rows, 1))
    mask &= generator.random(mask.shape) < 0.85
    mask[:, 0] = True
    return _rounded(policy, actor, mask, generator.normal(size=rows))


def _clamped() -> dict[str, Any]:
    policy = np.array([[-0.5, -1.0, -26.0], [-0.3, -0.2, -0.7]])
    actor = np.array([[-23.0, -1.1, -1.0], [-0.3, -24.5, -0.9]])
    return _rounded(policy, actor, np.ones((2, 3), dtype=bool), np.array([0.7, -1.3]))


def _rounded(policy: Any, actor: Any, mask: Any, advantage: Any) -> dict[str, Any]:
    return {
        "policy": np.round(policy, 6).tolist(),
        "actor": np.round(actor, 6).tolist(),
        "mask": mask.astype(int).tolist(),
        "advantage": np.round(advantage, 6).tolist(),
    }
