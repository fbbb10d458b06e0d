"""Moments by sums over tokens against the same moments token by token, on the same states."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jackpot_sim import estimators
from jackpot_sim.estimators.corrections.correction import Correction
from jackpot_sim.estimators.states import blocks, moments
from jackpot_sim.estimators.statistics import Denominator, StateStatistics
from tests.core.laws import close_pair, exact_law, normalised

AT_ONE = [
    estimators.get("tis", clip=1.0),
    estimators.get("obrs", lam=1.0),
    estimators.get("jackpot", lam=1.0, c1=1.0),
    estimators.get("jackpot", lam=1.0, c1=1.0, clip_on="ratio"),
    estimators.get("overlap-tis", lam=1.0, c1=1.0),
    estimators.get("cispo", low=0.0, high=0.0),
    estimators.rao_blackwell(estimators.get("jackpot", lam=0.7, c1=1.5)),
]
TOKEN = [one for name in estimators.names() if (one := estimators.get(name)).is_per_token] + AT_ONE

SHAPES = {
    "ordinary": (0.0, 0.5),
    "far": (0.0, 3.0),
    "near": (0.0, 1e-9),
    "equal": (0.0, 0.0),
    "nearly certain": (25.0, 0.3),
    "nearly certain and near": (25.0, 1e-9),
}
"""The nats by which one token is likelier than the rest, and the size of the noise between the two laws."""


@st.composite
def cells(draw: st.DrawFn, only: str | None = None) -> tuple[Any, Any, Any]:
    """log p, log q and A of a few states, (states, vocab)."""
    certain, noise = SHAPES[only or draw(st.sampled_from(list(SHAPES)))]
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    states, vocab = draw(st.integers(1, 3)), draw(st.integers(2, 9))
    logits = generator.normal(size=(states, vocab))
    top = certain * np.eye(vocab)[generator.integers(vocab, size=states)]
    gone = [np.where(generator.random((states, vocab)) < draw(st.sampled_from([0.0, 0.3])), -math.inf, 0.0)] * 2
    if draw(st.booleans()):  # supports of their own, or a policy that alone is nearly certain
        gone[1] = np.where(generator.random((states, vocab)) < 0.3, -math.inf, 0.0)
    for each_gone in gone:
        each_gone[:, 0] = 0.0
    other = top if draw(st.booleans()) else 0.0 * top
    actor = logits + other + noise * generator.normal(size=(states, vocab))
    advantage = generator.normal(size=(states, vocab))
    if draw(st.booleans()):
        advantage = np.where(generator.random((states, vocab)) < 0.5, 0.0, np.round(advantage))
    return normalised(logits + top + gone[0]), normalised(actor + gone[1]), advantage


def token_by_token(laws: Any, corrections: list[Correction]) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "summed", lambda *_: None)
        return moments.measure(*laws, corrections)


def rounding(name: str, column: dict[str, Any]) -> Any:
    """What a column of the size 0 may be off by."""
    size = np.sqrt(column["estimate_sq"] * np.isfinite(column["estimate_sq"])) + np.sqrt(column["grad_norm_sq"])
    step = 1e-14 * np.nan_to_num(size)
    root = np.sqrt(np.nan_to_num(column["error_sq"]))
    own = {"error_sq": 2 * root * step + step**2, "error_dot": step * size, "estimate_dot": step * size}
    if name.startswith("kl_"):
        return 1e-27 + 1e-14 * np.sqrt(np.nan_to_num(column[name], posinf=0.0))
    return np.nan_to_num(own.get(name, 0.0 * root))


@pytest.mark.parametrize("to_library", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
@given(laws=cells(), some=st.lists(st.sampled_from(TOKEN), min_size=6, max_size=6))
@settings(max_examples=15)
def test_sums_give_every_column_that_tokens_give(to_library: Any, laws: Any, some: list[Correction]) -> None:
    given_laws = tuple(to_library(law) for law in laws)
    found, expected = moments.measure(*given_laws, some), token_by_token(given_laws, some)
    for correction, one, other in zip(some, found, expected, strict=True):
        for denominator in Denominator:
            ours, theirs = vars(one[denominator].per_state), vars(other[denominator].per_state)
            for field in dataclasses.fields(StateStatistics):
                with np.errstate(invalid="ignore"):
                    off = np.abs(ours[field.name] - theirs[field.name])
                    allowed = 1e-10 * np.abs(theirs[field.name]) + rounding(field.name, theirs)
                    same = (off <= allowed) | (ours[field.name] == theirs[field.name])
                same |= np.isnan(ours[field.name]) & np.isnan(theirs[field.name])
                assert np.all(same), (correction, denominator, field.name, ours[field.name], theirs[field.name])


@pytest.mark.parametrize("denominator", ["proposed", "self_normalized"])
@pytest.mark.parametrize("name", ["none", "tis", "obrs", "rao-blackwell(obrs)"])
@pytest.mark.parametrize("scale", [1e-6, 1e-9])
def test_the_bias_of_near_equal_laws_keeps_its_digits(name: str, scale: float, denominator: str) -> None:
    policy, actor = close_pair(scale, (1, 12))
    advantage = np.random.default_rng(1).normal(size=(1, 12))
    obrs = estimators.get("obrs", lam=1.0)
    known = {"none": estimators.get("none"), "tis": estimators.get("tis", clip=1.0), "obrs": obrs}
    correction = known.get(name, estimators.rao_blackwell(obrs))
    with mpmath.workdps(50):
        p, q = (exact_law(law[0]) for law in (policy, actor))
        a = [mpmath.mpf(float(x)) for x in advantage[0]]
        law = q if name == "none" else [min(x, y) for x, y in zip(p, q, strict=True)]
        scaled = mpmath.fsum(law) / mpmath.fsum(p) if denominator == "self_normalized" else 1
        apart = [x / scaled - y for x, y in zip(law, p, strict=True)]

        def square(m: list[Any]) -> Any:
            pull = mpmath.fsum(x * y for x, y in zip(m, a, strict=True))
            return mpmath.fsum((x * y - z * pull) ** 2 for x, y, z in zip(m, a, p, strict=True))

        expected = float(mpmath.sqrt(square(apart) / square(p)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments, "TokenByToken", None)  # the sums must serve by themselves
        found = moments.exact(policy, actor, advantage, correction, denominator=denominator)
    assert found.bias == pytest.approx(expected, rel=1e-10)
