"""The best threshold: never worse than a grid, and exact where it says so."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import scipy.optimize

from jackpot_sim import estimators
from jackpot_sim.estimators.corrections.composed import RaoBlackwell, rao_blackwell
from jackpot_sim.estimators.states import moments, optimum, path, quadratics
from jackpot_sim.estimators.states.optimum import with_parameter
from jackpot_sim.estimators.states.sorted_state import sorted_states
from jackpot_sim.estimators.states.tokens import tokens_of_states
from tests.cases import each, every, rotating
from tests.core.laws import normalised, of_probabilities
from tests.estimators.brute import CELLS, Cell
from tests.estimators.cells import columns, random_cell
from tests.estimators.states.test_path import extended, near_certain

CELL = CELLS["three states"]
CELLS_TRIED = CELLS | {
    "random": random_cell(states=4, vocab=12, seed=1, shift=1.5),
    "close": random_cell(states=3, vocab=6, seed=2, shift=0.05),
    "far": random_cell(states=2, vocab=5, seed=4, shift=3.0),
}
FAMILIES = {
    "tis": (estimators.get("tis"), "clip"),
    "obrs": (estimators.get("obrs"), "lam"),
    "jackpot": (estimators.get("jackpot"), "c1"),
    "jackpot, lam 3": (estimators.get("jackpot", lam=3.0), "c1"),
    "jackpot, lam 0.4": (estimators.get("jackpot", lam=0.4), "c1"),
    "jackpot, of the ratio": (estimators.get("jackpot", lam=0.8, clip_on="ratio"), "c1"),
    "overlap-tis": (estimators.get("overlap-tis", lam=2.0), "c1"),
}
FAMILIES |= {f"rao-blackwell({name})": (rao_blackwell(c), p) for name, (c, p) in FAMILIES.items()}


def kinks(cell: Cell, correction: Any, parameter: str) -> Any:
    """Where the MSE's formula changes, ascending: every ratio, or Z·r and λZ for c1, or r/λ and 1 if on the ratio."""
    with np.errstate(invalid="ignore"):
        ratio = np.exp(cell.policy - cell.actor)
    if parameter == "c1":
        lam = correction.overlap_lam
        z = np.minimum(np.exp(cell.actor), np.exp(cell.policy) / lam).sum(axis=-1, keepdims=True)
        on_ratio = correction.parameters().get("clip_on") == "ratio"
        ratio = np.concatenate([z * ratio, lam * z], axis=-1) / (lam * z if on_ratio else 1.0)
    return np.unique(ratio[np.isfinite(ratio) & (ratio > 0)])


def mse(cell: Cell, correction: Any, parameter: str, n_samples: int, threshold: float, denominator: str) -> float:
    single = with_parameter(correction, parameter, threshold)
    return float(moments.exact(*cell, single, denominator=denominator, n_samples=n_samples).mse)


@each("family, cell, n_samples", rotating(FAMILIES, CELLS_TRIED, [1, 8, 200, 100_000]))
def test_never_worse_than_a_grid(family: str, cell: str, n_samples: int) -> None:
    correction, parameter = FAMILIES[family]
    laws = CELLS_TRIED[cell]
    found = optimum.best(*laws, correction, n_samples=n_samples)
    at = kinks(laws, correction, parameter)
    grid = np.concatenate([np.geomspace(at[0] / 100, at[-1] * 100, 2000), at])
    along = path.exact(*laws, with_parameter(correction, parameter, grid), n_samples=n_samples).mse
    assert found.moments.mse[0] <= along.min() * (1 + 1e-12) + 1e-12
    assert found.is_exact
    assert found.correction == with_parameter(correction, parameter, found.threshold)
    assert isinstance(found.correction, type(correction))
    expected = columns(moments.exact(*laws, found.correction, n_samples=n_samples))
    for name, value in columns(found.moments).items():
        assert value.shape == (1,)
        np.testing.assert_allclose(value[0], expected[name], rtol=1e-10, atol=1e-10, err_msg=name)


