"""The example of slime#657: five tokens, a band of 0.5 to 2, and what each framework makes of them.

Log-ratios 0.1, −1.5, 0.8, −10 and 0.3: the ratios 1.105 and 1.350 lie in the band, 2.226 above it, 0.223 and 5e-5
below. With A = 1 at every token the loss is the mean weight, over all tokens or over those kept.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.estimators import Denominator, Tokens

LOG_RATIOS = [0.1, -1.5, 0.8, -10.0, 0.3]
KEPT = math.exp(0.1) + math.exp(0.3)

CASES = {
    # IcePop: the sum of the kept ratios over five tokens, or over two where the count is that of the kept.
    ("slime:icepop", "proposed"): KEPT / 5,
    ("verl:decoupled_token_icepop", "proposed"): KEPT / 5,
    ("openrlhf:icepop", "proposed"): KEPT / 5,
    ("nemo-rl:icepop", "proposed"): KEPT / 5,
    ("prime-rl:icepop", "proposed"): KEPT / 5,
    ("verl:decoupled_token_icepop", "accepted"): KEPT / 2,
    # TIS: the ratios, of which the third is cut at 2; OpenRLHF raises those below 0.5 as well.
    ("slime:vanilla_tis", "proposed"): (KEPT + 2 + math.exp(-1.5) + math.exp(-10)) / 5,
    ("verl:decoupled_token_is", "proposed"): (KEPT + 2 + math.exp(-1.5) + math.exp(-10)) / 5,
    ("openrlhf:tis", "proposed"): (KEPT + 2 + 0.5 + 0.5) / 5,
    # slime's veto drops the sequence: e^−10 is below 1e-4.
    ("slime:veto", "proposed"): 0.0,
}


@pytest.mark.parametrize(("preset", "denominator"), CASES)
def test_the_loss_of_slimes_example(preset: str, denominator: str) -> None:
    known = estimators.presets()[preset].parts[0].parameters
    band = {name: value for name, value in (("low", 0.5), ("high", 2.0), ("clip", 2.0)) if name in known}
    found = estimators.get(preset, **band).weights(Tokens(np.array([LOG_RATIOS])))
    accept, weight = (np.asarray(each)[0] for each in found)
    divisor = 5 if denominator == Denominator.PROPOSED else accept.sum()
    assert (accept * weight).sum() / divisor == pytest.approx(CASES[preset, denominator], rel=1e-12)


def test_the_frameworks_own_denominators_in_the_example() -> None:
    """Two and a half times the loss, from the same mask."""
    own = {preset: estimators.presets()[preset].denominator for preset, _ in CASES}
    assert set(own.values()) == {Denominator.PROPOSED}
    assert estimators.presets()["verl:decoupled_geo_rs"].denominator is Denominator.ACCEPTED
    kept, every = (CASES["verl:decoupled_token_icepop", each] for each in ("accepted", "proposed"))
    assert kept / every == pytest.approx(2.5)
