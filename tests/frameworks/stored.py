"""The stored values of a framework, and ours from the same batches."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from jackpot_sim.estimators import Correction, Tokens, TokenWeights


@cache
def stored(framework: str) -> Any:
    return json.loads((Path(__file__).parent / f"{framework}.json").read_text())


def tokens_of(batch: Any, *, clamp: float = np.inf) -> Tokens:
    """The tokens of a batch, in float64; `clamp` bounds ℓ, as frameworks do and we do not."""
    policy, actor = np.array(batch["policy"]), np.array(batch["actor"])
    return Tokens(
        np.clip(policy - actor, -clamp, clamp),
        policy_log_probs=policy,
        actor_log_probs=actor,
        mask=np.array(batch["mask"], dtype=bool),
        advantages=np.array(batch["advantage"])[:, None],
    )


def ours(correction: Correction, tokens: Tokens) -> tuple[Any, Any, Any]:
    """a, w, and the mask, in numpy."""
    found: TokenWeights = correction.weights(tokens)
    return np.asarray(found.accept), np.asarray(found.weight), np.asarray(tokens.mask)
