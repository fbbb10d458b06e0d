"""Divergences against hand values, scipy, extended precision and their own laws."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import scipy.special
from hypothesis import example, given
from hypothesis import strategies as st

from jackpot_sim.core import divergences
from jackpot_sim.core.backend import to_numpy
from jackpot_sim.core.numerics import log_softmax
from tests.cases import each, every
from tests.conftest import ToLibrary
from tests.core.laws import F_DIVERGENCES, Law, Pair, law_pairs, normalised, of_probabilities

INF = math.inf

Divergence = Callable[[Any, Any], Any]


def renyi(alpha: float) -> Divergence:
    return lambda p, q: divergences.renyi(p, q, alpha)


ALL: dict[str, Divergence] = {
    "kl": divergences.kl,
    "total_variation": divergences.total_variation,
    "chi_square": divergences.chi_square,
    "hellinger": divergences.hellinger,
    "jensen_shannon": divergences.jensen_shannon,
    "renyi_half": renyi(0.5),
    "renyi_1": renyi(1.0),
    "renyi_2": renyi(2.0),
    "renyi_3": renyi(3.0),
}
UNBOUNDED = ("kl", "chi_square", "renyi_1", "renyi_2", "renyi_3")
"""Those that are infinite as soon as the actor lacks a token of the policy."""


def power_sum(p: Any, q: Any, alpha: float) -> Any:
    """Σ p^α q^(1−α) − 1 in extended precision, from terms of one sign."""
    excess = F_DIVERGENCES[{0.5: "alpha_half", 2.0: "alpha_2", 3.0: "alpha_3"}[alpha]](p, q)
    return np.maximum(excess * alpha * (alpha - 1), -1)


def renyi_half(p: Any, q: Any) -> Any:
    """−2 log Σ √(pq); near 0 Σ √(pq) keeps its digits, and near 1 its excess does."""
    affinity = np.sum(np.sqrt(p) * np.sqrt(q), axis=-1)
    return -2 * np.where(affinity < 0.5, np.log(affinity), np.log1p(power_sum(p, q, 0.5)))


REFERENCES: dict[str, Callable[[Any, Any], Any]] = {
    **{name: F_DIVERGENCES[name] for name in ("kl", "total_variation", "chi_square", "hellinger", "jensen_shannon")},
    "renyi_half": renyi_half,
    "renyi_1": F_DIVERGENCES["kl"],
    "renyi_2": lambda p, q: np.log1p(power_sum(p, q, 2.0)),
    "renyi_3": lambda p, q: np.log1p(power_sum(p, q, 3.0)) / 2,
}

HOLED = Pair(of_probabilities(0.5, 0.0, 0.3, 0.2, 0.0), of_probabilities(0.2, 0.1, 0.4, 0.3, 0.0))
"""The policy stays within the actor's support; one token belongs to neither."""


def random_pair(seed: int, shape: tuple[int, ...], scale: float = 1.0) -> Pair:
    rng = np.random.default_rng(seed)
    actor = rng.normal(size=shape)
    return Pair(normalised(actor + scale * rng.normal(size=shape)), normalised(actor))


# ------------------------------------------------------------- golden values


@pytest.mark.parametrize(
    ("name", "value"),
    [
        # By hand, p = (1/2, 1/4, 1/4), q = (1/4, 1/4, 1/2): ratios 2, 1, 1/2.
        ("kl", math.log(2) / 4),
        ("renyi_1", math.log(2) / 4),
        ("total_variation", float(Fraction(1, 4))),
        ("chi_square", float(Fraction(3, 8))),  # 1/2·2 + 1/4·1 + 1/4·1/2 − 1
        ("hellinger", 3 / 4 - math.sqrt(2) / 2),  # 1 − (2√(1/8) + 1/4)
        # m = (3/8, 1/4, 3/8): KL(p‖m) = ½ log(4/3) + ¼ log(2/3), and KL(q‖m) is the same by symmetry
        ("jensen_shannon", math.log(4 / 3) / 2 + math.log(2 / 3) / 4),
        ("renyi_half", -2 * math.log(math.sqrt(2) / 2 + 1 / 4)),
        ("renyi_2", math.log(11 / 8)),
        ("renyi_3", math.log(Fraction(37, 16)) / 2),  # 4·1/2 + 1/4 + 1/16
    ],
)
def test_by_hand(xp: ToLibrary, name: str, value: float) -> None:
    p, q = of_probabilities(0.5, 0.25, 0.25), of_probabilities(0.25, 0.25, 0.5)
    assert float(ALL[name](xp(p), xp(q))) == pytest.approx(value, rel=2e-15)