@each("family, cell", every(FAMILIES, ["three states", "an actor that cannot reach the policy"]))
def test_exact_within_its_piece(family: str, cell: str) -> None:
    correction, parameter = FAMILIES[family]
    laws = CELLS_TRIED[cell]
    found = optimum.best(*laws, correction, n_samples=8)

    def cost(threshold: float) -> float:
        return mse(laws, correction, parameter, 8, threshold, "proposed")

    ends = [1e-6, *kinks(laws, correction, parameter), 1e6]
    minima = [(cost(end), end) for end in ends]  # a bounded search does not reach the ends of its interval
    # Searched are the two outer intervals, which are wide, and those that are lowest within.
    inner = [(np.geomspace(low, high, 5)[1:-1], low, high) for low, high in itertools.pairwise(ends)]
    pieces = [(min(map(cost, points)), low, high) for points, low, high in inner]
    for _, low, high in {pieces[0], pieces[-1], *sorted(pieces)[:3]}:
        inside = scipy.optimize.minimize_scalar(cost, bounds=(low, high), method="bounded", options={"xatol": 1e-8})
        minima.append((float(inside.fun), float(inside.x)))
    value, threshold = min(minima)
    assert abs(found.moments.mse[0] - value) < 1e-12
    # Where all ratios are passed the MSE is flat.
    assert found.threshold == pytest.approx(threshold, rel=1e-5) or threshold > ends[-2]


@each("family, cell", every(FAMILIES, CELLS_TRIED))
def test_every_quadratic_is_the_mse_on_its_interval(family: str, cell: str) -> None:
    # The winners are evaluated once more, which would hide a wrong coefficient in cells as small as these.
    correction, parameter = FAMILIES[family]
    for log_p, log_q, advantage in zip(*CELLS_TRIED[cell], strict=True):
        laws = Cell(log_p, log_q, advantage)
        (state,) = sorted_states(*laws)
        breaks, stretches = quadratics._intervals(state, correction)
        costs = quadratics._costs(state, stretches, len(breaks) + 1, 8)
        ends = np.concatenate([[0.0], breaks, [2 * breaks[np.isfinite(breaks)][-1]]])
        for index in range(len(breaks) + 1):
            x = (ends[index] + ends[index + 1]) / 2
            if ends[index] < ends[index + 1] and 0 < x < math.inf:
                threshold = float(1 / x if parameter == "lam" else x)
                found = moments.exact(*laws, with_parameter(correction, parameter, threshold), n_samples=8)
                cost = found.mse * found.grad_norm_sq
                scale = found.grad_norm_sq + found.on_policy_variance * found.variance
                assert costs[:, index] @ [1, x, x * x] == pytest.approx(cost, rel=1e-9, abs=1e-12 * scale)


@each("family, rest", every(FAMILIES, [1e-2, 1e-4, 1e-6, 1e-8, 1e-10]))
def test_near_certain_states_keep_their_digits(family: str, rest: float) -> None:
    # So many samples that the variance, 1/rest times ‖g‖², does not hide the bias.
    correction, parameter = FAMILIES[family]
    laws, n_samples = near_certain(rest), round(100 / rest)
    found = optimum.best(*laws, correction, n_samples=n_samples)
    for scale in (0.5, 0.99, 1.01, 2.0):
        beside = with_parameter(correction, parameter, found.threshold * scale)
        referee = extended(laws, beside, "proposed", n_samples)
        assert found.moments.mse[0] <= referee.mse * (1 + 1e-12)
    (state, *_) = sorted_states(*laws)
    breaks, stretches = quadratics._intervals(state, correction)
    costs = quadratics._costs(state, stretches, len(breaks) + 1, n_samples)
    for index, (low, high) in enumerate(itertools.pairwise([0.0, *breaks, 2 * breaks[-1]])):
        x = (low + high) / 2
        if low < high:
            moved = with_parameter(correction, parameter, float(1 / x if parameter == "lam" else x))
            referee = extended(Cell(*(row[:1] for row in laws)), moved, "proposed", n_samples)
            found_mse = costs[:, index] @ [1, x, x * x] / state.grad_norm_sq
            assert found_mse == pytest.approx(float(referee.mse), rel=1e-10, abs=1e-13)


