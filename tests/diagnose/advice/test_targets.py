"""Targets refuse what is no share, and say what they ask for."""

from __future__ import annotations

import math

import pytest

from jackpot_sim.diagnose.advice.targets import ESS, KEEP, Target


@pytest.mark.parametrize("name", ["keep", "ess", "bias"])
@pytest.mark.parametrize("value", [0.0, -0.1, 1.01, math.nan, math.inf])
def test_what_is_no_share_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must lie above 0 and be at most 1"):
        Target(**{name: value})


def test_what_is_not_given_has_its_default_and_the_bias_no_bound() -> None:
    assert Target().limits == (KEEP, ESS, 1.0)
    assert Target(keep=0.8, bias=0.1).limits == (0.8, ESS, 0.1)
    assert "(the default)" in Target().sentence
    assert "bias of at most 0.1" in Target(bias=0.1).sentence
