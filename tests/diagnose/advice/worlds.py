"""Samples of which the figures are known in closed form."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import norm

from jackpot_sim.core.arrays import Floats
from jackpot_sim.diagnose.batch import Batch
from jackpot_sim.diagnose.evidence import Evidence
from jackpot_sim.diagnose.measure.metrics import Metrics
from jackpot_sim.readers.left_out import LeftOut
from jackpot_sim.readers.table import TokenTable


def sample(log_ratio: Floats, actor: Floats | float = -20.0, advantages: Floats | None = None) -> TokenTable:
    """Sequences of equal length with these ℓ, (sequences, length), and log q."""
    sequences, length = log_ratio.shape
    own = np.broadcast_to(np.asarray(actor, dtype=np.float64), log_ratio.shape)
    names = tuple(map(str, range(sequences)))
    return TokenTable(
        names,
        tuple(f"dump.jsonl, line {name}" for name in names),
        np.arange(sequences + 1) * length,
        np.tile(np.arange(length), sequences),
        np.ones(log_ratio.size, dtype=np.bool_),
        actor_log_probs=own.ravel().copy(),
        policy_log_probs=(own + log_ratio).ravel(),
        advantages=None if advantages is None else advantages.ravel(),
    )


def gaussian(sequences: int, length: int, own: float, shared: float, seed: int = 0, actor: float = -20.0) -> TokenTable:
    """ℓ with mean −(own² + shared²)/2, so that r has mean 1; `shared` is a part that a sequence shares."""
    rng = np.random.default_rng(seed)
    part = shared * rng.standard_normal((sequences, 1)) + own * rng.standard_normal((sequences, length))
    return sample(part - (own**2 + shared**2) / 2, actor)


def kept(clip: float, spread: float) -> float:
    """E[min(r, C)] of a lognormal r of mean 1: Φ((ln C − s²/2)/s) + C(1 − Φ((ln C + s²/2)/s))."""
    low, high = ((math.log(clip) + sign * spread**2 / 2) / spread for sign in (-1, 1))
    return float(norm.cdf(low) + clip * norm.sf(high))


def evidence(table: TokenTable | None) -> Evidence:
    """The evidence of a dump that is its own sample."""
    metrics = Metrics()
    if table is not None:
        metrics.add(Batch(table, 0))
    size = 0 if table is None else len(table)
    return Evidence(table, LeftOut(), size, metrics.figures(), False, {-1: 0, 1: 0})
