"""Exact moments: by hand, against simulations, and at the edges. Brute force is in tests/contracts."""

from __future__ import annotations

import dataclasses
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch

from jackpot_sim import estimators
from jackpot_sim.core import backend
from jackpot_sim.core.backend import to_numpy
from jackpot_sim.estimators import statistics
from jackpot_sim.estimators.states import moments
from jackpot_sim.estimators.states.moments import Denominator, StateStatistics
from tests.cases import each, every
from tests.conftest import ToLibrary
from tests.core.laws import normalised, of_probabilities
from tests.estimators.brute import CELLS, Cell
from tests.estimators.cells import assert_same, random_cell

INF = math.inf
every_denominator = pytest.mark.parametrize("denominator", list(Denominator))

# Two tokens. p = (3/4, 1/4), q = (1/4, 3/4), A = (1, 0), so that r = (3, 1/3), f(0) = (1/4, −1/4), f(1) = 0:
# ‖f(0)‖² = 1/8, g = 3/4·f(0), ‖g‖² = 9/128, Σp‖f‖² − ‖g‖² = 3/128, Z(1) = 1/2. Every ĝ is a multiple of f(0).
TWO = Cell(of_probabilities(0.75, 0.25), of_probabilities(0.25, 0.75), np.array([1.0, 0.0]))

# By hand: (estimator, denominator) -> (bias, variance, ess_fraction).
GOLDEN = {
    # ĝ = f/4; V = (4 − 1)/128.
    ("none", "proposed"): (2 / 3, 1.0, 1.0),
    # ĝ = 3f/4; V = 1/4·9/8 − 9/128 = 27/128; E[w²] = 9/4 + 1/12.
    ("is", "proposed"): (0.0, 9.0, 1 / (9 / 4 + 1 / 12)),
    # ĝ = f/2; V = 1/4·4/8 − 1/32 = 12/128; E[w] = 1/2 + 1/4, E[w²] = 1 + 1/12.
    ("tis", "proposed"): (1 / 3, 4.0, (3 / 4) ** 2 / (13 / 12)),
    # a = (1, 1/3); ĝ = f/4 as without correction.
    ("obrs", "proposed"): (2 / 3, 1.0, 1 / 2),
    # ĝ = f/2; V = 4·(1/4·1/4·1/8 + 1/4·1/4·1/8) = 8/128.
    ("obrs", "accepted"): (1 / 3, 8 / 3, 1 / 2),
    ("obrs", "self_normalized"): (1 / 3, 8 / 3, 1 / 2),
    # w = (3/2, 1/2); ĝ = 3f/8 = Z·g; V = (9/16 − 9/64)/8 = 27/512.
    ("jackpot", "proposed"): (1 / 2, 9 / 4, 2 / 5),
    # ĝ = g; V = 4·(1/4·9/16·1/8 + 1/4·9/16·1/8) = 18/128.
    ("jackpot", "accepted"): (0.0, 6.0, 2 / 5),
    # ĝ = g; V = 4·(1/4·9/4·1/16·1/8 + 1/4·1/4·9/16·1/8) = 4.5/128.
    ("jackpot", "self_normalized"): (0.0, 3 / 2, 2 / 5),
    # w = aw = (3/2, 1/6): E[w] = 1/2, E[w²] = 9/16 + 1/48; ĝ, and V as the weight of token 1 meets f = 0.
    ("rao_blackwell", "proposed"): (1 / 2, 9 / 4, 1 / 4 / (9 / 16 + 1 / 48)),
}


def by_name(name: str) -> Any:
    if name in ("jackpot", "rao_blackwell"):
        jackpot = estimators.get("jackpot", c1=INF)
        return jackpot if name == "jackpot" else estimators.rao_blackwell(jackpot)
    return estimators.get(name)