def test_by_hand() -> None:
    # Two tokens (see test_moments): with C in [1/3, 3] ĝ = C·f/4, V = C²/32 − C²/128 = 3C²/128, and g = 3f/4, so that
    # MSE·128 = (C − 3)² + 3C²/n, least at C = 3/(1 + 3/n): 3/4 at n = 1 and 12/7 at n = 4.
    pair = of_probabilities(0.75, 0.25), of_probabilities(0.25, 0.75), np.array([1.0, 0.0])
    for n_samples, clip in ((1, 3 / 4), (4, 12 / 7)):
        found = optimum.best(*pair, estimators.get("tis"), n_samples=n_samples)
        assert found.threshold == pytest.approx(clip, rel=1e-12)
        assert found.moments.mse[0] == pytest.approx((1 - clip / 3) ** 2 + clip**2 / 3 / n_samples, rel=1e-12)
    # With many samples the least bias wins: no truncation.
    assert optimum.best(*pair, estimators.get("tis"), n_samples=10**15).threshold == pytest.approx(3.0, rel=1e-9)


@each("family", FAMILIES)
def test_few_samples_of_a_misleading_actor(family: str) -> None:
    # The large constant of A makes noise, and E_q[f] ≈ 100(q − p) points away from g = (0.35, −0.39, 0.04): with one
    # sample the best update is none at all, whose MSE is 1.
    laws = Cell(of_probabilities(0.5, 0.3, 0.2), of_probabilities(0.2, 0.3, 0.5), np.array([101.0, 99.0, 100.5]))
    correction, parameter = FAMILIES[family]
    found = optimum.best(*laws, correction, n_samples=1)
    # Except where the law shrinks to x·p, not to x·q: then the MSE is 1 − 2x + s·x², with s = E_q[r²‖f‖²]/‖g‖² without
    # a mask, and λ·E_p[‖f‖²]/‖g‖² with one.
    ratio = found.moments.noise_to_signal[0]
    unmasked = 1 + ratio * moments.exact(*laws, estimators.get("is")).variance
    shrinking = {
        "rao-blackwell(obrs)": unmasked,
        "rao-blackwell(jackpot, lam 3)": unmasked,
        "jackpot, lam 3": 3 * (1 + ratio),
    }
    if family in shrinking:
        assert found.moments.mse[0] == pytest.approx(1 - 1 / shrinking[family], abs=1e-10)
        return
    assert found.moments.mse[0] == pytest.approx(1.0, abs=1e-10)
    assert found.threshold > 1e6 if parameter == "lam" else found.threshold < 1e-6


def test_more_samples_cut_less() -> None:
    laws = CELLS_TRIED["random"]
    clips = [optimum.best(*laws, estimators.get("tis"), n_samples=n).threshold for n in (1, 4, 16, 256, 10**6)]
    assert clips == sorted(clips)
    assert clips[-1] == pytest.approx(float(np.exp((laws.policy - laws.actor).max())), rel=0.3)


