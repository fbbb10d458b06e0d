"""The figures of the report over all tokens: sums of the whole dump, and quantiles of the sample."""

from __future__ import annotations

import numpy as np

from jackpot_sim.core import intervals, log_ratios
from jackpot_sim.core.arrays import Floats
from jackpot_sim.diagnose.batch import Batch
from jackpot_sim.diagnose.measure.metrics import MEANINGS, Metrics, figure
from jackpot_sim.diagnose.measure.sample import Sample
from jackpot_sim.diagnose.results import Figure
from jackpot_sim.estimators.mismatch.clusters import Units
from jackpot_sim.estimators.mismatch.summaries import TRIMMED, half_tokens

QUANTILES = {"abs_log_ratio_median": 0.5, "abs_log_ratio_p99": 0.99}
"""The quantiles of |ℓ| by name."""


def figures(metrics: Metrics, sample: Sample) -> dict[str, Figure]:
    """The figures of `MEANINGS` by name, in that order; empty where there is no token.

    Quantiles and the trimmed mean are those of the sample, with its own, wider intervals; the meaning says so where
    the sample is not the whole dump. The number of tokens that carry half of Σ r² exists only where it is.
    """
    table = sample.table()
    if table is None:
        return {}
    batch = Batch(table, 0)
    found = metrics.figures() | _of_sample(batch.log_ratio, batch.size, Units(table.owner, table.sequences))
    if sample.whole:
        count = half_tokens(batch.log_ratio)
        found["chi_square_half_tokens"] = figure(
            "chi_square_half_tokens", count, None, MEANINGS["chi_square_half_tokens"]
        )
    else:
        drawn = f"; of {len(table):,} tokens drawn from all"
        found |= {
            name: found[name].model_copy(update={"meaning": MEANINGS[name] + drawn})
            for name in (*QUANTILES, "chi_square_token_trimmed")
        }
    return {name: found[name] for name in MEANINGS if name in found}


def _of_sample(log_ratio: Floats, size: Floats, units: Units) -> dict[str, Figure]:
    with np.errstate(all="ignore"):
        found = {name: units.quantile(size, level) for name, level in QUANTILES.items()}
        trimmed = units.trimmed_mean(log_ratios.chi_square_term(log_ratio), TRIMMED)
        interval = intervals.of_left_out(*trimmed, intervals.LOG1P)
        found["chi_square_token_trimmed"] = trimmed.value, interval
    return {name: figure(name, *each, MEANINGS[name]) for name, each in found.items()}
