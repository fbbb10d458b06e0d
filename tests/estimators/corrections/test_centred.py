"""Centred corrections: the pair is that of the correction inside, and what cannot subtract the mean says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.estimators import Tokens, batch_normalize, centred, combined, optimum
from tests.cases import each
from tests.estimators.brute import CELLS

CELL = CELLS["three states"]


def test_the_pair_and_its_pieces_are_those_of_the_correction_inside() -> None:
    jackpot, tokens = estimators.get("jackpot"), Tokens(np.log([[0.2, 0.9, 3.0]]), overlap=np.array([[0.8]]))
    for expected, found in zip(jackpot.weights(tokens), centred(jackpot).weights(tokens), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert centred(jackpot).pieces(np.asarray(0.8)) == jackpot.pieces(np.asarray(0.8))
    assert centred(jackpot).parameters() == jackpot.parameters()
    assert centred(jackpot).name == "centred(jackpot)"
    assert centred(jackpot).subtracts_mean
    assert not jackpot.subtracts_mean
    assert estimators.rao_blackwell(centred(jackpot)).subtracts_mean


REFUSALS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "the best threshold": (lambda c: optimum.best(*CELL, c, n_samples=4), "optimise the correction that it wraps"),
}


@each("name", REFUSALS)
def test_a_world_that_cannot_subtract_the_mean_refuses_it(name: str) -> None:
    act, advice = REFUSALS[name]
    act(estimators.get("tis"))
    for form in (centred(estimators.get("tis")), estimators.rao_blackwell(centred(estimators.get("tis")))):
        with pytest.raises(ValueError, match=r"tis\)+ subtracts the mean of each state, .*" + advice) as caught:
            act(form)
        assert len(str(caught.value).splitlines()) == 1


@each("name", ["sequence-is", "gspo", "m2po"])
def test_whole_sequences_have_no_mean_at_a_state(name: str) -> None:
    with pytest.raises(ValueError, match="looks at more than single tokens"):
        centred(estimators.get(name))


def test_it_is_the_outermost_form() -> None:
    inner = centred(estimators.get("tis"))
    with pytest.raises(ValueError, match="is centred already"):
        centred(inner)
    with pytest.raises(ValueError, match="centre the combination instead"):
        combined(inner, estimators.get("mask-k2"))
    with pytest.raises(ValueError, match="cannot be divided by the batch's"):
        batch_normalize(inner)
