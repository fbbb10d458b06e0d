"""The tokens beyond the bounds of a correction: those that it changes or drops, and no others."""

from __future__ import annotations

from typing import Any

import numpy as np

from jackpot_sim import estimators
from jackpot_sim.estimators import Tokens, batch_normalize, centred, combined, get, rao_blackwell
from tests.cases import each

TOKENS = Tokens(np.random.default_rng(0).normal(scale=0.8, size=(9, 5)), mask=np.arange(45).reshape(9, 5) % 7 > 0)
BOUNDED = [
    *(get("tis", clip=1.5, floor=floor) for floor in (0.0, 0.6)),
    *(get(name, low=0.7, high=1.4) for name in ("mis", "mask-k1", "sequence-mis", "geometric-mis", "sequence-mask-k1")),
    *(get(name, bound=0.1) for name in ("mask-k2", "mask-k3")),
    get("cispo", low=0.3, high=0.4),
    get("mask-k1", low=0.5, high=1.1, inverted=True),
    get("sequence-mask-k1", low=0.5, high=1.1, inverted=True),
    *(get(name, clip=1.2, floor=0.9) for name in ("sequence-tis", "geometric-tis")),
    get("geometric-band-is", low=0.8, high=1.1),
]
RAW = {"tis": "is", "mis": "is", "cispo": "is", "sequence-tis": "sequence-is", "sequence-mis": "sequence-is"}
RAW |= {"geometric-tis": "geometric-is", "geometric-mis": "geometric-is", "geometric-band-is": "is"}


@each("correction", BOUNDED)
def test_a_token_is_outside_iff_its_weight_is_not_that_without_bounds(correction: Any) -> None:
    below, above = (np.broadcast_to(each, TOKENS.live.shape) for each in correction.outside(TOKENS))
    raw = np.asarray(get(RAW.get(correction.name, "none")).weights(TOKENS).weight)
    changed = np.asarray(correction.weights(TOKENS).expected()) != raw
    live = np.asarray(TOKENS.live)
    np.testing.assert_array_equal((below | above)[live], changed[live])
    assert not (below & above).any()
    assert changed[live].any()
    assert not changed[live].all()


def test_below_is_below() -> None:
    found = get("mis", low=0.5, high=2.0).outside(Tokens(np.log([[0.4, 1.0, 3.0]])))
    assert [side.tolist() for side in found or ()] == [[[True, False, False]], [[False, False, True]]]
    # verl's bounds on 1/r: 0.65 is dropped since 1/0.65 > 1.4.
    below, above = get("mask-k1", low=0.6, high=1.4, inverted=True).outside(Tokens(np.log([[1.5, 0.65]]))) or ()
    assert below.tolist() == [[False, True]]
    assert not above.any()


def test_wrappers_and_products_have_the_bounds_of_what_they_hold() -> None:
    mis, band = get("mis"), get("sequence-mask-k1")
    for wrapper in (rao_blackwell, batch_normalize, centred):
        for found, expected in zip(wrapper(mis).outside(TOKENS) or (), mis.outside(TOKENS) or (), strict=True):
            np.testing.assert_array_equal(found, expected)
    both = combined(mis, band, get("obrs")).outside(TOKENS) or ()
    for found, one, other in zip(both, mis.outside(TOKENS) or (), band.outside(TOKENS) or (), strict=True):
        np.testing.assert_array_equal(found, np.asarray(one) | np.asarray(other))
    assert combined(get("obrs"), get("veto")).outside(TOKENS) is None


def test_corrections_without_a_band_on_a_ratio_have_none() -> None:
    for name in ("none", "is", "obrs", "jackpot", "tv-mask", "dppo-kl", "sapo", "veto", "m2po"):
        assert estimators.get(name).outside(TOKENS) is None, name