@pytest.mark.parametrize(("name", "denominator"), GOLDEN)
def test_two_tokens_by_hand(name: str, denominator: str, xp: ToLibrary) -> None:
    found = moments.exact(*(xp(x) for x in TWO), by_name(name), denominator=denominator, n_samples=10)
    bias, variance, ess = GOLDEN[name, denominator]
    assert found.bias == pytest.approx(bias, rel=1e-14, abs=1e-15)
    assert found.variance == pytest.approx(variance, rel=1e-13)
    assert found.ess_fraction == pytest.approx(ess, rel=1e-14)
    assert found.grad_norm_sq == pytest.approx(9 / 128, rel=1e-14)
    assert found.on_policy_variance == pytest.approx(3 / 128, rel=1e-14)
    assert found.noise_to_signal == pytest.approx(1 / 3, rel=1e-14)
    assert found.mse == pytest.approx(bias**2 + variance / 30, rel=1e-13)
    assert found.direction_bias == pytest.approx(0.0, abs=1e-15)
    assert (found.n_samples, found.degenerate_states) == (10, 0)


def test_divergences_of_two_tokens_by_hand() -> None:
    # Accepted law of OBRS: (1/4, 1/4)/(1/2), so KL = ¾ log 3/2 + ¼ log 1/2. Jackpot with c1 = ∞ weighs it back to p.
    accepted = 0.75 * math.log(1.5) - 0.25 * math.log(2)
    none = 0.5 * math.log(3)
    for name, kl_accepted, kl_effective in [
        ("none", none, none),
        ("is", none, 0.0),
        ("obrs", accepted, accepted),
        ("jackpot", accepted, 0.0),
        ("rao_blackwell", none, 0.0),
    ]:
        found = moments.exact(*TWO, by_name(name))
        assert found.kl_accepted == pytest.approx(kl_accepted, rel=1e-14, abs=1e-16), name
        assert found.kl_effective == pytest.approx(kl_effective, rel=1e-14, abs=1e-16), name
        assert math.isnan(found.mse)
        assert found.n_samples is None


def test_two_states_by_hand() -> None:
    # A second state with p = q = (1/2, 1/2), A = (1, 0): ‖f(0)‖² = 1/2, g = f(0)/2, ‖g‖² = 1/8, variance 1/8, Z = 1.
    policy = np.stack([TWO.policy, of_probabilities(0.5, 0.5)])
    actor = np.stack([TWO.actor, of_probabilities(0.5, 0.5)])
    cell = Cell(policy, actor, np.stack([TWO.advantage] * 2))
    jackpot = by_name("jackpot")
    found = moments.exact(*cell, jackpot)
    # ĝ = (g₁/2, g₂): ratios of means, with the states concatenated.
    assert found.bias**2 == pytest.approx((9 / 512) / (9 / 128 + 1 / 8), rel=1e-14)
    assert found.direction_bias == pytest.approx(1 - 41 / (5 * math.sqrt(73)), rel=1e-13)
    assert found.variance == pytest.approx((27 / 512 + 1 / 8) / (3 / 128 + 1 / 8), rel=1e-14)
    # E[mw] is 1/2 and 1, E[mw²] is 5/8 and 1.
    assert found.ess_fraction == pytest.approx((3 / 4) ** 2 / (13 / 16), rel=1e-14)
    # `accepted` divides by the batch's 3/4: ĝ = (2/3·g₁, 4/3·g₂).
    accepted = moments.exact(*cell, jackpot, denominator="accepted")
    assert accepted.bias**2 == pytest.approx((9 / 128 / 9 + 1 / 8 / 9) / (9 / 128 + 1 / 8), rel=1e-14)
    # `self_normalized` divides by each state's own E[mw]: ĝ = g.
    own = moments.exact(*cell, jackpot, denominator="self_normalized")
    assert own.bias == pytest.approx(0.0, abs=1e-15)


# ------------------------------------------------------------- accepted, simulated


