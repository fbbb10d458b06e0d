"""The figures of whole laws, of which top-k hold a part: brackets, lower ends, and an unbiased KL."""

from __future__ import annotations

from typing import Self

import numpy as np

from jackpot_sim.core import intervals
from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.intervals import Scale
from jackpot_sim.diagnose.batch import GROUPS, Batch
from jackpot_sim.diagnose.laws import Laws
from jackpot_sim.diagnose.measure.metrics import figure, mean_figure
from jackpot_sim.diagnose.results import Figure
from jackpot_sim.estimators.mismatch.clusters import Units

LOW_PERCENTILE = 0.05
"""The percentile of the overlap that told stable training from training that crashed, where the mean did not."""

MEANINGS = {
    "overlap_low": "mean over tokens with top-k of the low end of Z = Σ min(p, q), in [0, 1]",
    "overlap_high": "mean over tokens with top-k of the high end of Z = Σ min(p, q), in [0, 1]",
    "overlap_p5_low": "5th percentile over tokens of the low end of Z (training was reported stable at 0.86 or more)",
    "overlap_p5_high": "5th percentile over tokens of the high end of Z (below 0.86, it is so for sure)",
    "total_variation_low": "mean over tokens with top-k of the low end of TV = 1 − Z, in [0, 1]",
    "total_variation_high": "mean over tokens with top-k of the high end of TV = 1 − Z, in [0, 1]",
    "kl_actor_policy": "mean over tokens of KL(q‖p): exact on what both top-k hold, k3 of others drawn, nats; unbiased",
    "kl_actor_policy_low": "mean of the least KL(q‖p) that the top-k of a token allow, nats; it has no high end",
    "kl_policy_actor_low": "mean of the least KL(p‖q) that the top-k of a token allow, nats; it has no high end",
    "top_k_share": "share of tokens at which a top-k is known, in [0, 1]",
}
"""Descriptions of the figures, in their order."""

_SCALES: dict[str, Scale | None] = {
    "overlap_low": None,
    "overlap_high": None,
    "total_variation_low": None,
    "total_variation_high": None,
    "kl_actor_policy": intervals.LOG,
    "kl_actor_policy_low": intervals.LOG,
    "kl_policy_actor_low": intervals.LOG,
}
"""The means over tokens, with the scale of their intervals; None for shares and means of values in [0, 1]."""


class FullLaws:
    """An accumulator of the means; it holds nothing of a dump without top-k."""

    def __init__(self) -> None:
        self._tokens = np.zeros(GROUPS)
        self._known = np.zeros(GROUPS)
        self._drawn = np.zeros(GROUPS)
        """The known tokens whose ids are, on which `kl_actor_policy` rests."""
        self._sums = np.zeros((GROUPS, len(_SCALES)))

    def add(self, batch: Batch) -> None:
        """Takes the batch in."""
        found = batch.laws
        self._tokens += batch.token_sums(None)[:, 0]
        if found is None:
            return
        columns = [np.where(np.isnan(each), 0.0, each) for each in _columns(found).values()]
        known, *sums = batch.token_sums(found.known.astype(np.float64), *columns).T
        self._known += known
        self._drawn += known if batch.table.token is not None else 0.0
        self._sums += np.stack(sums, axis=-1)

    def merge(self, later: Self) -> None:
        """Takes in the sums of the batches that come next."""
        self._tokens += later._tokens
        self._known += later._known
        self._drawn += later._drawn
        self._sums += later._sums

    def figures(self, sample: Batch) -> dict[str, Figure]:
        """The figures by name; percentiles are those of the sample. Empty where there is no top-k."""
        if not self._known.any():
            return {}
        found = _percentiles(sample)
        with np.errstate(all="ignore"):
            for (name, scale), sums in zip(_SCALES.items(), self._sums.T, strict=True):
                counts = self._drawn if name == "kl_actor_policy" else self._known
                live = counts > 0
                if live.any():
                    found[name] = mean_figure(name, sums[live], counts[live], scale, MEANINGS[name])
            # It says what was recorded, not what would be in other rollouts.
            share = float(self._known.sum() / self._tokens.sum())
            found["top_k_share"] = figure("top_k_share", share, None, MEANINGS["top_k_share"])
        return {name: found[name] for name in MEANINGS if name in found}


def _columns(laws: Laws) -> dict[str, Floats]:
    """The values at each token whose means `_SCALES` names, in its order; nan where they are not known."""
    return {
        "overlap_low": laws.overlap_low,
        "overlap_high": laws.overlap_high,
        "total_variation_low": 1 - laws.overlap_high,
        "total_variation_high": 1 - laws.overlap_low,
        "kl_actor_policy": laws.kl,
        "kl_actor_policy_low": laws.kl_low,
        "kl_policy_actor_low": laws.kl_reverse_low,
    }


def _percentiles(sample: Batch) -> dict[str, Figure]:
    laws = sample.laws
    if laws is None or not laws.known.any():
        return {}
    # The clusters are the sequences with such tokens.
    owner = np.unique(sample.table.owner[laws.known], return_inverse=True)[1]
    units = Units(owner, int(owner.max()) + 1)
    found = {}
    for name, ends in (("overlap_p5_low", laws.overlap_low), ("overlap_p5_high", laws.overlap_high)):
        found[name] = figure(name, *units.quantile(ends[laws.known], LOW_PERCENTILE), MEANINGS[name])
    return found
