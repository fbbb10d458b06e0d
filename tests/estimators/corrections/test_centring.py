"""The mean term of centred corrections from stored tokens, against sums over whole vocabularies written as loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.core import obrs
from jackpot_sim.core.backend import to_numpy
from jackpot_sim.estimators.corrections.centring import TAIL_FLOOR, coefficients, on_stored, with_tail
from tests.conftest import ToLibrary

VOCAB, STATES = 12, 4
GENERATOR = np.random.default_rng(0)
LOG_P, LOG_Q = (
    logits - np.log(np.exp(logits).sum(-1, keepdims=True)) for logits in GENERATOR.normal(0, 2, size=(2, STATES, VOCAB))
)
ORDER = np.argsort(-LOG_Q, axis=-1)
"""The actor's likeliest tokens first."""
ADVANTAGES = np.array([1.0, -1.0, 0.5, -0.5])
PER_TOKEN = [each for each in map(estimators.get, estimators.names()) if each.is_per_token]
every_correction = pytest.mark.parametrize("correction", PER_TOKEN, ids=lambda each: each.name)
of_the_ratio = pytest.mark.parametrize(
    "correction", [each for each in PER_TOKEN if "actor_log_probs" not in each.needs], ids=lambda each: each.name
)


def stored(law: Any, k: int) -> Any:
    return np.take_along_axis(law, ORDER[:, :k], -1)


def given_beside(correction: Any) -> dict[str, Any]:
    """What a state has besides its laws: Z, and the advantage of the token that was drawn there."""
    lam = correction.overlap_lam
    return {"advantages": ADVANTAGES} | (
        {} if lam is None else {"overlap": np.asarray(obrs.overlap(LOG_P, LOG_Q, lam))}
    )


def whole(correction: Any, log_q: Any = LOG_Q) -> Any:
    """h = E_q[a·w·(e_v − p)] in logits, token by token, (states, vocab)."""
    out = np.zeros_like(LOG_P)
    for state, (p, q) in enumerate(zip(np.exp(LOG_P), np.exp(log_q), strict=True)):
        beside = {name: values[[state]] for name, values in given_beside(correction).items()}
        for token in np.flatnonzero(q):
            log_p = LOG_P[state, [token]]
            pair = correction.weights(log_p - log_q[state, [token]], policy_log_probs=log_p, **beside)
            out[state] += q[token] * (pair.accept * pair.weight)[0] * (np.eye(VOCAB)[token] - p)
    return out


def from_stored(correction: Any, k: int, log_q: Any = LOG_Q) -> Any:
    """The same from k stored tokens, those of `ORDER`, (states, vocab)."""
    found = np.asarray(on_stored(correction, stored(LOG_P, k), stored(log_q, k), **given_beside(correction)))
    return np.einsum("sk,skv->sv", found, np.eye(VOCAB)[ORDER[:, :k]] - np.exp(LOG_P)[:, None])


@every_correction
def test_with_the_whole_vocabulary_it_is_the_exact_sum(correction: Any) -> None:
    expected = whole(correction)
    assert correction.name == "is" or np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(from_stored(correction, VOCAB), expected, rtol=0, atol=1e-14)


@of_the_ratio
@pytest.mark.parametrize("k", [1, 4])
def test_a_tail_of_one_ratio_is_no_approximation(correction: Any, k: int) -> None:
    """The actor's tail is the policy's, scaled: the model of the tail holds."""
    head = np.zeros((STATES, VOCAB), dtype=bool)
    np.put_along_axis(head, ORDER[:, :k], True, -1)
    q = np.exp(LOG_Q)
    rest = np.where(head, 0.0, np.exp(LOG_P))
    rest *= (1 - np.where(head, q, 0.0).sum(-1, keepdims=True)) / rest.sum(-1, keepdims=True)
    log_q = np.log(np.where(head, q, rest))
    np.testing.assert_allclose(from_stored(correction, k, log_q), whole(correction, log_q), rtol=0, atol=1e-13)


def test_golden_coefficients_by_hand() -> None:
    """mathematics.md §3: ρ = 0.1/0.3, f = min(1/ρ, 2) = 2, α = 2/3."""
    p, q = np.log([0.5, 0.2]), np.log([0.6, 0.3])
    found = on_stored(estimators.get("tis", clip=2.0), p, q)
    np.testing.assert_allclose(found, [0.5 - 2 / 3 * 0.5, 0.2 - 2 / 3 * 0.2], rtol=1e-12)