def _updates(cell: Cell, correction: Any, generator: np.random.Generator, replicates: int, n: int) -> Any:
    """The ratio estimator as a trainer computes it, shape (replicates, states, vocab)."""
    sums, kept = [], np.zeros(replicates)
    for log_p, log_q, advantage in zip(*cell, strict=True):
        p, q = np.exp(log_p), np.exp(log_q)
        lam = correction.overlap_lam
        z = None if lam is None else np.minimum(q, p / lam).sum()
        tokens = np.searchsorted(np.cumsum(q)[:-1], generator.random((replicates, n)), side="right")
        accept, weight = correction.weights((log_p - log_q)[tokens], z)
        mask = generator.random((replicates, n)) < accept
        pull = np.where(mask, weight * advantage[tokens], 0.0)
        kept += mask.mean(axis=1)
        by_token = np.stack([np.where(tokens == x, pull, 0.0).mean(axis=1) for x in range(len(p))], axis=1)
        sums.append(by_token - by_token.sum(axis=1, keepdims=True) * p)
    return np.stack(sums, axis=1) / (kept / len(sums))[:, None, None]


@each("name, seed", every(["obrs", "jackpot", "mis"], [1, 2, 3]))
def test_accepted_is_the_ratio_estimator_over_the_batch(name: str, seed: int) -> None:
    cell = random_cell(states=3, vocab=4, seed=20, shift=1.0)
    replicates, n = 400, 1500
    updates = _updates(cell, by_name(name), np.random.default_rng(seed), replicates, n)
    found = moments.exact(*cell, by_name(name), denominator="accepted")
    mean = updates.mean(axis=0)
    spread = n * ((updates - mean) ** 2).sum(axis=(1, 2)) / 3
    expected = found.variance * found.on_policy_variance
    assert abs(spread.mean() - expected) < 4 * spread.std() / math.sqrt(replicates)
    p = np.exp(cell.policy)
    g = p * (cell.advantage - (p * cell.advantage).sum(axis=-1, keepdims=True))
    along = (updates * g).sum(axis=(1, 2))
    expected_dot = float(found.per_state.estimate_dot.sum())
    assert abs(along.mean() - expected_dot) < 4 * along.std() / math.sqrt(replicates)
    np.testing.assert_allclose((mean**2).sum(axis=-1), found.per_state.estimate_sq, rtol=0.02)


def test_a_fluctuating_count_alone_makes_variance() -> None:
    # The first state always keeps all its tokens; the second's masks still move its denominator.
    cell = random_cell(states=2, vocab=5, seed=3)
    alone = Cell(*(x[:1] for x in cell))
    equal = Cell(np.stack([cell.policy[0]] * 2), np.stack([cell.policy[0], cell.actor[1]]), cell.advantage)
    correction = estimators.get("obrs")
    steady = moments.exact(alone.policy, alone.policy, alone.advantage, correction, denominator="accepted")
    assert steady.variance == pytest.approx(1.0, rel=1e-12)
    found = moments.exact(*equal, correction, denominator="accepted")
    rate = found.per_state.acceptance_rate
    assert rate[0] == pytest.approx(1.0)
    estimate_sq, divisor = found.per_state.estimate_sq[0], rate.mean()
    own = found.per_state.on_policy_variance[0] / divisor**2
    own += estimate_sq * rate[1] * (1 - rate[1]) / 4 / divisor**2
    variances = statistics._variance(found.per_state, Denominator.ACCEPTED, divisor, found.per_state.estimate_sq)
    assert variances[0] == pytest.approx(own, rel=1e-12)


@pytest.mark.parametrize("name", ["jackpot", "obrs", "mis", "mask-k2", "tis"])
@every_denominator
def test_resampled_states_are_as_if_recomputed(name: str, denominator: str) -> None:
    cell = random_cell(states=6, vocab=9, seed=5, shift=1.5)
    correction = by_name(name)
    whole = moments.exact(*cell, correction, denominator=denominator, n_samples=8).per_state
    rates = np.argsort(whole.acceptance_rate)
    for rows in ([0, 1, 2, 3, 4, 5], [5, 5, 0, 1, 1, 1], [rates[0]] * 4, [rates[-1]] * 2, [3]):
        resampled = StateStatistics(*(getattr(whole, f.name)[rows] for f in dataclasses.fields(StateStatistics)))
        found = statistics.combine(resampled, denominator, 8)
        expected = moments.exact(*(x[rows] for x in cell), correction, denominator=denominator, n_samples=8)
        assert_same(found, expected, rtol=1e-11, atol=1e-13)