def test_kl_matches_scipy_rel_entr() -> None:
    # scipy.special.rel_entr, scipy 1.17: p log(p/q), 0 where p = 0
    pair = random_pair(0, (50, 300))
    expected = np.sum(scipy.special.rel_entr(np.exp(pair.policy), np.exp(pair.actor)), axis=-1)
    np.testing.assert_allclose(divergences.kl(pair.policy, pair.actor), expected, rtol=1e-12)
    expected = np.sum(scipy.special.rel_entr(np.exp(HOLED.policy), np.exp(HOLED.actor)))
    assert float(divergences.kl(HOLED.policy, HOLED.actor)) == pytest.approx(float(expected), rel=1e-14)


def test_jensen_shannon_matches_scipy() -> None:
    # scipy.spatial.distance.jensenshannon is the root of JS, in nats
    from scipy.spatial.distance import jensenshannon

    for pair in (random_pair(1, (50,)), HOLED):
        expected = float(jensenshannon(np.exp(pair.policy), np.exp(pair.actor))) ** 2
        assert float(divergences.jensen_shannon(pair.policy, pair.actor)) == pytest.approx(expected, rel=1e-12)


def test_kl_matches_torch() -> None:
    torch = pytest.importorskip("torch")
    pair = random_pair(2, (4, 30))
    p, q = torch.asarray(pair.policy), torch.asarray(pair.actor)
    expected = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(divergences.kl(p, q), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ALL)
@given(pair=law_pairs(shared=False))
@example(pair=Pair(np.array([0.0, -INF, -702.0]), np.array([-INF, 0.0, -700.0])))  # Σ √(pq) is far below an ulp of 1
def test_against_extended_precision(name: str, pair: Pair) -> None:
    with np.errstate(over="ignore", divide="ignore"):
        expected = float(REFERENCES[name](pair.p, pair.q))
    actual = float(ALL[name](pair.policy, pair.actor))
    # The log-ratio is known to ε·|log p|, which moves a divergence d by that times √d, and TV by that.
    order = 1.0 if name == "total_variation" else math.sqrt(expected)
    assert actual == pytest.approx(expected, rel=1e-11, abs=3e-15 * order + 1e-28)


# ------------------------------------------------------------------ backends


@each("name", ALL)
def test_backends_agree(xp: ToLibrary, name: str) -> None:
    holed = Pair(np.stack([HOLED.policy, HOLED.actor]), np.stack([HOLED.actor, HOLED.policy]))
    for pair in (random_pair(3, (2, 3, 40)), random_pair(4, (7,), scale=1e-7), holed):
        expected = ALL[name](pair.policy, pair.actor)
        result = ALL[name](xp(pair.policy), xp(pair.actor))
        assert tuple(result.shape) == pair.policy.shape[:-1]
        np.testing.assert_allclose(to_numpy(result), expected, rtol=1e-12, atol=1e-28)


@each("name", ALL)
def test_a_batch_is_its_states(name: str) -> None:
    pair = random_pair(5, (3, 2, 11))
    batch = ALL[name](pair.policy, pair.actor)
    for i in np.ndindex(3, 2):
        assert float(batch[i]) == pytest.approx(float(ALL[name](pair.policy[i], pair.actor[i])), rel=1e-14)


# ------------------------------------------------------------------- support


