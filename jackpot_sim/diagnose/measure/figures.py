"""The figures of the report over all tokens: sums of the whole dump, and quantiles of the sample."""

from __future__ import annotations

import numpy as np

from jackpot_sim.core import intervals, log_ratios
from jackpot_sim.core.arrays import Floats
from jackpot_sim.diagnose.batch import Batch
from jackpot_sim.diagnose.measure.full_laws import FullLaws
from jackpot_sim.diagnose.measure.metrics import MEANINGS, Metrics, figure
from jackpot_sim.diagnose.measure.sample import Sample
from jackpot_sim.diagnose.results import Figure
from jackpot_sim.estimators.mismatch.clusters import Units
from jackpot_sim.estimators.mismatch.summaries import TRIMMED, half_tokens

QUANTILES = {"abs_log_ratio_median": 0.5, "abs_log_ratio_p99": 0.99}
"""The quantiles of |ℓ| by name."""
DRAWN = (*QUANTILES, "chi_square_token_trimmed", "overlap_p5_low", "overlap_p5_high")
"""The figures of the sample."""
FIRST = (
    *("k3", "k1", "probability_gap", "ess_fraction_token", "ess_fraction_sequence", "log_perplexity_gap"),
    *("abs_log_ratio_p99", "abs_log_ratio_max", "confident_disagreement"),
    *("overlap_p5_low", "overlap_p5_high", "kl_actor_policy"),
)
"""The figures that come first, where there are such; the others follow as they are described."""


def figures(metrics: Metrics, full_laws: FullLaws, sample: Sample) -> dict[str, Figure]:
    """The figures by name, the most telling first; empty where there is no token.

    Quantiles and the trimmed mean are those of the sample, with its own, wider intervals; the meaning says so where
    the sample is not the whole dump. The number of tokens that carry half of Σ r² exists only where it is.
    """
    table = sample.table()
    if table is None:
        return {}
    batch = Batch(table, 0)
    found = metrics.figures() | _of_sample(batch.log_ratio, batch.size, Units(table.owner, table.sequences))
    if sample.whole:
        name = "chi_square_half_tokens"
        found[name] = figure(name, half_tokens(batch.log_ratio), None, MEANINGS[name])
    found = {name: found[name] for name in MEANINGS if name in found} | full_laws.figures(batch)
    if not sample.whole:
        drawn = f"; of {len(table):,} tokens drawn from all"
        for name in found.keys() & {*DRAWN}:
            found[name] = found[name].model_copy(update={"meaning": found[name].meaning + drawn})
    return {name: found[name] for name in dict.fromkeys((*FIRST, *found)) if name in found}


def _of_sample(log_ratio: Floats, size: Floats, units: Units) -> dict[str, Figure]:
    with np.errstate(all="ignore"):
        found = {name: units.quantile(size, level) for name, level in QUANTILES.items()}
        trimmed = units.trimmed_mean(log_ratios.chi_square_term(log_ratio), TRIMMED)
        interval = intervals.of_left_out(*trimmed, intervals.LOG1P)
        found["chi_square_token_trimmed"] = trimmed.value, interval
    return {name: figure(name, *each, MEANINGS[name]) for name, each in found.items()}