def test_combine_takes_a_stack_of_resamples() -> None:
    cell = random_cell(states=5, vocab=6, seed=8)
    whole = moments.exact(*cell, estimators.get("jackpot"), denominator="accepted", n_samples=3).per_state
    rows = np.random.default_rng(0).integers(5, size=(7, 5))
    stack = StateStatistics(*(getattr(whole, f.name)[rows] for f in dataclasses.fields(StateStatistics)))
    together = statistics.combine(stack, "accepted", 3)
    assert together.bias.shape == (7,)
    for index in range(7):
        one = StateStatistics(*(getattr(stack, f.name)[index] for f in dataclasses.fields(StateStatistics)))
        alone = statistics.combine(one, "accepted", 3)
        for column in ("bias", "variance", "mse", "direction_bias"):
            assert getattr(together, column)[index] == pytest.approx(getattr(alone, column), rel=1e-14)


# ------------------------------------------------------------------ degenerate


@pytest.mark.parametrize("constant", [0.0, 1.0, 0.1, -7.3])
@every_denominator
def test_a_constant_advantage_has_no_signal(constant: float, denominator: str) -> None:
    cell = random_cell(states=4, vocab=7, seed=1)
    found = moments.exact(
        cell.policy, cell.actor, np.full((4, 7), constant), estimators.get("tis"), denominator=denominator, n_samples=4
    )
    assert found.grad_norm_sq == 0.0
    for column in (found.bias, found.direction_bias, found.noise_to_signal, found.mse):
        assert math.isnan(column)
    assert math.isnan(found.variance) == (constant == 0.0)
    assert found.degenerate_states == 4


def test_one_degenerate_state_is_counted_and_does_no_harm() -> None:
    cell = random_cell(states=3, vocab=5, seed=2)
    cell.advantage[1] = 3.0
    found = moments.exact(*cell, estimators.get("tis"), n_samples=4)
    assert found.degenerate_states == 1
    assert all(math.isfinite(x) for x in (found.bias, found.direction_bias, found.variance, found.mse))


@every_denominator
def test_nothing_accepted(denominator: str) -> None:
    found = moments.exact(*TWO, estimators.get("mis", low=10.0, high=20.0), denominator=denominator, n_samples=4)
    assert found.acceptance_rate == 0.0
    assert found.degenerate_states == 1
    assert math.isnan(found.kl_accepted)
    assert math.isnan(found.kl_effective)
    assert math.isnan(found.ess_fraction)
    assert math.isnan(found.direction_bias)
    if denominator == Denominator.PROPOSED:  # no update at all: its error is g itself
        assert (found.bias, found.variance, found.mse) == (1.0, 0.0, 1.0)
    else:
        assert all(math.isnan(x) for x in (found.bias, found.variance, found.mse))


@pytest.mark.parametrize("name", [name for name in estimators.names() if estimators.get(name).is_per_token])
@every_denominator
def test_disjoint_supports(name: str, denominator: str) -> None:
    cell = Cell(of_probabilities(0.5, 0.5, 0, 0), of_probabilities(0, 0, 0.5, 0.5), np.array([1.0, 2.0, 3.0, -1.0]))
    found = moments.exact(*cell, estimators.get(name), denominator=denominator, n_samples=2)
    assert not math.isfinite(found.kl_effective)
    assert not math.isfinite(found.kl_accepted)
    assert found.grad_norm_sq > 0
    assert found.bias >= 1 or math.isnan(found.bias)


def test_a_support_violation_biases_is() -> None:
    cell = CELLS["an actor that cannot reach the policy"]
    found = moments.exact(*cell, estimators.get("is"))
    assert found.bias > 0.1
    assert found.kl_accepted == found.kl_effective == INF
    # Exactly the first state's missing token: ĝ − g = −p(0)·f(0), with p(0) = 1/2, f(0) = (1/2, −0.3, −0.2).
    np.testing.assert_allclose(found.per_state.error_sq, [0.38 / 4, 0.0], atol=1e-16)


