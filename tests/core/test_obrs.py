"""OBRS against hand values, rejection by simulation, gradients, and what [J] reports of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.core import divergences, obrs
from jackpot_sim.core.backend import to_numpy
from jackpot_sim.core.numerics import log_ratio, log_softmax
from jackpot_sim.core.sampling import categorical
from jackpot_sim.estimators.corrections.at_budget import at_budget
from tests.cases import each
from tests.conftest import ToLibrary
from tests.core.laws import Pair, normalised, of_probabilities

INF = math.inf

P, Q = of_probabilities(0.5, 0.25, 0.25), of_probabilities(0.25, 0.25, 0.5)
"""Ratios 2, 1, 1/2."""

BY_HAND = [
    # λ, Σ min(q, p/λ), the accepted law in units of it
    (Fraction(1, 4), Fraction(1), (Fraction(1, 4), Fraction(1, 4), Fraction(1, 2))),
    (Fraction(1, 2), Fraction(1), (Fraction(1, 4), Fraction(1, 4), Fraction(1, 2))),
    (Fraction(1), Fraction(3, 4), (Fraction(1, 3), Fraction(1, 3), Fraction(1, 3))),
    (Fraction(3, 2), Fraction(7, 12), (Fraction(3, 7), Fraction(2, 7), Fraction(2, 7))),
    (Fraction(2), Fraction(1, 2), (Fraction(1, 2), Fraction(1, 4), Fraction(1, 4))),
    (Fraction(5), Fraction(1, 5), (Fraction(1, 2), Fraction(1, 4), Fraction(1, 4))),
]

HOLED = Pair(of_probabilities(0.5, 0.0, 0.3, 0.2, 0.0), of_probabilities(0.2, 0.1, 0.7, 0.0, 0.0))


def random_pair(seed: int, shape: tuple[int, ...], scale: float = 1.0) -> Pair:
    rng = np.random.default_rng(seed)
    actor = rng.normal(size=shape)
    return Pair(normalised(actor + scale * rng.normal(size=shape)), normalised(actor))


# ------------------------------------------------------------- golden values


@pytest.mark.parametrize(("lam", "z", "accepted"), BY_HAND)
def test_by_hand(xp: ToLibrary, lam: Fraction, z: Fraction, accepted: tuple[Fraction, ...]) -> None:
    p, q = xp(P), xp(Q)
    assert float(obrs.overlap(p, q, float(lam))) == pytest.approx(float(z), rel=1e-15)
    law = np.exp(to_numpy(obrs.accepted_log_probs(p, q, float(lam))))
    np.testing.assert_allclose(law, [float(x) for x in accepted], rtol=1e-15)
    accept = to_numpy(obrs.acceptance_probability(log_ratio(p, q), float(lam)))
    expected = [float(min(Fraction(1), r / lam)) for r in (Fraction(2), Fraction(1), Fraction(1, 2))]
    np.testing.assert_allclose(accept, expected, rtol=1e-15)


@pytest.mark.parametrize(("lam", "z"), [(lam, z) for lam, z, _ in BY_HAND if lam >= Fraction(1, 2)])
def test_solve_lam_by_hand(xp: ToLibrary, lam: Fraction, z: Fraction) -> None:
    assert float(obrs.solve_lam(xp(P), xp(Q), float(z))) == pytest.approx(float(lam), rel=1e-14)


def test_acceptance_at_the_edges_of_support(xp: ToLibrary) -> None:
    accept = obrs.acceptance_probability(xp([INF, -INF, 0.0, 1.0, -1.0]), 1.0)
    np.testing.assert_allclose(to_numpy(accept), [1, 0, 1, 1, math.exp(-1)], rtol=1e-15)


def test_default_lam_is_one() -> None:
    assert obrs.overlap(P, Q) == obrs.overlap(P, Q, 1.0) == pytest.approx(0.75, rel=1e-15)


# ------------------------------------------------------------------ backends

FUNCTIONS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "acceptance_probability": lambda p, q, lam: obrs.acceptance_probability(log_ratio(p, q), lam[..., None]),
    "overlap": obrs.overlap,
    "accepted_log_probs": obrs.accepted_log_probs,
    "log_overlap_terms": obrs.log_overlap_terms,
    "solve_lam": lambda p, q, lam: obrs.solve_lam(p, q, 0.3 * lam),
}


@each("name", FUNCTIONS)
def test_backends_agree(xp: ToLibrary, name: str) -> None:
    holed = Pair(np.stack([HOLED.policy, HOLED.actor]), np.stack([HOLED.actor, HOLED.policy]))
    for pair in (random_pair(0, (2, 40)), holed):
        lam = np.array([0.5, 2.0])
        expected = FUNCTIONS[name](pair.policy, pair.actor, lam)
        result = FUNCTIONS[name](xp(pair.policy), xp(pair.actor), xp(lam))
        np.testing.assert_allclose(to_numpy(result), expected, rtol=1e-12)


def test_one_lam_per_state_is_each_state_alone(xp: ToLibrary) -> None:
    pair, lam = random_pair(1, (2, 3, 9)), np.exp(np.random.default_rng(2).normal(size=(2, 3)))
    p, q = xp(pair.policy), xp(pair.actor)
    z, accepted = to_numpy(obrs.overlap(p, q, xp(lam))), to_numpy(obrs.accepted_log_probs(p, q, xp(lam)))
    assert z.shape == (2, 3)
    for i in np.ndindex(2, 3):
        alone = pair.policy[i], pair.actor[i], float(lam[i])
        assert z[i] == pytest.approx(float(obrs.overlap(*alone)), rel=1e-14)
        np.testing.assert_allclose(accepted[i], obrs.accepted_log_probs(*alone), rtol=1e-13)


# ----------------------------------------------------------- by simulation


def test_rejection_by_simulation() -> None:
    """Accept 400,000 draws of the actor with min(1, r/λ): Z and the accepted law within 5 standard errors."""
    rng, pair, lam, draws = np.random.default_rng(3), random_pair(4, (12,)), 1.3, 400_000
    ids = categorical(pair.actor, rng.random(draws))
    accept = obrs.acceptance_probability(log_ratio(pair.policy, pair.actor), lam)[ids]
    kept = ids[rng.random(draws) < accept]
    z = float(obrs.overlap(pair.policy, pair.actor, lam))
    assert abs(len(kept) / draws - z) < 5 * math.sqrt(z * (1 - z) / draws)
    law = np.exp(obrs.accepted_log_probs(pair.policy, pair.actor, lam))
    frequency = np.bincount(kept, minlength=12) / len(kept)
    assert np.all(np.abs(frequency - law) < 5 * np.sqrt(law * (1 - law) / len(kept)))


# ---------------------------------------------------------------- gradients


def test_gradcheck() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    logits = [torch.tensor(rng.normal(size=(2, 6)), requires_grad=True) for _ in range(2)]
    for function in (obrs.overlap, obrs.accepted_log_probs):
        assert torch.autograd.gradcheck(lambda a, b, f=function: f(log_softmax(a), log_softmax(b), 1.2), logits)


def test_gradients_are_finite_with_holes() -> None:
    torch = pytest.importorskip("torch")
    for function in (obrs.overlap, lambda p, q, lam: obrs.accepted_log_probs(p, q, lam).exp()[2]):
        p, q = (torch.tensor(x, requires_grad=True) for x in HOLED)
        function(p, q, 0.8).backward()
        for gradient in (p.grad, q.grad):
            assert torch.isfinite(gradient).all()
            assert gradient[4] == 0
            assert gradient.abs().sum() > 0


def test_overlap_gradient_by_hand() -> None:
    # ∂Z/∂log q = q where r > λ, ∂Z/∂log p = p/λ where r < λ; HOLED has r = 2.5, 0, 3/7, ∞ and none.
    torch = pytest.importorskip("torch")
    p, q = (torch.tensor(x, requires_grad=True) for x in HOLED)
    obrs.overlap(p, q, 0.8).backward()
    np.testing.assert_allclose(p.grad.numpy(), [0, 0, 0.3 / 0.8, 0, 0], rtol=1e-15, atol=0)
    np.testing.assert_allclose(q.grad.numpy(), [0.2, 0, 0, 0, 0], rtol=1e-15, atol=0)


def test_solve_lam_is_a_constant_of_differentiation() -> None:
    torch = pytest.importorskip("torch")
    p, q = (torch.tensor(x, requires_grad=True) for x in (P, Q))
    assert not obrs.solve_lam(p, q, 0.6).requires_grad


# -------------------------------------------------------------- dtypes, size


def test_bfloat16_logits_are_computed_in_float32() -> None:
    torch = pytest.importorskip("torch")
    logits = torch.asarray(random_pair(6, (2, 20)).policy).to(torch.bfloat16)
    p, q = log_softmax(logits), log_softmax(logits.flip(-1))
    expected = obrs.overlap(log_softmax(logits.double()), log_softmax(logits.flip(-1).double()))
    assert obrs.overlap(p, q).dtype == torch.float32
    torch.testing.assert_close(obrs.overlap(p, q), expected.float())
    assert obrs.acceptance_probability(logits, 1.0).dtype == torch.float32
    certain = torch.tensor([0.0, -INF], dtype=torch.bfloat16)
    assert obrs.accepted_log_probs(certain, certain, 2.0).dtype == torch.float32


@each("dtype", [np.float32, np.float64])
def test_a_large_vocabulary(dtype: type) -> None:
    pair = random_pair(7, (2, 151_936), 0.3)
    expected = np.sum(np.minimum(pair.q, pair.p / 1.5), axis=-1)
    p, q = (log_softmax(x.astype(dtype)) for x in pair)
    tolerance = 1e-12 if dtype is np.float64 else 2e-5
    z = obrs.overlap(p, q, 1.5)
    np.testing.assert_allclose(z, expected.astype(np.float64), rtol=tolerance)
    accepted = obrs.accepted_log_probs(p, q, 1.5)
    assert z.dtype == accepted.dtype == dtype
    np.testing.assert_allclose(np.sum(np.exp(accepted.astype(np.float64)), axis=-1), 1, rtol=tolerance)


# -------------------------------------------------------------------- errors


@each("name", ["overlap", "accepted_log_probs", "solve_lam"])
def test_errors_name_the_argument(xp: ToLibrary, name: str) -> None:
    function: Callable[..., Any] = getattr(obrs, name)
    for bad, words in (([math.nan, 0.0, 0.0], "NaN"), ([0.0, 0.0, 0.0], "normalised"), ([], "vocabulary")):
        law = xp(np.array(bad, dtype=np.float64))
        other = xp(np.zeros(0)) if words == "vocabulary" else xp(P)
        with pytest.raises(ValueError, match=f"policy_log_probs.*{words}"):
            function(law, other, 0.5)
        if words != "vocabulary":
            with pytest.raises(ValueError, match=f"actor_log_probs.*{words}"):
                function(other, law, 0.5)
    with pytest.raises(ValueError, match=r"policy_log_probs has shape \(3,\), actor_log_probs has shape \(1, 3\)"):
        function(xp(P), xp(Q[None]), 0.5)
    with pytest.raises(TypeError, match="real floating"):
        function(xp(np.zeros(3, dtype=np.int64)), xp(P), 0.5)


@each("lam", [0.0, -1.0, math.nan, INF])
def test_lam_is_positive(xp: ToLibrary, lam: float) -> None:
    p, q = xp(P), xp(Q)
    for call in (
        lambda: obrs.overlap(p, q, lam),
        lambda: obrs.accepted_log_probs(p, q, lam),
        lambda: obrs.acceptance_probability(p - q, lam),
        lambda: obrs.overlap(xp(P[None]), xp(Q[None]), xp([lam])),
    ):
        with pytest.raises(ValueError, match="lam must be positive and finite"):
            call()


def test_one_disjoint_state_in_a_batch(xp: ToLibrary) -> None:
    policy = np.stack([P, of_probabilities(1.0, 0.0, 0.0)])
    actor = np.stack([Q, of_probabilities(0.0, 0.5, 0.5)])
    np.testing.assert_allclose(to_numpy(obrs.overlap(xp(policy), xp(actor))), [0.75, 0.0], rtol=1e-15)
    for function in (obrs.accepted_log_probs, obrs.solve_lam):
        with pytest.raises(ValueError, match="share no token at some state"):
            function(xp(policy), xp(actor), 0.5)


# ------------------------------------------------------------ what [J] shows


@pytest.mark.parametrize(
    ("kl", "acceptance", "kl_after"),
    [(0.00145, 0.9840, None), (0.00412, 0.9716, None), (0.0100, 0.9530, 0.00084), (0.0231, 0.9237, 0.00235)],
)
def test_figure_2_of_jackpot(kl: float, acceptance: float, kl_after: float | None) -> None:
    """p ~ Dirichlet(2), q = (1 − ε)p + εu, u ~ Dirichlet(1), V = 1000, λ = 1, with ε set by the KL.

    Read off the plots: ±0.002 in acceptance, ±0.0001 in KL; a draw of the laws adds its own scatter.
    """
    rng = np.random.default_rng(8)
    p, u = rng.dirichlet(np.full(1000, 2.0), size=64), rng.dirichlet(np.ones(1000), size=64)

    def actor(mix: float) -> Any:
        return np.log((1 - mix) * p + mix * u)

    low, high = 0.0, 0.9
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if np.mean(divergences.kl(np.log(p), actor(middle))) < kl else (low, middle)
    q = actor(low)
    assert float(np.mean(obrs.overlap(np.log(p), q))) == pytest.approx(acceptance, abs=0.002)
    if kl_after is not None:
        after = divergences.kl(np.log(p), obrs.accepted_log_probs(np.log(p), q, 1.0))
        assert float(np.mean(after)) == pytest.approx(kl_after, abs=0.0001)


def test_the_lam_that_a_budget_leaves_in_a_correction_gives_one_overlap_per_state() -> None:
    pair = [normalised(np.random.default_rng(seed).normal(size=(3, 3))) for seed in (0, 1)]
    correction = at_budget(estimators.get("jackpot"), *pair, 0.7)
    assert np.shape(correction.overlap_lam) == (3, 1)
    z = obrs.overlap(*pair, correction.overlap_lam)
    assert z.shape == (3,)
    np.testing.assert_allclose(z, 0.7, rtol=1e-12)