@each("name", ALL)
def test_where_the_actor_lacks_a_token(xp: ToLibrary, name: str) -> None:
    p, q = of_probabilities(0.5, 0.5), of_probabilities(1.0, 0.0)
    value = float(ALL[name](xp(p), xp(q)))
    assert value == INF if name in UNBOUNDED else 0 < value < INF
    # A batch in which only the second state is violated.
    values = to_numpy(ALL[name](xp(np.stack([q, p])), xp(np.stack([p, q]))))
    assert np.isfinite(values[0])
    assert values[1] == value


@pytest.mark.parametrize(
    ("name", "value"),
    [("total_variation", 1.0), ("hellinger", 1.0), ("jensen_shannon", math.log(2)), ("renyi_half", INF)],
)
def test_disjoint_supports_reach_the_upper_end(xp: ToLibrary, name: str, value: float) -> None:
    p, q = xp(of_probabilities(0.25, 0.75, 0.0, 0.0)), xp(of_probabilities(0.0, 0.0, 1.0, 0.0))
    assert float(ALL[name](p, q)) == pytest.approx(value, rel=1e-15)


@each("name", ALL)
def test_tokens_of_neither_law_change_nothing(xp: ToLibrary, name: str) -> None:
    pair = random_pair(6, (9,))
    hole = np.full(3, -INF)
    bare = float(ALL[name](xp(pair.policy), xp(pair.actor)))
    padded = ALL[name](xp(np.concatenate([hole, pair.policy])), xp(np.concatenate([hole, pair.actor])))
    assert float(padded) == pytest.approx(bare, rel=1e-14)


# ------------------------------------------------------------------ extremes


@each("scale, name", every([1e-3, 1e-6, 1e-8], ALL))
def test_tiny_divergences_keep_their_digits(xp: ToLibrary, name: str, scale: float) -> None:
    pair = random_pair(7, (30,), scale)
    expected = float(REFERENCES[name](pair.p, pair.q))
    assert 0 < expected < scale
    # A relative change of `scale` is known to about ε·|log p|/scale.
    assert float(ALL[name](xp(pair.policy), xp(pair.actor))) == pytest.approx(expected, rel=1e-13 + 1e-14 / scale)


@each("alpha", [1 - 1e-7, 1 + 1e-7, 1.0])
def test_renyi_is_continuous_at_one(alpha: float) -> None:
    for scale in (1e-6, 1e-2, 1.0, 4.0):
        pair = random_pair(8, (30,), scale)
        kl = float(divergences.kl(pair.policy, pair.actor))
        assert float(divergences.renyi(pair.policy, pair.actor, alpha)) == pytest.approx(kl, rel=2e-5)


def test_chi_square_of_ratios_beyond_the_largest_float() -> None:
    # p²/q = e^(−800 + 1200) though r = e^800 is no float64
    p, q = np.array([-400.0, 0.0]), np.array([-1200.0, 0.0])
    assert float(divergences.chi_square(p, q)) == pytest.approx(math.exp(400), rel=1e-12)
    assert float(divergences.renyi(p, q, 2.0)) == pytest.approx(400, rel=1e-14)


def test_chi_square_overflows_to_inf_without_a_warning(xp: ToLibrary) -> None:
    p, q = xp([0.0, -800.0]), xp([-800.0, 0.0])
    assert float(divergences.chi_square(p, q)) == INF
    assert float(divergences.kl(p, q)) == pytest.approx(800, rel=1e-14)
    assert float(divergences.renyi(p, q, 3.0)) == pytest.approx(800, rel=1e-14)
    assert float(divergences.renyi(p, q, 0.5)) == pytest.approx(800 - 2 * math.log(2), rel=1e-14)


@each("name", ALL)
def test_float32(name: str) -> None:
    pair = random_pair(9, (5, 100))
    narrow = log_softmax(pair.policy.astype(np.float32)), log_softmax(pair.actor.astype(np.float32))
    result = ALL[name](*narrow)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, ALL[name](pair.policy, pair.actor), rtol=2e-5)
    extreme = ALL[name](np.array([0.0, -200.0], dtype=np.float32), np.array([-200.0, 0.0], dtype=np.float32))
    assert float(extreme) > 0.69
    assert math.isinf(float(extreme)) == (name == "chi_square")  # e^200 is no float32
    same = ALL[name](narrow[0], narrow[0])
    np.testing.assert_allclose(same, 0, atol=1e-7)


