"""Laws of the corrections of whole sequences, and of several corrections at once."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackpot_sim import estimators
from jackpot_sim.estimators import Aggregate, Level, combined, rao_blackwell
from jackpot_sim.estimators.corrections.composed import Combined
from jackpot_sim.estimators.sequences.updates import UpdateTarget, require_target
from tests.core.laws import normalised

INF = math.inf
ratios = st.lists(st.integers(-192, 192).map(lambda n: n / 64), min_size=1, max_size=6)
"""Log-ratios whose sums are exact in any order."""

TWINS = [
    ("sequence-is", "is", {}),
    ("geometric-is", "is", {}),
    ("sequence-tis", "tis", {"clip": 1.5}),
    ("geometric-tis", "tis", {"clip": 1.5}),
    ("sequence-tis", "tis", {"clip": 1.5, "floor": 0.4}),
    ("sequence-mis", "mis", {"low": 0.4, "high": 2.5}),
    ("geometric-band-is", "mis", {"low": 0.4, "high": 2.5}),
    ("geometric-mis", "mis", {"low": 0.4, "high": 2.5}),
    ("sequence-mask-k1", "mask-k1", {"low": 0.4, "high": 2.5}),
    ("sequence-mask-k1", "mask-k1", {"low": 0.4, "high": 2.5, "inverted": True}),
    ("sequence-mask-k2", "mask-k2", {"bound": 0.3}),
    ("sequence-mask-k3", "mask-k3", {"bound": 0.3}),
]


def pair(correction: Any, log_ratio: Any, advantage: float = 1.0, **context: Any) -> tuple[Any, Any]:
    found = correction.weights(np.asarray(log_ratio, dtype=float), advantages=np.array([advantage]), **context)
    return found.accept, found.weight


@pytest.mark.parametrize(("sequence", "token", "parameters"), TWINS)
def test_a_sequence_of_one_token_is_weighed_as_the_token(sequence: str, token: str, parameters: Any) -> None:
    log_ratio = np.linspace(-2, 2, 41)
    alone = estimators.get(token, **parameters).weights(log_ratio)
    as_sequence = estimators.get(sequence, **parameters).weights(log_ratio[:, None])
    np.testing.assert_array_equal(as_sequence.accept[:, 0], alone.accept)
    np.testing.assert_allclose(as_sequence.weight[:, 0], alone.weight, rtol=1e-15)


@pytest.mark.parametrize(
    "name", [n for n in estimators.names() if estimators.get(n).level is Level.SEQUENCE and n != "minpro"]
)
@given(log_ratio=ratios, data=st.data())
def test_the_order_of_the_tokens_does_not_matter(name: str, log_ratio: list[float], data: Any) -> None:
    order = data.draw(st.permutations(range(len(log_ratio))))
    correction = estimators.get(name)
    accept, weight = pair(correction, log_ratio, -1.0)
    accept_there, weight_there = pair(correction, [log_ratio[i] for i in order], -1.0)
    np.testing.assert_allclose(weight_there, weight[order], rtol=1e-13)
    np.testing.assert_array_equal(accept_there, accept[order])


@given(log_ratio=ratios)
def test_sum_and_mean_are_one_power_apart(log_ratio: list[float]) -> None:
    _, whole = pair(estimators.get("sequence-is"), log_ratio)
    _, geometric = pair(estimators.get("geometric-is"), log_ratio)
    np.testing.assert_allclose(geometric ** len(log_ratio), whole, rtol=1e-12)
    assert np.ptp(whole) == 0


def toy_law(length: int = 3, vocab: int = 3) -> tuple[Any, Any]:
    """All sequences of a toy pair whose laws depend on the last token: q(y), shape (n,), and ℓ, (n, length)."""
    generator = np.random.default_rng(5)
    policy, actor = (normalised(generator.normal(size=(vocab + 1, vocab))) for _ in range(2))
    rows = []
    for y in itertools.product(range(vocab), repeat=length):
        states = (vocab, *y[:-1])
        rows.append([(policy[s, x], actor[s, x]) for s, x in zip(states, y, strict=True)])
    table = np.array(rows)
    return np.exp(table[..., 1].sum(axis=1)), table[..., 0] - table[..., 1]


def test_the_sequences_ratio_has_mean_one_and_the_others_do_not() -> None:
    probability, log_ratio = toy_law()
    means = {}
    for name in ("sequence-is", "geometric-is", "sequence-tis", "sequence-mis"):
        accept, weight = estimators.get(name).weights(log_ratio)
        means[name] = float(probability @ (accept * weight)[:, 0])
    assert means["sequence-is"] == pytest.approx(1.0, rel=1e-14)
    assert means["geometric-is"] < 0.9
    assert means["sequence-tis"] < 0.9
    assert means["sequence-mis"] < 0.9


def test_the_second_moment_grows_with_the_length() -> None:
    # Independent states of equal χ²: E[e^{2S}] = (1+χ²)^T.
    policy, actor = np.array([0.7, 0.3]), np.array([0.5, 0.5])
    chi_square = float((policy**2 / actor).sum()) - 1
    for length in (1, 2, 5):
        tokens = np.array(list(itertools.product([0, 1], repeat=length)))
        weight = estimators.get("sequence-is").weights(np.log(policy / actor)[tokens]).weight[:, 0]
        moment = np.mean(weight**2)
        assert moment == pytest.approx((1 + chi_square) ** length, rel=1e-14)


# ------------------------------------------------------------------ one by one


def test_inverted_bounds_are_on_the_inverse() -> None:
    keep = {"low": 0.6, "high": 1.4, "aggregate": "sum"}
    log_ratio = np.log([[1.5], [0.65]])
    plain = estimators.get("sequence-mask-k1", **keep).weights(log_ratio).accept
    inverted = estimators.get("sequence-mask-k1", **keep, inverted=True).weights(log_ratio).accept
    np.testing.assert_array_equal(plain[:, 0], [0, 1])
    np.testing.assert_array_equal(inverted[:, 0], [1, 0])


@pytest.mark.parametrize(
    ("ratio", "advantage", "kept"),
    [(1.5, 1.0, 0), (1.5, -1.0, 1), (0.5, 1.0, 1), (0.5, -1.0, 0), (1.05, 1.0, 1), (0.95, -1.0, 1), (9.0, 0.0, 1)],
)
def test_gspo_drops_what_its_clip_holds_back(ratio: float, advantage: float, kept: int) -> None:
    accept, weight = pair(estimators.get("gspo", low=0.1, high=0.2), [math.log(ratio)] * 3, advantage)
    np.testing.assert_array_equal(accept, kept)
    np.testing.assert_allclose(weight, ratio, rtol=1e-14)


def test_advantages_may_be_one_per_sequence_or_one_per_token() -> None:
    gspo, log_ratio = estimators.get("gspo", low=0.1, high=0.1), np.full((2, 2), 0.5)
    np.testing.assert_array_equal(gspo.weights(log_ratio, advantages=np.array([[1], [-1]])).accept, [[0, 0], [1, 1]])
    np.testing.assert_array_equal(gspo.weights(log_ratio, advantages=np.array([[1, -1]] * 2)).accept, [[0, 1], [0, 1]])
    np.testing.assert_array_equal(gspo.weights(log_ratio, advantages=-1.0).accept, np.ones((2, 2)))


@pytest.mark.parametrize("name", ["gspo", "luspo", "gmpo", "vespo", "opsm", "vaco"])
def test_missing_or_senseless_advantages_are_refused(name: str) -> None:
    correction, log_ratio = estimators.get(name), np.zeros((2, 3))
    with pytest.raises(ValueError, match=f"{name} needs advantages"):
        correction.weights(log_ratio)
    # In a batch as large as its sequences are long, (3,) is one per sequence or one per token.
    for shape in ((2,), (3,), (4, 2, 3), (3, 2)):
        with pytest.raises(ValueError, match=r"advantages has shape .*: advantages must be a number or have the same"):
            correction.weights(log_ratio, advantages=np.ones(shape))
    with pytest.raises(ValueError, match="advantages holds NaN"):
        correction.weights(log_ratio, advantages=np.array([[1.0], [math.nan]]))


def test_the_geometric_band_is_is_beside_the_geometric_mask() -> None:
    log_ratio = np.random.default_rng(1).normal(scale=0.05, size=(200, 4))
    both = combined(estimators.get("is"), estimators.get("sequence-mask-k1", low=0.98, high=1.03))
    found, expected = (c.weights(log_ratio) for c in (estimators.get("geometric-band-is", low=0.98, high=1.03), both))
    assert 0.2 < found.accept.mean() < 0.8
    np.testing.assert_array_equal(found.accept, expected.accept)
    np.testing.assert_array_equal(found.weight, expected.weight)


def test_minpro_takes_the_smallest_ratio_of_the_prefix_that_counts() -> None:
    ratio = np.array([[2.0, 3.0, 0.5, 4.0, 1.0]])
    _, weight = estimators.get("minpro").weights(np.log(ratio))
    np.testing.assert_allclose(weight, [[2.0, 6.0, 1.0, 2.0, 0.5]], rtol=1e-14)
    mask = np.array([[False, True, True, False, True]])
    _, weight = estimators.get("minpro").weights(np.log(ratio), mask=mask)
    np.testing.assert_allclose(weight, [[0.0, 3.0, 1.5, 0.0, 0.5]], rtol=1e-14)
    _, weight = pair(estimators.get("minpro"), [0.0, -INF, INF, 0.0])
    np.testing.assert_array_equal(weight, [1.0, 0.0, 0.0, 0.0])


@pytest.mark.parametrize("name", ["gmpo", "gspo", "luspo"])
def test_an_objective_s_weights_are_its_gradient(name: str) -> None:
    # d/dℓ_t of A·|y|·s (luspo: A·|y|²·s) by central differences, where no token is near a cap.
    log_ratio, low, high = np.array([0.31, -0.25, 0.02, -0.6]), 0.2, 0.1
    correction = estimators.get(name, low=low, high=high)
    for advantage in (1.5, -0.5):

        def objective(l: Any, advantage: float = advantage) -> float:
            if name == "gmpo":
                inside = np.minimum(l, high) if advantage > 0 else np.maximum(l, -low)
                return advantage * math.exp(inside.mean())
            s = math.exp(l.mean())
            return min(advantage * s, advantage * min(max(s, 1 - low), 1 + high))

        slope = np.array([(objective(log_ratio + e) - objective(log_ratio - e)) / 2e-6 for e in 1e-6 * np.eye(4)])
        accept, weight = pair(correction, log_ratio, advantage)
        times = 16 if name == "luspo" else 4
        np.testing.assert_allclose(accept * weight * advantage, times * slope, rtol=1e-8, atol=1e-12)


def test_gmpo_caps_nothing_where_the_advantage_is_0() -> None:
    accept, weight = pair(estimators.get("gmpo"), [3.0, -1.0], 0.0)
    np.testing.assert_array_equal(accept, 1.0)
    np.testing.assert_allclose(weight, math.e, rtol=1e-15)


def test_vespo_is_1_on_policy_and_0_where_the_policy_is_far() -> None:
    for advantage in (1.0, 0.0, -1.0):
        for log_ratio, expected in (([0.0, 0.0], 1.0), ([INF, 0.0], 0.0), ([800.0, 0.0], 0.0), ([-INF, INF], 0.0)):
            _, weight = pair(estimators.get("vespo"), log_ratio, advantage)
            np.testing.assert_array_equal(weight, expected)
    # A = 0 goes with A > 0: e³·4·e⁻⁶ at s = 2.
    _, weight = pair(estimators.get("vespo"), [math.log(2), 0.0], 0.0)
    np.testing.assert_allclose(weight, 4 * math.exp(-3), rtol=1e-14)


def test_vaco_drops_only_what_widens_the_gap_of_a_sequence_far_away() -> None:
    # |r − 1| = 1, 1/2, 0: their mean is 1/2.
    log_ratio = np.log([2.0, 0.5, 1.0])
    for bound, advantage, expected in (
        *((0.4, 1.0, [0, 1, 1]), (0.4, -1.0, [1, 0, 1]), (0.4, 0.0, [1, 1, 1])),
        *((0.6, 1.0, [1, 1, 1]), (0.6, -1.0, [1, 1, 1])),
    ):
        accept, weight = pair(estimators.get("vaco", bound=bound), log_ratio, advantage)
        np.testing.assert_array_equal(accept, expected)
        np.testing.assert_array_equal(weight, 1.0)


def test_one_token_vetoes_its_sequence_and_no_other() -> None:
    accept = estimators.get("veto", threshold=0.01).weights(np.log([[1.0, 0.0099], [0.01, 1.0]])).accept
    np.testing.assert_array_equal(accept, [[0, 0], [1, 1]])


def test_opsm_drops_only_what_was_bad_and_has_become_unlikely() -> None:
    opsm = estimators.get("opsm", delta=0.1)
    kept = {(shift, a): pair(opsm, [shift] * 2, a)[0][0] for shift in (-0.2, -0.05, 0.2) for a in (1.0, -1.0)}
    assert [key for key, accept in kept.items() if not accept] == [(-0.2, -1.0)]


def test_opsm_keeps_what_was_neither_good_nor_bad() -> None:
    accept, _ = pair(estimators.get("opsm", delta=0.1), [-2.0] * 2, 0.0)
    assert accept.tolist() == [1.0, 1.0]


def test_a_statistic_beyond_every_number_is_beyond_every_bound() -> None:
    for how in Aggregate:
        accept, _ = pair(estimators.get("sequence-mask-k3", bound=1e300, aggregate=how), [INF, 0.0])
        np.testing.assert_array_equal(accept, 0.0)


@pytest.mark.parametrize("name", ["none", "is", "tis", "mis", "mask-k3", "obrs", "overlap-tis"])
def test_a_correction_of_single_tokens_heeds_a_mask_too(name: str) -> None:
    correction = estimators.get(name)
    overlap = None if correction.overlap_lam is None else np.array(0.8)
    mask = np.array([True, False, True])
    found = correction.weights(np.array([0.1, math.nan, -0.1]), overlap, mask=mask)
    expected = correction.weights(np.array([0.1, -0.1]), overlap)
    np.testing.assert_array_equal(found.accept, [expected.accept[0], 0, expected.accept[1]])
    np.testing.assert_array_equal(found.weight, [expected.weight[0], 0, expected.weight[1]])
    smooth = rao_blackwell(correction).weights(np.array([0.1, math.nan, -0.1]), overlap, mask=mask)
    np.testing.assert_array_equal(smooth.accept, mask)


# -------------------------------------------------------------------- combined


def test_combined_multiplies_both() -> None:
    log_ratio = np.log([[1.5, 0.9], [3.0, 0.001]])
    parts = [
        estimators.get("tis"),
        estimators.get("mask-k1", low=0.5, high=2.0),
        estimators.get("veto", threshold=0.01),
    ]
    found = combined(*parts).weights(log_ratio)
    np.testing.assert_array_equal(found.accept, [[1, 1], [0, 0]])
    np.testing.assert_allclose(found.weight, np.minimum(np.exp(log_ratio), 2.0), rtol=1e-15)
    assert combined(parts[0], combined(parts[1], parts[2])) == combined(*parts)


def test_combined_multiplies_masking_noise() -> None:
    obrs, log_ratio = estimators.get("obrs", lam=2.0), np.array([0.0])
    assert combined(obrs, obrs).weights(log_ratio).accept == pytest.approx(0.25)


def test_combined_is_of_single_tokens_if_all_its_parts_are() -> None:
    tis, veto, m2po = (estimators.get(name) for name in ("tis", "veto", "m2po"))
    assert combined(tis, estimators.get("mask-k2")).level is Level.TOKEN
    assert combined(tis, veto).level is Level.SEQUENCE
    assert rao_blackwell(combined(tis, veto)).level is Level.SEQUENCE
    assert not combined(tis, veto).looks_at_batch
    assert combined(tis, m2po).looks_at_batch
    assert rao_blackwell(m2po).looks_at_batch


def test_combined_has_what_any_of_its_parts_has() -> None:
    get = estimators.get
    for both in (combined(get("jackpot"), get("m2po")), combined(get("m2po"), get("jackpot"))):
        assert both.carries_reference_ratio
        require_target(both, UpdateTarget.POLICY)
    assert not combined(get("tis"), get("m2po")).carries_reference_ratio
    for both in (combined(get("tis"), get("obrs")), combined(get("obrs"), get("tis"))):
        assert both.draws_mask
    assert not combined(get("tis"), get("veto")).draws_mask


def test_combined_heeds_the_mask_and_lets_a_weight_of_0_win() -> None:
    both = combined(estimators.get("sequence-is"), estimators.get("is"))
    mask = np.array([[True, True, False]])
    found = both.weights(np.array([[-INF, INF, math.nan]]), mask=mask)
    np.testing.assert_array_equal(found.weight, 0.0)
    np.testing.assert_array_equal(found.accept, mask)


def test_combined_takes_one_overlap() -> None:
    jackpot, veto = estimators.get("jackpot", lam=1.5), estimators.get("veto")
    assert combined(jackpot, veto).overlap_lam == 1.5
    assert combined(veto).overlap_lam is None
    assert combined(jackpot, estimators.get("overlap-tis", lam=1.5)).overlap_lam == 1.5
    with pytest.raises(ValueError, match="jackpot & overlap-tis: its parts need the overlap at different lam"):
        combined(jackpot, estimators.get("overlap-tis", lam=2.0))
    with pytest.raises(ValueError, match="needs overlap"):
        combined(jackpot, veto).weights(np.zeros((1, 2)))
    found = combined(jackpot, veto).weights(np.zeros((1, 2)), np.array(0.5))
    np.testing.assert_allclose(found.weight, 0.75, rtol=1e-15)
    masked = combined(jackpot).weights(np.array([[0.1, math.nan]]), np.array(0.5), mask=np.array([[True, False]]))
    np.testing.assert_array_equal(masked.accept[0, 1] + masked.weight[0, 1], 0.0)


def test_combined_names_its_parameters_and_cuts_them_to_rows() -> None:
    mask = estimators.get("sequence-mask-k2")
    twice = combined(mask, estimators.get("sequence-mask-k2", aggregate="sum"))
    assert twice.name == "sequence-mask-k2 & sequence-mask-k2"
    assert set(twice.parameters()) == {
        *("sequence-mask-k2.bound", "sequence-mask-k2.aggregate"),
        *("sequence-mask-k2#2.bound", "sequence-mask-k2#2.aggregate"),
    }
    cut = combined(estimators.get("tis", clip=np.array([[1.0], [2.0]])), mask).at(slice(1, 2))
    assert isinstance(cut, Combined)
    assert cut.parts[0].parameters()["clip"] == 2.0


@pytest.mark.parametrize(
    ("correction", "log_ratio"),
    [
        (estimators.get("gspo", low=0.5, high=1.0), math.log(0.5)),
        (estimators.get("gspo", low=0.5, high=1.0), math.log(2.0)),
        (estimators.get("gmpo", low=0.5, high=1.0), 1.0),
        (estimators.get("gmpo", low=0.5, high=1.0), -0.5),
        (estimators.get("vaco", bound=1.0), math.log(2.0)),
        (estimators.get("veto", threshold=0.25), math.log(0.25)),
        (estimators.get("opsm", delta=0.5), -0.5),
    ],
    ids=["gspo, low", "gspo, high", "gmpo, high", "gmpo, low", "vaco", "veto", "opsm"],
)
def test_a_sequence_at_its_bound_is_kept(correction: Any, log_ratio: float) -> None:
    # One token, so that the mean is the token's ratio itself.
    def accept(at: float) -> list[float]:
        values = np.full((2, 1), at)
        return list(correction.weights(values, advantages=np.array([[1.0], [-1.0]])).accept[:, 0])

    assert accept(log_ratio) == [1, 1]
    assert 0 in accept(log_ratio * (1 + 1e-12))