def test_an_actor_below_the_smallest_normal_number_is_out_of_reach() -> None:
    policy, actor = of_probabilities(0.5, 0.5), np.array([-720.0, 0.0])
    found = moments.exact(policy, actor, np.array([1.0, 0.0]), estimators.get("is"))
    assert found.kl_effective == INF
    assert found.bias == pytest.approx(1.0)
    assert math.isfinite(found.variance)


# ------------------------------------------------------------------- precision


@pytest.mark.parametrize("size", [1e-3, 1e-6])
@every_denominator
def test_a_small_bias_keeps_its_digits(size: float, denominator: str) -> None:
    cell = random_cell(states=3, vocab=8, seed=4, shift=size)
    found = moments.exact(*cell, estimators.get("none"), denominator=denominator)
    p, q = (np.exp(x.astype(np.longdouble)) for x in (cell.policy, cell.actor))
    terms_p, terms_q = p * cell.advantage, q * cell.advantage
    g = terms_p - p * terms_p.sum(axis=-1, keepdims=True)
    estimate = terms_q - p * terms_q.sum(axis=-1, keepdims=True)
    expected = np.sqrt(((estimate - g) ** 2).sum() / (g**2).sum())
    assert found.bias == pytest.approx(float(expected), rel=1e-14 / size + 1e-13, abs=0)
    unit_estimate, unit_g = estimate / np.sqrt((estimate**2).sum()), g / np.sqrt((g**2).sum())
    direction = ((unit_estimate - unit_g) ** 2).sum() / 2  # 1 − cos of unit vectors, without cancellation
    assert 0 < found.direction_bias < size
    assert found.direction_bias == pytest.approx(float(direction), rel=1e-14 / size + 1e-13, abs=0)


@every_denominator
def test_a_tiny_update_keeps_its_direction(denominator: str) -> None:
    # TIS with C below every ratio is no correction, times C.
    cell = random_cell(states=3, vocab=8, seed=4)
    tiny = moments.exact(*cell, estimators.get("tis", clip=1e-12), denominator=denominator)
    none = moments.exact(*cell, estimators.get("none"), denominator=denominator)
    assert tiny.direction_bias == pytest.approx(none.direction_bias, rel=1e-12, abs=0)
    if denominator != Denominator.SELF_NORMALIZED:
        assert tiny.variance == pytest.approx(none.variance * 1e-24, rel=1e-12, abs=0)


@pytest.mark.parametrize("name", ["is", "tis", "jackpot", "obrs", "mis", "mask-k3"])
@every_denominator
def test_torch_gives_the_same_as_numpy(name: str, denominator: str, xp: ToLibrary) -> None:
    cell = random_cell(states=5, vocab=11, seed=6)
    expected = moments.exact(*cell, by_name(name), denominator=denominator, n_samples=5)
    found = moments.exact(*(xp(x) for x in cell), by_name(name), denominator=denominator, n_samples=5)
    assert_same(found, expected)
    assert isinstance(found.bias, float)
    assert isinstance(found.per_state.error_sq, np.ndarray)


def test_torch_thresholds_and_graphs() -> None:
    cell = random_cell(states=4, vocab=6, seed=6)
    lam = np.array([[0.5], [1.0], [2.0], [3.0]])
    expected = moments.exact(*cell, estimators.get("jackpot", lam=lam), denominator="accepted")
    tensors = [torch.tensor(x, requires_grad=True) for x in cell]
    saved: list[Any] = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda x: x):
        found = moments.exact(*tensors, estimators.get("jackpot", lam=torch.tensor(lam)), denominator="accepted")
    assert_same(found, expected)
    assert not saved, "a graph over every block keeps every block in memory"


@pytest.mark.parametrize("library", ["numpy", "torch"])
@every_denominator
def test_single_precision(library: str, denominator: str) -> None:
    cell = random_cell(states=5, vocab=50, seed=6)
    single = [x.astype(np.float32) for x in cell]
    inputs = single if library == "numpy" else [torch.as_tensor(x) for x in single]
    found = moments.exact(*inputs, estimators.get("jackpot"), denominator=denominator, n_samples=5)
    expected = moments.exact(*cell, estimators.get("jackpot"), denominator=denominator, n_samples=5)
    assert_same(found, expected, rtol=1e-4, atol=1e-6)
    for field in dataclasses.fields(StateStatistics):
        assert getattr(found.per_state, field.name).dtype == np.float64, field.name


