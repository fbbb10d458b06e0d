"""The doors of jackpot_sim.core."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jackpot_sim.core import (
    obrs,
)
from tests.doors.harness import Door, Given, Sizes, array, laws, numbers

PAIR = {"policy_log_probs": array("states vocab", laws), "actor_log_probs": array("states vocab", laws)}
TWO = {"p": array("states vocab", laws), "q": array("states vocab", laws)}
LAM = {"lam": array("states", numbers(0.5, 2.0), "states 1", "1 1", "", any_dtype=True)}
TOPK = {
    "policy_topk_log_probs": array("states k", lambda generator, shape, sizes: laws(generator, shape, sizes) - 0.1),
    "actor_topk_log_probs": array("states k", lambda generator, shape, sizes: laws(generator, shape, sizes) - 0.1),
}


def same(*names: str, shape: str = "states vocab") -> Mapping[str, Given]:
    """Arguments of one shape."""
    return {name: array(shape) for name in names}


def with_k(generator: np.random.Generator, sizes: Sizes) -> Mapping[str, Any]:
    """The number of tokens of a top-k."""
    return {"k": 2}


DOORS = (
    Door(
        obrs.acceptance_probability,
        {
            "log_ratio": array("states vocab", any_shape=True),
            "lam": array("states vocab", numbers(0.5, 2), "states 1", "1 vocab", "1 1", "", any_dtype=True),
        },
    ),
    Door(obrs.overlap, PAIR | LAM),
)
