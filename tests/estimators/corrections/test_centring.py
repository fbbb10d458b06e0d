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
from tests.estimators.gap_mask import ProbabilityGapMask

VOCAB, STATES = 12, 4
GENERATOR = np.random.default_rng(0)
LOG_P, LOG_Q = (
    logits - np.log(np.exp(logits).sum(-1, keepdims=True)) for logits in GENERATOR.normal(size=(2, STATES, VOCAB))
)
ORDER = np.argsort(-LOG_Q, axis=-1)
"""The actor's likeliest tokens first."""
PER_TOKEN = [each for each in map(estimators.get, estimators.names()) if each.fits_a_table]
every_correction = pytest.mark.parametrize("correction", PER_TOKEN, ids=lambda each: each.name)


def stored(law: Any, k: int) -> Any:
    return np.take_along_axis(law, ORDER[:, :k], -1)


def overlap_of(correction: Any) -> Any:
    return None if correction.overlap_lam is None else np.asarray(obrs.overlap(LOG_P, LOG_Q, correction.overlap_lam))


def whole(correction: Any, log_p: Any = LOG_P, log_q: Any = LOG_Q, z: Any = None, advantages: Any = None) -> Any:
    """h = E_q[a·w·(e_v − p)] in logits, token by token, (states, vocab)."""
    out = np.zeros_like(log_p)
    for state, (p, q) in enumerate(zip(np.exp(log_p), np.exp(log_q), strict=True)):
        for token in np.flatnonzero(q):
            given: dict[str, Any] = {"policy_log_probs": log_p[state, [token]]}
            if z is not None:
                given["overlap"] = z[[state]]
            if advantages is not None:
                given["advantages"] = advantages[[state]]
            pair = correction.weights(log_p[state, [token]] - log_q[state, [token]], **given)
            out[state] += q[token] * (pair.accept * pair.weight)[0] * (np.eye(VOCAB)[token] - p)
    return out


def from_stored(correction: Any, k: int, log_p: Any = LOG_P, log_q: Any = LOG_Q, **more: Any) -> Any:
    """The same from k stored tokens, (states, vocab)."""
    order = np.argsort(-log_q, axis=-1, kind="stable")[:, :k]
    p, q = (np.take_along_axis(law, order, -1) for law in (log_p, log_q))
    scores = np.eye(VOCAB)[order] - np.exp(log_p)[:, None]
    return np.einsum("sk,skv->sv", np.asarray(on_stored(correction, p, q, **more)), scores)


@every_correction
def test_with_the_whole_vocabulary_it_is_the_exact_sum(correction: Any) -> None:
    z = overlap_of(correction)
    expected = whole(correction, z=z)
    assert correction.name == "is" or np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(from_stored(correction, VOCAB, overlap=z), expected, rtol=0, atol=1e-14)


@every_correction
@pytest.mark.parametrize("k", [1, 4])
def test_a_tail_of_one_ratio_is_no_approximation(correction: Any, k: int) -> None:
    """The actor's tail is the policy's, scaled: the model of the tail holds."""
    head = np.zeros((STATES, VOCAB), dtype=bool)
    np.put_along_axis(head, ORDER[:, :k], True, -1)
    q = np.exp(LOG_Q)
    rest = np.where(head, 0.0, np.exp(LOG_P))
    rest *= (1 - np.where(head, q, 0.0).sum(-1, keepdims=True)) / rest.sum(-1, keepdims=True)
    log_q = np.log(np.where(head, q, rest))
    # Ties and order are those of the actor given.
    order = ORDER[:, :k]
    z = overlap_of(correction)
    found = np.asarray(
        on_stored(correction, *(np.take_along_axis(law, order, -1) for law in (LOG_P, log_q)), overlap=z)
    )
    scores = np.eye(VOCAB)[order] - np.exp(LOG_P)[:, None]
    expected = whole(correction, log_q=log_q, z=z)
    np.testing.assert_allclose(np.einsum("sk,skv->sv", found, scores), expected, rtol=0, atol=1e-13)