def test_a_real_vocabulary() -> None:
    vocab = 151_936
    generator = np.random.default_rng(0)
    logits = 3 * generator.normal(size=vocab)
    cell = Cell(
        normalised(logits), normalised(logits + 0.3 * generator.normal(size=vocab)), generator.normal(size=vocab)
    )
    for denominator in Denominator:
        exact = moments.exact(*cell, estimators.get("jackpot"), denominator=denominator, n_samples=5)
        single = moments.exact(
            *(x.astype(np.float32) for x in cell), estimators.get("jackpot"), denominator=denominator, n_samples=5
        )
        assert 0 < exact.bias < 1
        assert_same(single, exact, rtol=1e-3, atol=1e-5)


# ---------------------------------------------------------------------- blocks


@pytest.mark.parametrize("name", ["jackpot", "tis"])
@every_denominator
def test_results_do_not_depend_on_the_block(name: str, denominator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = random_cell(states=10, vocab=13, seed=7)
    parameter = np.linspace(0.3, 3.0, 10)[:, None]
    correction = dataclasses.replace(estimators.get(name), **{"lam" if name == "jackpot" else "clip": parameter})  # type: ignore[type-var]
    expected = moments.exact(*cell, correction, denominator=denominator, n_samples=5)
    for size in (1, 26, 39, 1 << 20):
        monkeypatch.setattr(backend, "BLOCK_ELEMENTS", size)
        assert_same(moments.exact(*cell, correction, denominator=denominator, n_samples=5), expected)
        found = moments.exact(*cell, estimators.rao_blackwell(correction), denominator=denominator, n_samples=5)
        assert found.kl_effective == pytest.approx(expected.kl_effective, rel=1e-13)


def _peak(states: int) -> int:
    cell = random_cell(states, vocab=1000, seed=9)
    correction = estimators.get("jackpot")
    tracemalloc.start()
    try:
        moments.exact(*cell, correction, denominator="accepted", n_samples=5)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_states() -> None:
    _peak(8)  # imports and caches
    few, many = _peak(64), _peak(1024)
    scalars = 960 * 8 * (len(dataclasses.fields(StateStatistics)) + 20)
    assert many - few < 2 * scalars, (few, many)  # one array over all the states would be 7.7 MB more
    assert few < 40 * 8 * backend.BLOCK_ELEMENTS


# ------------------------------------------------------------- inputs and errors


def test_leading_axes_are_flattened() -> None:
    cell = random_cell(states=6, vocab=5, seed=10)
    expected = moments.exact(*cell, estimators.get("jackpot"), n_samples=3)
    found = moments.exact(*(x.reshape(2, 3, 5) for x in cell), estimators.get("jackpot"), n_samples=3)
    assert_same(found, expected, rtol=0, atol=0)
    single = moments.exact(*(x[0] for x in cell), estimators.get("jackpot"), n_samples=3)
    assert single.per_state.error_sq.shape == (1,)


def _changed(cell: Cell, field: str, value: float) -> Cell:
    array = getattr(cell, field).copy()
    array[0, 0] = value
    return cell._replace(**{field: array})


GOOD = random_cell(states=3, vocab=4, seed=11)


@pytest.mark.parametrize(
    ("cell", "options", "message"),
    [
        (GOOD, {"n_samples": 0}, "n_samples must be at least 1, got 0"),
        (GOOD, {"denominator": "kept"}, "kept"),
        (_changed(GOOD, "advantage", math.nan), {}, "advantage holds NaN or inf"),
        (_changed(GOOD, "advantage", INF), {}, "advantage holds NaN or inf"),
        (_changed(GOOD, "policy", math.nan), {}, "policy_log_probs holds NaN"),
        (_changed(GOOD, "actor", 0.5), {}, "actor_log_probs is not normalised"),
        (
            GOOD._replace(actor=GOOD.actor[:2]),
            {},
            r"policy_log_probs has shape \(3, 4\), actor_log_probs has .*\(2, 4\)",
        ),
        (GOOD._replace(advantage=GOOD.advantage[0]), {}, r"policy_log_probs has .*advantage has shape \(4,\)"),
        (Cell(*(x[:, :0] for x in GOOD)), {}, r"policy_log_probs has shape \(3, 0\).* must not be empty"),
        (Cell(*(x[:0] for x in GOOD)), {}, r"policy_log_probs has shape \(0, 4\): it holds no state"),
        (Cell(*(x[0, 0] for x in GOOD)), {}, "last axis is the vocabulary"),
    ],
)
def test_errors_name_the_argument(cell: Cell, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        moments.exact(*cell, estimators.get("tis"), **options)


@pytest.mark.parametrize("shape", [(4,), (3, 4), (5, 1), (2, 1), (3,), (1, 3, 1)])
@pytest.mark.parametrize(("name", "parameter"), [("jackpot", "lam"), ("tis", "clip")])
def test_a_threshold_that_is_not_one_per_state_is_refused(name: str, parameter: str, shape: tuple[int, ...]) -> None:
    correction = estimators.get(name, **{parameter: np.ones(shape)})
    for form in (correction, estimators.rao_blackwell(correction)):
        with pytest.raises(ValueError, match=f"{parameter} has shape .*one per state"):
            moments.exact(*GOOD, form)


def test_combine_checks_its_options() -> None:
    states = moments.exact(*GOOD, estimators.get("tis")).per_state
    with pytest.raises(ValueError, match="n_samples must be at least 1"):
        statistics.combine(states, "proposed", 0)
    with pytest.raises(ValueError, match="kept"):
        statistics.combine(states, "kept")


def test_per_state_fields_are_what_they_say() -> None:
    cell = CELLS["three states"]
    per_state = moments.exact(*cell, estimators.get("jackpot")).per_state
    for field in dataclasses.fields(StateStatistics):
        value = to_numpy(getattr(per_state, field.name))
        assert value.shape == (3,), field.name
        assert value.dtype == np.float64, field.name
    np.testing.assert_allclose(
        per_state.error_sq, per_state.estimate_sq - 2 * per_state.estimate_dot + per_state.grad_norm_sq, rtol=1e-12
    )
    np.testing.assert_allclose(per_state.error_dot, per_state.estimate_dot - per_state.grad_norm_sq, rtol=1e-12)


@each("name", [name for name in estimators.names() if not estimators.get(name).is_per_token])
def test_whole_sequences_have_no_moments_at_a_single_token(name: str) -> None:
    with pytest.raises(ValueError, match="looks at whole sequences"):
        moments.exact(*CELLS["one state"], estimators.get(name))


def test_many_corrections_measured_together_are_each_as_if_alone(xp: ToLibrary) -> None:
    cell = [xp(x) for x in random_cell(states=5, vocab=7, seed=12, shift=1.0)]
    corrections = [by_name(name) for name in ("none", "jackpot", "rao_blackwell", "mis")]
    corrections.append(estimators.get("obrs", lam=xp(np.linspace(0.5, 2.0, 5)[:, None])))
    together = moments.measure(*cell, corrections, n_samples=4)
    for correction, found in zip(corrections, together, strict=True):
        assert list(found) == list(Denominator)
        for denominator, figures in found.items():
            alone = moments.exact(*cell, correction, denominator=denominator, n_samples=4)
            for field in dataclasses.fields(StateStatistics):
                np.testing.assert_array_equal(
                    getattr(figures.per_state, field.name), getattr(alone.per_state, field.name), field.name
                )
            assert dataclasses.replace(figures, per_state=alone.per_state) == alone


def test_the_states_are_read_for_no_correction_at_all() -> None:
    assert moments.measure(*GOOD, []) == []
    with pytest.raises(ValueError, match="actor_log_probs is not normalised"):
        moments.measure(*_changed(GOOD, "actor", 0.5), [])