@each("name", ALL)
def test_bfloat16_logits_are_computed_in_float32(name: str) -> None:
    torch = pytest.importorskip("torch")
    logits = torch.asarray(random_pair(10, (2, 20)).policy).to(torch.bfloat16)
    p, q = log_softmax(logits), log_softmax(logits.flip(-1))
    result = ALL[name](p, q)
    assert result.dtype == torch.float32
    expected = ALL[name](log_softmax(logits.double()), log_softmax(logits.flip(-1).double()))
    torch.testing.assert_close(result, expected.float(), rtol=1e-5, atol=1e-6)
    certain = torch.tensor([0.0, -INF], dtype=torch.bfloat16)
    assert ALL[name](certain, certain).dtype == torch.float32


@each("dtype", [np.float32, np.float64])
def test_a_large_vocabulary(dtype: type) -> None:
    pair = random_pair(11, (151_936,), 0.1)
    expected = float(F_DIVERGENCES["kl"](pair.p, pair.q))
    p, q = (log_softmax(x.astype(dtype)) for x in pair)
    assert float(divergences.kl(p, q)) == pytest.approx(expected, rel=1e-12 if dtype is np.float64 else 1e-4)


# ---------------------------------------------------------------- gradients


@each("name", ALL)
def test_gradcheck(name: str) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(12)
    logits = [torch.tensor(rng.normal(size=(2, 6)), requires_grad=True) for _ in range(2)]

    def function(a: Any, b: Any) -> Any:
        return ALL[name](log_softmax(a), log_softmax(b))

    assert torch.autograd.gradcheck(function, logits)


@each("name", [name for name in ALL if name != "total_variation"])
def test_gradients_agree_with_the_textbook_form(name: str) -> None:
    """The terms that keep tiny divergences accurate add nothing to the gradient in the logits."""
    torch = pytest.importorskip("torch")

    def textbook(p: Any, q: Any) -> Any:
        if name in ("kl", "renyi_1"):
            return (p.exp() * (p - q)).sum(-1)
        if name == "chi_square":
            return (2 * p - q).exp().sum(-1) - 1
        if name == "hellinger":
            return 1 - ((p + q) / 2).exp().sum(-1)
        if name == "jensen_shannon":
            m = torch.log((p.exp() + q.exp()) / 2)
            return ((p.exp() * (p - m)).sum(-1) + (q.exp() * (q - m)).sum(-1)) / 2
        alpha = {"renyi_half": 0.5, "renyi_2": 2.0, "renyi_3": 3.0}[name]
        return torch.logsumexp(alpha * p + (1 - alpha) * q, dim=-1) / (alpha - 1)

    gradients = []
    for function in (ALL[name], textbook):
        rng = np.random.default_rng(13)
        logits = [torch.tensor(s * rng.normal(size=(3, 8)), requires_grad=True) for s in (1.0, 3.0)]
        function(*(torch.log_softmax(x, dim=-1) for x in logits)).sum().backward()
        gradients.append([x.grad for x in logits])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-11)


@each("name", ALL)
def test_gradients_are_finite_with_holes(name: str) -> None:
    torch = pytest.importorskip("torch")
    cases = [HOLED]
    if name not in UNBOUNDED:
        cases.append(Pair(HOLED.actor, HOLED.policy))
    for pair in cases:
        p, q = (torch.tensor(x, requires_grad=True) for x in pair)
        value = ALL[name](p, q)
        assert math.isfinite(value.item())
        value.backward()
        assert torch.isfinite(p.grad).all()
        assert torch.isfinite(q.grad).all()
        assert p.grad[4] == q.grad[4] == 0


def test_kl_gradient_with_holes_is_the_exact_one() -> None:
    # In the logits z of p, dKL/dz = p (log p − log q − KL): 0 where p = 0.
    torch = pytest.importorskip("torch")
    logits = torch.tensor(HOLED.policy, requires_grad=True)
    divergences.kl(log_softmax(logits), torch.tensor(HOLED.actor)).backward()
    p, kl = np.exp(HOLED.policy), float(divergences.kl(HOLED.policy, HOLED.actor))
    inside = p > 0
    expected = np.zeros(5)
    expected[inside] = p[inside] * (HOLED.policy[inside] - HOLED.actor[inside] - kl)
    np.testing.assert_allclose(logits.grad.numpy(), expected, rtol=1e-13, atol=1e-16)