def test_rao_blackwell_is_never_worse() -> None:
    laws = CELLS_TRIED["random"]
    for name in ("obrs", "jackpot"):
        plain = optimum.best(*laws, estimators.get(name), n_samples=8)
        smooth = optimum.best(*laws, rao_blackwell(estimators.get(name)), n_samples=8)
        assert smooth.moments.mse[0] <= plain.moments.mse[0]
        assert isinstance(smooth.correction, RaoBlackwell)


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize(
    ("name", "parameter", "denominator"),
    [
        ("jackpot", "lam", "proposed"),
        ("jackpot", "lam", "accepted"),
        ("jackpot", "lam", "self_normalized"),
        ("overlap-tis", "lam", "proposed"),
        ("obrs", None, "accepted"),
        ("tis", None, "self_normalized"),
        ("jackpot", None, "accepted"),
    ],
)
def test_what_is_not_quadratic_is_the_best_of_a_grid(
    name: str, parameter: str | None, denominator: str, smooth: bool
) -> None:
    laws = CELLS_TRIED["random"]
    correction = estimators.get(name)
    form = rao_blackwell(correction) if smooth else correction
    found = optimum.best(*laws, form, n_samples=8, parameter=parameter, denominator=denominator)
    assert not found.is_exact
    moved = parameter or {"obrs": "lam", "tis": "clip", "jackpot": "c1"}[name]
    grid = np.geomspace(1e-10, 1e8, 2000)
    along = path.exact(*laws, with_parameter(form, moved, grid), denominator=denominator, n_samples=8).mse
    assert found.moments.mse[0] <= np.nanmin(along) + 1e-12
    assert found.moments.mse[0] == pytest.approx(mse(laws, form, moved, 8, found.threshold, denominator), abs=1e-11)
    # Refined: a local minimum, to the grid's last step.
    for factor in (0.999, 1.001):
        beside = mse(laws, form, moved, 8, found.threshold * factor, denominator)
        assert found.moments.mse[0] <= beside + 1e-9


SEARCHED = [
    ("jackpot", {"c1": 1.0}, "lam", "proposed"),
    ("jackpot", {"c1": 2.0}, "lam", "self_normalized"),
    ("jackpot", {"c1": 100.0}, "lam", "accepted"),
    ("overlap-tis", {"c1": 100.0}, "lam", "proposed"),
    ("obrs", {}, "lam", "self_normalized"),
    ("obrs", {}, "lam", "accepted"),
    ("tis", {}, "clip", "self_normalized"),
    ("jackpot", {}, "c1", "accepted"),
]


def drawn_cell(seed: int) -> tuple[Cell, int]:
    """Few states of few tokens, with several local minima of the MSE, and a number of samples."""
    generator = np.random.default_rng(seed)
    shape = (int(generator.integers(1, 5)), int(generator.choice([2, 3, 4, 6, 10])))
    spread, shift = generator.choice([0.5, 1.0, 3.0]), generator.choice([0.3, 1.0, 2.0, 4.0])
    logits = spread * generator.normal(size=shape)
    actor = normalised(logits + shift * generator.normal(size=shape))
    advantage = generator.normal(size=shape) + generator.choice([0.0, 3.0])
    return Cell(normalised(logits), actor, advantage), int(generator.choice([1, 8, 64, 1000, 100_000]))


@each("seed", [*range(24), 90])
def test_no_dense_grid_beats_a_searched_threshold(seed: int) -> None:
    name, parameters, moved, denominator = SEARCHED[seed % len(SEARCHED)]
    laws, n_samples = drawn_cell(seed)
    correction: Any = estimators.get(name, **parameters)
    correction = rao_blackwell(correction) if seed % 3 == 0 else correction
    found = optimum.best(*laws, correction, n_samples=n_samples, parameter=moved, denominator=denominator)
    ratio = np.sort(np.exp(laws.policy - laws.actor).ravel())
    inside = np.sqrt(ratio[1:] * ratio[:-1])
    grid = np.concatenate([np.geomspace(ratio[0] / 1e3, ratio[-1] * 1e3, 2000), ratio, inside, ratio * (1 + 1e-3)])
    along = path.exact(*laws, with_parameter(correction, moved, grid), denominator=denominator, n_samples=n_samples)
    assert found.moments.mse[0] <= np.nanmin(along.mse) * (1 + 1e-6)


@each("seed", [11, 65, 130, 276, 285])
def test_both_ends_of_a_plateau_are_searched(seed: int) -> None:
    # Just below max r the MSE of OBRS falls below that of all larger λ, in a well that a grid of hundreds misses.
    laws, _ = drawn_cell(seed)
    correction = estimators.get("obrs")
    found = optimum.best(*laws, correction, n_samples=100_000, denominator="self_normalized")
    top = float(np.exp(laws.policy - laws.actor).max())
    near = path.exact(
        *laws,
        with_parameter(correction, "lam", top * np.linspace(0.95, 1.0, 200)),
        denominator="self_normalized",
        n_samples=100_000,
    )
    assert near.mse.min() < near.mse[-1] * (1 - 1e-5)
    assert found.moments.mse[0] <= near.mse.min()


