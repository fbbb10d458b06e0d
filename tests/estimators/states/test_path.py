"""A path of thresholds against `moments.exact`, one threshold at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from jackpot_sim import estimators
from jackpot_sim.core.backend import to_numpy
from jackpot_sim.estimators import statistics
from jackpot_sim.estimators.corrections.composed import RaoBlackwell, rao_blackwell
from jackpot_sim.estimators.corrections.correction import TokenCorrection
from jackpot_sim.estimators.corrections.pieces import Monomial, Piece
from jackpot_sim.estimators.states import moments, path
from jackpot_sim.estimators.states.moments import Denominator
from jackpot_sim.estimators.states.optimum import with_parameter
from tests.cases import each, rotating
from tests.conftest import ToLibrary
from tests.core.laws import normalised, of_probabilities
from tests.estimators.brute import CELLS, Cell
from tests.estimators.cells import columns, random_cell

INF = math.inf
DENOMINATORS = list(Denominator)
every_denominator = each("denominator", DENOMINATORS)

TIED = Cell(
    of_probabilities(0.2, 0.2, 0.3, 0.1, 0.2)[None],
    of_probabilities(0.1, 0.1, 0.3, 0.2, 0.3)[None],
    np.array([[1.0, -2.0, 0.5, 3.0, 0.0]]),
)
DISJOINT = Cell(
    np.stack([of_probabilities(0.5, 0.5, 0, 0), of_probabilities(0.4, 0.3, 0.2, 0.1)]),
    np.stack([of_probabilities(0, 0, 0.5, 0.5), of_probabilities(0.1, 0.2, 0.3, 0.4)]),
    np.array([[1.0, 2.0, 3.0, -1.0], [0.5, 1.0, -1.0, 2.0]]),
)
ALL = CELLS | {
    "random": random_cell(states=4, vocab=12, seed=1, shift=1.5),
    "tied ratios": TIED,
    "a state without a common token": DISJOINT,
    "equal laws": Cell(TIED.policy, TIED.policy, TIED.advantage),
}

FAMILIES = {
    "tis": (estimators.get("tis"), "clip"),
    "obrs": (estimators.get("obrs"), "lam"),
    "jackpot c1": (estimators.get("jackpot", lam=1.3), "c1"),
    "jackpot lam": (estimators.get("jackpot", c1=0.8), "lam"),
    "jackpot lam, unclipped": (estimators.get("jackpot", c1=INF), "lam"),
    "jackpot c1, of the ratio": (estimators.get("jackpot", lam=1.3, clip_on="ratio"), "c1"),
    "jackpot lam, the ratio clipped": (estimators.get("jackpot", c1=1.5, clip_on="ratio"), "lam"),
    "overlap-tis c1": (estimators.get("overlap-tis", lam=0.6), "c1"),
    "overlap-tis lam": (estimators.get("overlap-tis", c1=0.9), "lam"),
    "cispo high": (estimators.get("cispo", low=0.4), "high"),
}
FAMILIES |= {f"rao-blackwell({name})": (rao_blackwell(c), p) for name, (c, p) in FAMILIES.items()}
CONSTANT = [estimators.get(name) for name in ("none", "is", "mis", "mask-k1", "mask-k2", "mask-k3", "cispo", "topr")]


def thresholds_for(cell: Cell, correction: Any, parameter: str) -> Any:
    """Below all ratios, above all, between, and exactly at them (at Z·r too, where c1 turns)."""
    ratio = np.exp(cell.policy) / np.where(np.isfinite(cell.actor), np.exp(cell.actor), math.nan)
    finite = np.unique(ratio[np.isfinite(ratio) & (ratio > 0)])
    found = [*finite, finite[0] / 50, finite[-1] * 50, *np.sqrt(finite[1:] * finite[:-1]), 1.0]
    if parameter == "c1":
        lam = correction.overlap_lam
        z = np.minimum(np.exp(cell.actor), np.exp(cell.policy) / lam).sum(axis=-1)
        found += [*(z[z > 0, None] * finite).ravel(), *(z[z > 0] * lam)]
    if parameter != "lam":
        found.append(INF)
    return np.array(found)


def some(thresholds: Any, most: int) -> list[int]:
    """The places of so many, evenly: each is compared with sums over all tokens, which take long."""
    return np.unique(np.linspace(0, len(thresholds) - 1, most).round().astype(int)).tolist()


def assert_is_exact(cell: Cell, correction: Any, parameter: str, thresholds: Any, denominator: str) -> None:
    moved = with_parameter(correction, parameter, thresholds)
    along = path.exact(*cell, moved, denominator=denominator, n_samples=6)
    together = columns(along)
    for index in some(thresholds, 20):
        threshold = thresholds[index]
        single = with_parameter(correction, parameter, float(threshold))
        expected = moments.exact(*cell, single, denominator=denominator, n_samples=6)
        for name, value in columns(expected).items():
            np.testing.assert_allclose(
                together[name][index], value, rtol=1e-10, atol=1e-10, err_msg=f"{name} at {parameter} = {threshold}"
            )
        np.testing.assert_allclose(along.bias[index], expected.bias, rtol=1e-10, atol=1e-14)


@each("family, cell, denominator", rotating(FAMILIES, ALL, DENOMINATORS))
def test_every_threshold_is_exact(family: str, cell: str, denominator: str) -> None:
    correction, parameter = FAMILIES[family]
    thresholds = thresholds_for(ALL[cell], correction, parameter)
    assert_is_exact(ALL[cell], correction, parameter, thresholds, denominator)


@each(
    "correction, cell, denominator",
    rotating([form for c in CONSTANT for form in (c, rao_blackwell(c))], ALL, DENOMINATORS),
)
def test_a_path_of_one_is_exact(correction: Any, cell: str, denominator: str) -> None:
    along = path.exact(*ALL[cell], correction, denominator=denominator, n_samples=6)
    assert along.bias.shape == (1,)
    expected = moments.exact(*ALL[cell], correction, denominator=denominator, n_samples=6)
    found = columns(along)
    for name, value in columns(expected).items():
        np.testing.assert_allclose(found[name][0], value, rtol=1e-10, atol=1e-10, err_msg=name)


@each("bounds", [(0.5, 1.0), (1.0, 1.0), (2.0, 2.0), (0.0, 0.5), (2.0, INF)])
def test_a_band_that_ends_at_a_ratio_keeps_it(bounds: tuple[float, float]) -> None:
    # Powers of 2, whose logarithms subtract exactly: the ratios are 2, 1/2 and 1.
    low, high = bounds
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.5, 0.25])
    cell = Cell(np.log(p), np.log(q), np.array([1.0, -1.0, 2.0]))
    for name in ("mis", "mask-k1"):
        correction = estimators.get(name, low=low, high=high)
        rate = q[(p / q >= low) & (p / q <= high)].sum()
        for exact in (path.exact(*cell, correction), moments.exact(*cell, correction)):
            np.testing.assert_allclose(exact.acceptance_rate, rate, rtol=1e-14)


@every_denominator
def test_two_parameters_move_together(denominator: str) -> None:
    cell = random_cell(states=3, vocab=9, seed=3, shift=1.0)
    lam, c1 = np.array([0.5, 1.0, 3.0, 0.7]), np.array([2.0, 0.1, 0.6, INF])
    along = path.exact(*cell, estimators.get("jackpot", lam=lam, c1=c1), denominator=denominator, n_samples=4)
    for index in range(4):
        single = estimators.get("jackpot", lam=float(lam[index]), c1=float(c1[index]))
        expected = columns(moments.exact(*cell, single, denominator=denominator, n_samples=4))
        for name, value in columns(along).items():
            np.testing.assert_allclose(value[index], expected[name], rtol=1e-10, atol=1e-10, err_msg=name)


@every_denominator
def test_a_large_vocabulary(denominator: str) -> None:
    vocab = 20_000
    generator = np.random.default_rng(5)
    logits = 2 * generator.normal(size=(2, vocab))
    policy, actor = normalised(logits), normalised(logits + 0.5 * generator.normal(size=(2, vocab)))
    cell = Cell(policy, actor, generator.normal(size=(2, vocab)))
    for family in ("tis", "jackpot c1", "obrs"):
        correction, parameter = FAMILIES[family]
        assert_is_exact(cell, correction, parameter, np.array([1e-3, 0.3, 1.0, 2.0, 50.0]), denominator)


def near_certain(rest: float, constant: float = 0.0) -> Cell:
    """States whose likeliest token has all but `rest` of the policy's mass, and most of the actor's."""
    generator = np.random.default_rng(11)
    logits = generator.normal(size=(3, 7)).astype(np.longdouble)
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    logits[range(3), (4, 0, 6)] = -np.log(np.longdouble(rest))
    actor = logits + 0.7 * generator.normal(size=logits.shape)
    return Cell(normalised(logits), normalised(actor), generator.normal(size=logits.shape) + constant)


def extended(cell: Cell, correction: Any, denominator: str, n_samples: int) -> Any:
    """The moments in extended precision, from the vectors f(x): in none of them is 1 − p_x a difference."""
    states = []
    for log_p, log_q, advantage in zip(*(x.astype(np.longdouble) for x in cell), strict=True):
        p, q = np.exp(log_p), np.exp(log_q)
        lam = correction.overlap_lam
        accept, weight = correction.weights(log_p - log_q, None if lam is None else np.minimum(q, p / lam).sum())
        score = -np.tile(p, (len(p), 1))
        np.fill_diagonal(score, [np.delete(p, x).sum() for x in range(len(p))])
        states.append((p, q * accept, weight, advantage, score))
    rates = [kept.sum() for _, kept, _, _, _ in states]
    rows = []
    for (p, kept, weight, advantage, score), rate in zip(states, rates, strict=True):
        mean = (kept * weight).sum()
        divisor = {"proposed": np.longdouble(1), "accepted": np.mean(rates), "self_normalized": mean}[denominator]
        feature = advantage[:, None] * score
        gradient = (p * (advantage - advantage[np.argmax(p)])) @ score
        estimate, error = (kept * weight / divisor) @ feature, (kept * weight / divisor - p) @ feature
        centre = estimate if denominator == "self_normalized" else 0.0
        rows.append(
            dict(
                acceptance_rate=rate,
                weight_mean=mean,
                weight_square=kept @ weight**2,
                grad_norm_sq=gradient @ gradient,
                on_policy_variance=p @ (feature**2).sum(axis=1) - gradient @ gradient,
                divisor=divisor,
                error_sq=error @ error,
                error_dot=error @ gradient,
                estimate_sq=estimate @ estimate,
                estimate_dot=estimate @ gradient,
                second_moment=(kept * weight**2) @ ((feature - centre) ** 2).sum(axis=1),
                kl_accepted=math.nan,
                kl_effective=math.nan,
                **statistics.of_single_tokens(rate, (estimate @ estimate) * divisor**2),
            )
        )
    together = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return statistics.combine(moments.StateStatistics(**together), denominator, n_samples)


@each(
    "family, rest, constant, denominator",
    rotating(FAMILIES, [1e-2, 1e-4, 1e-6, 1e-8, 1e-10], [0.0, 100.0], DENOMINATORS),
)
def test_near_certain_states_keep_their_digits(family: str, rest: float, constant: float, denominator: str) -> None:
    cell = near_certain(rest, constant)
    correction, parameter = FAMILIES[family]
    thresholds = thresholds_for(cell, correction, parameter)
    along = path.exact(*cell, with_parameter(correction, parameter, thresholds), denominator=denominator, n_samples=6)
    found = columns(along)
    # In the sums of squares a constant leaves ε of its own square, and in their root near 0 the root of that.
    close, close_root = (1e-13, 1e-6) if constant == 0 else (1e-10, 1e-5)
    # `moments.exact` is the less accurate one: in it the likeliest token's 1 − p is a difference, known to ε/rest.
    direct = close + 2e-15 * (1 + constant) / rest
    for index in some(thresholds, 12):
        threshold = thresholds[index]
        single = with_parameter(correction, parameter, float(threshold))
        referee = extended(cell, single, denominator, 6)
        expected = columns(referee)
        exact = columns(moments.exact(*cell, single, denominator=denominator, n_samples=6))
        for name in ("bias_sq", "variance", "direction_bias", "mse"):
            value, scale = expected[name], max(1.0, expected[name])
            assert abs(found[name][index] - value) <= close * scale, f"{name} at {parameter} = {threshold}"
            assert abs(found[name][index] - exact[name]) <= direct * scale, f"{name} at {parameter} = {threshold}"
        assert abs(along.bias[index] - referee.bias) <= close_root * max(1.0, referee.bias)


def test_tiny_thresholds_and_far_tails() -> None:
    # What is accepted is 1e-7 of the proposals, and the update as short: the digits must survive both.
    cell = random_cell(states=3, vocab=10, seed=7)
    for family in ("tis", "obrs", "jackpot c1"):
        correction, parameter = FAMILIES[family]
        far = np.array([1e7]) if parameter == "lam" else np.array([1e-7])
        assert_is_exact(cell, correction, parameter, far, "proposed")


@every_denominator
def test_a_constant_advantage_is_degenerate(denominator: str) -> None:
    cell = random_cell(states=3, vocab=7, seed=1)._replace(advantage=np.full((3, 7), 0.1))
    found = path.exact(*cell, estimators.get("tis", clip=np.array([0.5, 2.0])), denominator=denominator, n_samples=2)
    np.testing.assert_array_equal(found.degenerate_states, [3, 3])
    for column in (found.bias, found.mse, found.direction_bias):
        assert np.isnan(column).all()


def test_bias_falls_and_ess_falls_along_tis() -> None:
    cell = random_cell(states=6, vocab=30, seed=2)
    clips = np.geomspace(0.5, 100, 40)
    found = path.exact(*cell, estimators.get("tis", clip=clips))
    assert np.all(np.diff(found.kl_effective) <= 1e-12)  # T1
    assert np.all(np.diff(found.ess_fraction) <= 1e-12)
    assert found.bias[-1] < 1e-7


@pytest.mark.parametrize("name", ["tis", "jackpot", "mis"])
def test_every_library_gives_the_same(name: str, xp: ToLibrary) -> None:
    cell = random_cell(states=3, vocab=6, seed=4)
    expected = columns(path.exact(*cell, estimators.get(name), denominator="accepted"))
    found = columns(path.exact(*(xp(x) for x in cell), estimators.get(name), denominator="accepted"))
    for column, value in found.items():
        np.testing.assert_array_equal(to_numpy(value), expected[column], err_msg=column)


def test_thresholds_may_be_of_another_library() -> None:
    cell = random_cell(states=3, vocab=6, seed=4)
    for name, parameter in (("tis", "clip"), ("obrs", "lam"), ("jackpot", "lam"), ("jackpot", "c1")):
        correction = estimators.get(name, **{parameter: torch.tensor([0.5, 2.0], dtype=torch.float64)})
        expected = path.exact(*cell, estimators.get(name, **{parameter: np.array([0.5, 2.0])}))
        found = path.exact(*cell, correction)
        assert isinstance(found.bias, np.ndarray)
        np.testing.assert_array_equal(found.bias, expected.bias)


def test_leading_axes_are_flattened() -> None:
    cell = random_cell(states=6, vocab=5, seed=10)
    correction = estimators.get("tis", clip=np.array([0.5, 2.0]))
    flat = path.exact(*cell, correction)
    assert flat.per_state.error_sq.shape == (2, 6)
    np.testing.assert_array_equal(path.exact(*(x.reshape(2, 3, 5) for x in cell), correction).bias, flat.bias)


# ---------------------------------------------------------------------- errors


class _Odd(TokenCorrection):
    name = "odd"

    def parameters(self) -> dict[str, Any]:
        return {}


class _Cubic(_Odd):
    name = "cubic"

    def pieces(self, overlap: Any = None, sign: int = 0) -> tuple[Piece, ...]:
        return (Piece(INF, True, Monomial(1.0, 1), Monomial(1.0, 1)),)


def test_what_is_not_piecewise_monomial_is_refused() -> None:
    for correction in (_Odd(), RaoBlackwell(_Odd())):
        with pytest.raises(TypeError, match="odd is not piecewise monomial"):
            path.exact(*TIED, correction)
    with pytest.raises(ValueError, match="powers 1 and 1"):
        path.exact(*TIED, _Cubic())


@pytest.mark.parametrize(
    ("cell", "options", "message"),
    [
        (TIED, {"n_samples": 0}, "n_samples must be at least 1"),
        (TIED, {"denominator": "kept"}, "kept"),
        (TIED._replace(advantage=TIED.advantage * math.nan), {}, "advantage holds NaN"),
        (TIED._replace(actor=TIED.actor + 1.0), {}, "actor_log_probs is not normalised"),
        (TIED._replace(actor=TIED.actor[0]), {}, "policy_log_probs has shape .*actor_log_probs has shape"),
        (TIED._replace(advantage=TIED.advantage[0]), {}, "policy_log_probs has shape .*advantage has shape"),
        (Cell(*(x[:0] for x in TIED)), {}, "holds no state"),
        (Cell(*(x[:, :0] for x in TIED)), {}, "must not be empty"),
        (Cell(*(x[0, 0] for x in TIED)), {}, "last axis is the vocabulary"),
    ],
)
def test_errors_name_the_argument(cell: Cell, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        path.exact(*cell, estimators.get("tis"), **options)


def test_parameters_must_be_a_path() -> None:
    with pytest.raises(ValueError, match=r"tis: clip has shape \(2, 1\): along a path"):
        path.exact(*TIED, estimators.get("tis", clip=np.ones((2, 1))))
    for c1 in (np.ones(3), np.ones(1)):
        with pytest.raises(ValueError, match=r"jackpot: .* has shape .*: along a path .* shape \(thresholds,\)"):
            path.exact(*TIED, estimators.get("jackpot", lam=np.ones(2), c1=c1))


def test_float32_laws_of_a_real_vocabulary_are_taken_as_they_come() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(2, 2, 151_936)).astype(np.float32)
    policy, actor = (torch.log_softmax(torch.from_numpy(x), -1).numpy() for x in logits)
    cell = (policy[:1], actor[:1], generator.normal(size=(1, 151_936)))
    along = path.exact(*cell, estimators.get("tis"))
    assert along.bias[0] == pytest.approx(
        moments.exact(*(np.asarray(x) for x in cell), estimators.get("tis")).bias, rel=1e-3
    )


def test_laws_too_small_for_their_exponentials_have_finite_kls() -> None:
    policy, actor = np.array([[0.0, -800.0, -900.0]]), np.array([[0.0, -810.0, -880.0]])
    cell = (policy, actor, np.array([[1.0, 0.0, -1.0]]))
    assert moments.exact(*cell, estimators.get("none")).kl_effective == pytest.approx(0.0, abs=1e-300)
    assert path.exact(*cell, estimators.get("none")).kl_effective[0] == pytest.approx(0.0, abs=1e-300)


def test_a_token_that_neither_policy_writes_is_no_support_violation() -> None:
    policy, actor = (of_probabilities(*law, 0.0)[None] for law in ((0.5, 0.3, 0.2), (0.2, 0.5, 0.3)))
    advantage = np.array([[1.0, -2.0, 0.5, 3.0]])
    for denominator in Denominator:
        along = path.exact(
            policy, actor, advantage, estimators.get("tis", clip=np.array([0.7, 1.5])), denominator=denominator
        )
        for at, clip in enumerate((0.7, 1.5)):
            alone = moments.exact(policy, actor, advantage, estimators.get("tis", clip=clip), denominator=denominator)
            assert math.isfinite(along.kl_effective[at])
            assert along.kl_effective[at] == pytest.approx(alone.kl_effective, rel=1e-12)
            assert along.bias[at] == pytest.approx(alone.bias, rel=1e-12)