@each("name", ALL)
def test_gradients_vanish_at_equal_laws(name: str) -> None:
    torch = pytest.importorskip("torch")
    logits = torch.tensor([0.5, -1.0, 3.0, -INF], dtype=torch.float64, requires_grad=True)
    ALL[name](log_softmax(logits), log_softmax(logits.detach())).backward()
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), rtol=0, atol=1e-15)


# ---------------------------------------------------------------------- laws


@pytest.mark.parametrize("name", ALL)
@given(pair=law_pairs(shared=False))
def test_not_negative_and_zero_only_at_itself(name: str, pair: Pair) -> None:
    value = float(ALL[name](pair.policy, pair.actor))
    assert value >= -1e-30
    assert abs(float(ALL[name](pair.actor, pair.actor))) < 1e-28
    if np.max(np.abs(np.exp(pair.policy) - np.exp(pair.actor))) > 1e-7:
        assert value > 1e-15
    if name in ("total_variation", "hellinger"):
        assert value <= 1 + 1e-15
    if name == "jensen_shannon":
        assert value <= math.log(2) * (1 + 1e-15)


@pytest.mark.parametrize("name", ["total_variation", "hellinger", "jensen_shannon", "renyi_half"])
@given(pair=law_pairs(shared=False))
def test_symmetry(name: str, pair: Pair) -> None:
    forth, back = float(ALL[name](pair.policy, pair.actor)), float(ALL[name](pair.actor, pair.policy))
    assert forth == pytest.approx(back, rel=1e-11, abs=3e-15 * math.sqrt(back) + 1e-28)


@pytest.mark.parametrize("name", ALL)
@given(pair=law_pairs(shared=False), random=st.randoms(use_true_random=False))
def test_renaming_the_tokens_changes_nothing(name: str, pair: Pair, random: Any) -> None:
    order = np.array(random.sample(range(len(pair.policy)), len(pair.policy)))
    value = float(ALL[name](pair.policy, pair.actor))
    assert float(ALL[name](pair.policy[order], pair.actor[order])) == pytest.approx(value, rel=1e-12, abs=1e-25)


@given(pair=law_pairs(shared=False))
def test_order_among_divergences(pair: Pair) -> None:
    """Pinsker, Le Cam, D_α increasing in α, and D_2 = log(1 + χ²)."""
    value = {name: float(function(pair.policy, pair.actor)) for name, function in ALL.items()}
    slack = 1 + 1e-9
    assert 2 * value["total_variation"] ** 2 <= value["kl"] * slack + 1e-25
    assert value["hellinger"] <= value["total_variation"] * slack + 1e-25
    assert value["total_variation"] ** 2 <= value["hellinger"] * (2 - value["hellinger"]) * slack + 1e-25
    ascending = [value[name] for name in ("renyi_half", "kl", "renyi_2", "renyi_3")]
    for smaller, larger in itertools.pairwise(ascending):
        assert smaller <= larger * slack + 1e-25
    if value["chi_square"] < 1e300:
        slack = 3e-15 * math.sqrt(value["chi_square"]) + 1e-28
        assert value["renyi_2"] == pytest.approx(math.log1p(value["chi_square"]), rel=1e-10, abs=slack)


# -------------------------------------------------------------------- errors


