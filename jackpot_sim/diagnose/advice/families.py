"""The corrections that are advised, each as a path along its threshold.

Their weights are those of `estimators`; a family only names the threshold, its default and where to look for another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jackpot_sim import estimators
from jackpot_sim.core.arrays import Floats
from jackpot_sim.estimators import Correction

POINTS = 17
"""The thresholds that are tried along a path, apart from the default."""


@dataclass(frozen=True)
class Family:
    """A correction along its threshold.

    Attributes:
        name: the registered name.
        parameter: the threshold.
        made: the correction at a threshold.
        default: the threshold of the frameworks.
        tightest: the smallest threshold that is tried.
        loosest: the largest.
        above: what thresholds are measured from: 1 for bounds on a ratio, else 0.
    """

    name: str
    parameter: str
    made: Callable[[float], Correction]
    default: float
    tightest: float
    loosest: float
    above: float = 0.0

    def scaled(self, threshold: Floats | float) -> Floats:
        """Thresholds on the logarithmic scale along which they are tried."""
        return np.asarray(np.log(np.asarray(threshold) - self.above))

    def at(self, scaled: Floats | float) -> Floats:
        """The thresholds at places on that scale."""
        return np.asarray(self.above + np.exp(scaled))

    @property
    def grid(self) -> Floats:
        """The places that are tried, rising, with the default among them."""
        low, high = (float(self.scaled(each)) for each in (self.tightest, self.loosest))
        return np.unique(np.append(np.linspace(low, high, POINTS), self.scaled(self.default)))


def _binary_kl(bound: float) -> Correction:
    return estimators.get("binary-kl-mask", bound=bound, direction="actor-policy")


def band(high: float) -> tuple[float, float]:
    """The bounds of a mask that is symmetric in log r, the lower one to four digits, as it is written."""
    return float(f"{1 / high:.4g}"), high


def _band(high: float) -> Correction:
    low, high = band(high)
    return estimators.get("mis", low=low, high=high)


TOKENS = (
    Family("tis", "clip", lambda x: estimators.get("tis", clip=x), 2.0, 1.001, 100.0, 1.0),
    Family("mis", "high", _band, 5.0, 1.001, 100.0, 1.0),
    Family("tv-mask", "epsilon", lambda x: estimators.get("tv-mask", epsilon=x), 0.3, 1e-3, 1.0),
    Family("binary-kl-mask", "bound", _binary_kl, 0.05, 1e-5, 50.0),
    Family("mask-k3", "bound", lambda x: estimators.get("mask-k3", bound=x), 0.02, 1e-6, 50.0),
    Family("obrs", "lam", lambda x: estimators.get("obrs", lam=x), 1.0, 0.05, 20.0),
    Family("jackpot", "c1", lambda x: estimators.get("jackpot", lam=1.0, c1=x), 2.0, 0.1, 100.0),
)
"""The families of corrections of tokens; of those that leave the same bias the first is advised.

By I1 and T2 of the theory TIS is the best for every divergence among weights of the same mean, so it comes first.
The band of mis is symmetric, low = 1/high; at its default it is prime-rl's. The binary KL is that of OpenRLHF.
"""

SEQUENCES = (
    Family("sequence-tis", "clip", lambda x: estimators.get("sequence-tis", clip=x), 2.0, 1.001, 1000.0, 1.0),
    Family("sequence-mis", "high", lambda x: estimators.get("sequence-mis", high=x), 3.0, 1.001, 1000.0, 1.0),
)
"""The families of corrections of sequences: their exact weight is e^S."""