def test_golden_coefficients_by_hand() -> None:
    """mathematics.md §3: ρ = 0.1/0.3, f = min(1/ρ, 2) = 2, α = 2/3."""
    p, q = np.log([0.5, 0.2]), np.log([0.6, 0.3])
    found = on_stored(estimators.get("tis", clip=2.0), p, q)
    np.testing.assert_allclose(found, [0.5 - 2 / 3 * 0.5, 0.2 - 2 / 3 * 0.2], rtol=1e-12)


def test_with_importance_sampling_there_is_no_mean() -> None:
    for k in (1, 5, VOCAB):
        assert np.abs(from_stored(estimators.get("is"), k)).max() < 1e-14


def test_an_actor_whose_law_ends_has_no_tail() -> None:
    """An actor cut to 3 tokens, of which 5 are stored; the policy goes on."""
    cut = np.where(np.argsort(ORDER, -1) < 3, LOG_Q, -math.inf)
    log_q = cut - np.log(np.exp(cut).sum(-1, keepdims=True))
    for correction in (estimators.get("is"), estimators.get("none"), estimators.get("tis")):
        expected = whole(correction, log_q=log_q)
        np.testing.assert_allclose(from_stored(correction, 5, log_q=log_q), expected, rtol=0, atol=1e-14)


def test_a_mask_that_looks_at_probabilities_and_at_the_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens of the tail are too unlikely for a gap, and each state has the sign of its own advantage."""
    monkeypatch.setattr(ProbabilityGapMask, "name", "gap-mask", raising=False)
    mask, advantages = ProbabilityGapMask(epsilon=0.02), np.array([1.0, -1.0, 0.5, -0.5])
    np.testing.assert_allclose(
        from_stored(mask, VOCAB, advantages=advantages), whole(mask, advantages=advantages), rtol=0, atol=1e-14
    )
    p, q = stored(LOG_P, 3), stored(LOG_Q, 3)
    found = np.asarray(on_stored(mask, p, q, advantages=advantages))
    gap = np.where(advantages[:, None] > 0, np.exp(p) - np.exp(q), np.exp(q) - np.exp(p)) > 0.02
    alpha = (1 - np.exp(q).sum(-1, keepdims=True)) / (1 - np.exp(p).sum(-1, keepdims=True))
    np.testing.assert_allclose(found, np.exp(q) * ~gap - alpha * np.exp(p), rtol=1e-12)


def test_a_tail_has_at_least_the_floor() -> None:
    laws = np.log([[0.75, 0.25], [0.5, 0.25]])
    np.testing.assert_allclose(np.exp(with_tail(laws))[:, -1], [TAIL_FLOOR, 0.25], rtol=1e-12)
    with pytest.raises(ValueError, match="add up to more than 1"):
        with_tail(np.log([0.75, 0.5]))


def test_the_update_may_have_moved_on() -> None:
    """With p_ref and p_new apart, coefficients belong to ∇log p_new."""
    new, q = (with_tail(stored(law, 4)) for law in (np.roll(LOG_P, 1, 0), LOG_Q))
    expected = GENERATOR.random((STATES, 5))
    alpha = np.exp(q[:, -1:]) * expected[:, -1:] / np.exp(new[:, -1:])
    by_hand = np.exp(q[:, :-1]) * expected[:, :-1] - alpha * np.exp(new[:, :-1])
    np.testing.assert_allclose(coefficients(expected, new, q), by_hand, rtol=1e-12)


@every_correction
def test_every_library_gives_the_same(correction: Any, xp: ToLibrary) -> None:
    laws, z = (stored(LOG_P, 3), stored(LOG_Q, 3)), overlap_of(correction)
    found = on_stored(correction, *map(xp, laws), overlap=None if z is None else xp(z))
    np.testing.assert_allclose(to_numpy(found), on_stored(correction, *laws, overlap=z), rtol=1e-12)


def test_what_has_no_mean_term_of_a_state() -> None:
    with pytest.raises(ValueError, match="looks at more than single tokens"):
        on_stored(estimators.get("m2po"), stored(LOG_P, 2), stored(LOG_Q, 2))
    with pytest.raises(ValueError, match="needs overlap"):
        on_stored(estimators.get("jackpot"), stored(LOG_P, 2), stored(LOG_Q, 2))
    with pytest.raises(ValueError, match="actor_log_probs has shape"):
        on_stored(estimators.get("tis"), stored(LOG_P, 2), stored(LOG_Q, 3))