@each("name", ALL)
def test_errors_name_the_argument(xp: ToLibrary, name: str) -> None:
    law: Law = of_probabilities(0.5, 0.5)
    for bad, words in (
        (np.array([math.nan, 0.0]), "holds NaN"),
        (np.array([-1.0, -1.0]), "is not normalised"),
        (np.zeros(0), "vocabulary"),
    ):
        with pytest.raises(ValueError, match=f"policy_log_probs.*{words}"):
            ALL[name](xp(bad), xp(law))
        with pytest.raises(ValueError, match=f"actor_log_probs.*{words}"):
            ALL[name](xp(law), xp(bad))
    with pytest.raises(ValueError, match=r"policy_log_probs has shape \(2,\), actor_log_probs has shape \(1, 2\)"):
        ALL[name](xp(law), xp(law[None]))
    with pytest.raises(TypeError, match="real floating"):
        ALL[name](xp(np.zeros(2, dtype=np.int64)), xp(law))


@each("alpha", [0.0, -1.0, INF, math.nan])
def test_renyi_refuses_other_orders(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha must be positive and finite"):
        divergences.renyi(HOLED.policy, HOLED.actor, alpha)


def test_a_violation_by_a_probability_that_underflows_is_still_infinite() -> None:
    assert divergences.kl(np.array([0.0, -800.0]), np.array([0.0, -math.inf])) == math.inf


def test_binary_kl_by_hand_and_at_its_ends(xp: ToLibrary) -> None:
    # (1/2, 1/4): ½ log 2 + ½ log(2/3). Where p = 1: log 1/q. Where p = 0: log 1/(1 − q).
    pairs = [
        *((0.5, 0.25, math.log(2) / 2 + math.log(2 / 3) / 2), (0.3, 0.3, 0.0), (1.0, 1.0, 0.0), (0.0, 0.0, 0.0)),
        *((1.0, 0.25, math.log(4)), (0.0, 0.25, math.log(4 / 3)), (0.25, 0.0, INF), (0.25, 1.0, INF)),
        *((1.0, 0.0, INF), (0.0, 1.0, INF)),
    ]
    p, q, expected = (np.array(column) for column in zip(*pairs, strict=True))
    with np.errstate(divide="ignore"):
        logs = xp(np.log(p)), xp(np.log(q))
    np.testing.assert_allclose(to_numpy(divergences.binary_kl(*logs)), expected, rtol=1e-15, atol=1e-16)


@given(law_pairs())
def test_binary_kl_of_a_token_is_no_larger_than_that_of_the_laws(pair: Pair) -> None:
    # Merging all other tokens loses information: the inequality of data processing.
    for p, q in ((pair.policy, pair.actor), (pair.actor, pair.policy)):
        assert np.all(divergences.binary_kl(p, q) <= divergences.kl(p, q) * (1 + 1e-9) + 1e-13)


def test_binary_kl_refuses_what_is_no_probability(xp: ToLibrary) -> None:
    with pytest.raises(ValueError, match="q holds NaN, or probabilities that add up to more than 1"):
        divergences.binary_kl(xp(np.zeros(2)), xp(np.array([0.0, 0.1])))
    # By rounding alone: it counts as 1.
    assert float(divergences.binary_kl(xp(np.array([1e-9])), xp(np.array([0.0])))[0]) == 0


@pytest.mark.parametrize("bound", [1e-30, 1e-3, 0.05, 0.5, 2.0, math.inf])
def test_binary_kl_exceeds_a_bound_where_it_does(bound: float, xp: ToLibrary) -> None:
    generator = np.random.default_rng(7)
    log_probs = -np.abs(generator.standard_normal((3, 4000))) * np.array([[1e-9], [0.3], [20.0]])
    near = np.minimum(log_probs + 0.5 * generator.standard_normal(log_probs.shape), 0.0)
    edges = np.array([[-np.inf, -np.inf, 0.0, 0.0, -1.0], [-np.inf, -1.0, 0.0, -1.0, -np.inf]])
    p, q = (np.concatenate([np.reshape(each, -1), edge]) for each, edge in zip((log_probs, near), edges, strict=True))
    for first, second in ((p, q), (q, p)):
        expected = divergences.binary_kl(first, second) > bound
        np.testing.assert_array_equal(to_numpy(divergences.binary_kl_exceeds(xp(first), xp(second), bound)), expected)
    with pytest.raises(ValueError, match="add up to more than 1"):
        divergences.binary_kl_exceeds(xp(np.array([0.1])), xp(np.array([0.0])), bound)