def test_with_importance_sampling_there_is_no_mean() -> None:
    for k in (1, 5, VOCAB):
        assert np.abs(from_stored(estimators.get("is"), k)).max() < 1e-14


@of_the_ratio
def test_an_actor_whose_law_ends_has_no_tail(correction: Any) -> None:
    """An actor cut to 3 tokens, of which 5 are stored; the policy goes on."""
    cut = np.where(np.argsort(ORDER, -1) < 3, LOG_Q, -math.inf)
    log_q = cut - np.log(np.exp(cut).sum(-1, keepdims=True))
    np.testing.assert_allclose(from_stored(correction, 5, log_q), whole(correction, log_q), rtol=0, atol=1e-14)


def test_a_mask_on_probabilities_sees_no_token_of_the_tail() -> None:
    """None is likely enough for a gap, and each state has the sign of its own advantage."""
    mask, k = estimators.get("dppo-tv", delta=0.02), 3
    p, q = stored(LOG_P, k), stored(LOG_Q, k)
    found = np.asarray(on_stored(mask, p, q, advantages=ADVANTAGES))
    gap = np.where(ADVANTAGES[:, None] > 0, np.exp(p) - np.exp(q), np.exp(q) - np.exp(p)) > 0.02
    assert 0 < gap.sum() < gap.size
    # Its weight is r, so that α = ρ·(1/ρ) = 1.
    np.testing.assert_allclose(found, np.exp(p) * ~gap - np.exp(p), rtol=1e-12, atol=1e-15)


def test_a_tail_has_at_least_the_floor() -> None:
    laws = np.log([[0.75, 0.25], [0.5, 0.25]])
    np.testing.assert_allclose(np.exp(with_tail(laws))[:, -1], [TAIL_FLOOR, 0.25], rtol=1e-12)
    with pytest.raises(ValueError, match="add up to more than 1"):
        with_tail(np.log([0.75, 0.5]))


def test_a_sum_is_as_exact_as_the_dtype_in_which_it_was_computed() -> None:
    rounded = np.log(np.array([0.75, 0.25 + 1e-5], dtype=np.float32))
    wide = rounded.astype(np.float64)
    np.testing.assert_allclose(np.exp(with_tail(wide, widened_from=rounded))[-1], TAIL_FLOOR, rtol=1e-12)
    for narrow in (None, wide):
        with pytest.raises(ValueError, match="add up to more than 1"):
            with_tail(wide, widened_from=narrow)
    with pytest.raises(ValueError, match="add up to more than 1"):
        with_tail(wide + 0.01, widened_from=rounded)


def test_the_update_may_have_moved_on() -> None:
    """With p_ref and p_new apart, coefficients belong to ∇log p_new."""
    new, q = (with_tail(stored(law, 4)) for law in (np.roll(LOG_P, 1, 0), LOG_Q))
    expected = GENERATOR.random((STATES, 5))
    alpha = np.exp(q[:, -1:]) * expected[:, -1:] / np.exp(new[:, -1:])
    by_hand = np.exp(q[:, :-1]) * expected[:, :-1] - alpha * np.exp(new[:, :-1])
    np.testing.assert_allclose(coefficients(expected, new, q), by_hand, rtol=1e-12)


@every_correction
def test_every_library_gives_the_same(correction: Any, xp: ToLibrary) -> None:
    laws, beside = (stored(LOG_P, 3), stored(LOG_Q, 3)), given_beside(correction)
    found = on_stored(correction, *map(xp, laws), **{name: xp(values) for name, values in beside.items()})
    np.testing.assert_allclose(to_numpy(found), on_stored(correction, *laws, **beside), rtol=1e-12, atol=1e-15)


def test_what_has_no_mean_term_of_a_state() -> None:
    with pytest.raises(ValueError, match="looks at more than single tokens"):
        on_stored(estimators.get("m2po"), stored(LOG_P, 2), stored(LOG_Q, 2))
    with pytest.raises(ValueError, match="needs overlap"):
        on_stored(estimators.get("jackpot"), stored(LOG_P, 2), stored(LOG_Q, 2))
    with pytest.raises(ValueError, match="actor_log_probs has shape"):
        on_stored(estimators.get("tis"), stored(LOG_P, 2), stored(LOG_Q, 3))