@each("family", FAMILIES)
def test_tokens_that_the_policy_hardly_writes_hide_no_minimum(family: str) -> None:
    # Ratios down to 1e-9: at λ of that size x = 1/λ multiplies the rounding of a quadratic's coefficients by 1e18.
    correction, parameter = FAMILIES[family]
    laws = random_cell(states=30, vocab=60, seed=5, shift=5.0)
    found = optimum.best(*laws, correction, n_samples=256)
    grid = np.geomspace(1e-10, 1e4, 400)
    along = path.exact(*laws, with_parameter(correction, parameter, grid), n_samples=256).mse
    assert found.moments.mse[0] <= along.min() * (1 + 1e-12)


def test_the_given_value_is_not_used() -> None:
    first, second = (optimum.best(*CELL, estimators.get("tis", clip=c), n_samples=5) for c in (0.01, 7.0))
    assert first.threshold == second.threshold


@pytest.mark.parametrize(
    ("correction", "options", "message"),
    [
        (estimators.get("tis"), {"n_samples": 0}, "n_samples must be at least 1"),
        (estimators.get("none"), {}, "none has no threshold to optimise"),
        (estimators.get("tis"), {"parameter": "lam"}, "tis has no threshold lam to optimise"),
        (estimators.get("mis"), {"parameter": "low"}, "mis has no threshold low to optimise"),
        (estimators.get("jackpot", lam=np.array([1.0, 2.0])), {}, "lam must be one number, not one per state"),
        (estimators.get("jackpot"), {"parameter": "c2"}, "jackpot has no threshold c2 to optimise"),
        (estimators.get("tis"), {"denominator": "kept"}, "kept"),
    ],
)
def test_errors_name_the_argument(correction: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        optimum.best(*CELL, correction, **({"n_samples": 5} | options))


@each("name, denominator", every(["tis", "obrs", "jackpot", "overlap-tis"], ["proposed", "accepted"]))
def test_there_must_be_something_to_choose(name: str, denominator: str) -> None:
    disjoint = of_probabilities(0.5, 0.5, 0, 0), of_probabilities(0, 0, 0.5, 0.5), np.array([1.0, 2.0, 3.0, -1.0])
    with pytest.raises(ValueError, match="policy and actor share no token"):
        optimum.best(*disjoint, estimators.get(name), n_samples=5, denominator=denominator)
    with pytest.raises(ValueError, match="advantage gives a zero policy gradient"):
        optimum.best(
            CELL.policy,
            CELL.actor,
            np.full_like(CELL.policy, 0.1),
            estimators.get(name),
            n_samples=5,
            denominator=denominator,
        )


MASKS = {
    "mis": estimators.get("mis"),
    "mis, low 0": estimators.get("mis", low=0.0),
    "mask-k1": estimators.get("mask-k1"),
    "mask-k1, inverted": estimators.get("mask-k1", low=0.6, inverted=True),
    "mask-k2": estimators.get("mask-k2"),
    "mask-k3": estimators.get("mask-k3"),
    "tv-mask": estimators.get("tv-mask"),
    "binary-kl-mask": estimators.get("binary-kl-mask"),
    "dppo-tv": estimators.get("dppo-tv"),
    "dppo-kl": estimators.get("dppo-kl"),
}


def densely(cell: Cell, correction: Any, denominator: str, n_samples: int) -> float:
    """The least MSE of a grid that holds each token's own threshold, a little above and a little below."""
    parameter = correction.threshold_parameter
    enters = np.asarray(correction.kept_from(tokens_of_states(cell.policy, cell.actor, correction, cell.advantage)))
    enters = np.unique(enters[np.isfinite(enters) & (enters > 0)])
    low = getattr(correction, "low", 0.0)
    grid = np.concatenate([np.geomspace(1e-4, 1e4, 9), enters * (1 + 1e-9), enters * (1 - 1e-9)])
    tried = [with_parameter(correction, parameter, float(each)) for each in grid if each >= low]
    found = moments.measure(*cell, tried, denominators=[denominator], n_samples=n_samples)
    return float(np.nanmin([by_denominator[moments.Denominator(denominator)].mse for by_denominator in found]))


@each("mask, cell, n_samples", rotating(MASKS, CELLS_TRIED, [1, 8, 200, 100_000]))
def test_the_best_mask_is_that_of_a_dense_grid(mask: str, cell: str, n_samples: int) -> None:
    correction, laws = MASKS[mask], CELLS_TRIED[cell]
    found = optimum.best(*laws, correction, n_samples=n_samples)
    assert found.is_exact
    assert found.parameter == correction.threshold_parameter
    assert found.moments.mse[0] == pytest.approx(densely(laws, correction, "proposed", n_samples), rel=1e-10, abs=1e-12)
    wrapped = optimum.best(*laws, rao_blackwell(correction), n_samples=n_samples)
    assert wrapped.threshold == found.threshold


@each("mask", MASKS)
def test_the_best_mask_keeps_its_digits_in_near_certain_states(mask: str) -> None:
    laws = near_certain(1e-5)
    found = optimum.best(*laws, MASKS[mask], n_samples=10**7)
    assert found.moments.mse[0] <= densely(laws, MASKS[mask], "proposed", 10**7) * (1 + 1e-8)


@each("mask, denominator", every(MASKS, ["accepted", "self_normalized"]))
def test_masks_of_other_denominators_are_searched(mask: str, denominator: str) -> None:
    correction, laws = MASKS[mask], CELLS_TRIED["random"]
    found = optimum.best(*laws, correction, n_samples=8, denominator=denominator)
    assert not found.is_exact
    assert found.moments.mse[0] <= densely(laws, correction, denominator, 8) * 1.02


def test_equal_laws_leave_nothing_to_choose() -> None:
    laws = Cell(CELL.policy, CELL.policy, CELL.advantage)
    found = optimum.best(*laws, estimators.get("mask-k2", bound=0.5), n_samples=8)
    assert found.threshold == 0.5
    assert found.moments.bias[0] == pytest.approx(0.0, abs=1e-12)


@each("floor, denominator", every([0.01, 0.3, 0.8, 30.0], ["proposed", "self_normalized"]))
def test_a_floor_bounds_the_search(floor: float, denominator: str) -> None:
    laws = CELLS_TRIED["random"]
    correction = estimators.get("tis", clip=50.0, floor=floor)
    found = optimum.best(*laws, correction, n_samples=8, denominator=denominator)
    assert found.is_exact == (denominator == "proposed")
    assert found.threshold >= floor
    grid = [*np.geomspace(floor, 100 * max(1, floor), 300), *(c for c in kinks(laws, correction, "clip") if c >= floor)]
    least = min(mse(laws, correction, "clip", 8, float(each), denominator) for each in grid)
    assert found.moments.mse[0] <= least * (1 + (1e-12 if found.is_exact else 1e-4))


@each("low, denominator", every([0.2, 1.0], ["proposed", "self_normalized"]))
def test_the_best_cispo_is_a_tis_with_a_floor(low: float, denominator: str) -> None:
    laws = CELLS_TRIED["far"]
    found = optimum.best(*laws, estimators.get("cispo", low=low), n_samples=64, denominator=denominator)
    assert found.is_exact == (denominator == "proposed")
    twins = [estimators.get("tis", clip=1 + high, floor=1 - low) for high in np.geomspace(1e-6, 1e3, 400)]
    least = min(moments.exact(*laws, each, denominator=denominator, n_samples=64).mse for each in twins)
    assert found.moments.mse[0] <= least * (1 + (1e-12 if found.is_exact else 1e-4))


def test_several_corrections_share_the_sorted_states() -> None:
    cell = optimum.SortedCell(*CELL)
    for correction in (*FAMILIES.values(), *((mask, None) for mask in MASKS.values())):
        assert (
            cell.best(correction[0], n_samples=5).threshold == optimum.best(*CELL, correction[0], n_samples=5).threshold
        )
