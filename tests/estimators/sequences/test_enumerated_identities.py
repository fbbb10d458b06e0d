"""What exact moments over sequences must be: at one step, of unbiased corrections, and where bias comes from."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.core.sequences import Enumeration, SequenceLaws
from jackpot_sim.environments.prefix_tree import PrefixTree
from jackpot_sim.estimators.corrections.batch import batch_normalize
from jackpot_sim.estimators.sequences import enumerated
from jackpot_sim.estimators.states import moments
from jackpot_sim.estimators.states.moments import Denominator
from jackpot_sim.estimators.statistics import StateStatistics
from tests.estimators.brute import CELLS, Cell
from tests.estimators.cells import columns
from tests.estimators.sequence_brute import Prompt, Shape, prefixes, strings
from tests.estimators.sequence_cells import cases, enumeration, random_prompt, unequal_prompts

TOKEN_CORRECTIONS = [
    *(estimators.get(name) for name in ("none", "is", "tis", "mis", "obrs", "jackpot", "overlap-tis", "mask-k1")),
    *(estimators.get(name) for name in ("mask-k2", "mask-k3")),
    estimators.get("jackpot", lam=0.7, c1=math.inf),
    estimators.rao_blackwell(estimators.get("jackpot")),
]
SHAPE = Shape(3, 3, 1)


def one_step(cell: Cell, end: int | None) -> list[Enumeration]:
    """A prompt for each state, whose sequences have one token."""
    sequences = PrefixTree(cell.policy.shape[-1], 1, end).sequences
    found = []
    for policy, actor, advantage in zip(*cell, strict=True):
        laws = SequenceLaws(policy[None], actor[None], policy[None])
        laws = dataclasses.replace(laws, reference_log_probs=laws.policy_log_probs)
        found.append(Enumeration(laws, sequences, advantage[sequences.token[:, 0]]))
    return found


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("denominator", list(Denominator))
def test_one_step_is_a_state(cell: str, denominator: Denominator) -> None:
    for end in (None, 0, 2):
        referee = enumerated.Referee(one_step(CELLS[cell], end))
        for correction in TOKEN_CORRECTIONS:
            found = referee.weigh(correction).moments(denominator, 5)
            expected = moments.exact(*CELLS[cell], correction, denominator=denominator, n_samples=5)
            for name, value in columns(found).items():
                other = columns(expected)[name]
                np.testing.assert_allclose(value, other, rtol=1e-12, atol=1e-14, err_msg=f"{name} {correction}")
            # A state in which nothing is kept has no law to compare with.
            kept = found.per_state.acceptance_rate > 0
            for field in dataclasses.fields(StateStatistics):
                mine, theirs = (getattr(m.per_state, field.name)[kept] for m in (found, expected))
                np.testing.assert_allclose(mine, theirs, rtol=1e-11, atol=1e-14, err_msg=field.name)
        assert len(found.per_state.length) == len(CELLS[cell].policy)


def referee_of(*prompts: Prompt, shape: Shape = SHAPE) -> enumerated.Referee:
    return enumerated.Referee([enumeration(shape, prompt) for prompt in prompts])


def with_advantage(prompt: Prompt, change: Any) -> Prompt:
    return dataclasses.replace(prompt, advantage={y: change(y, a) for y, a in prompt.advantage.items()})


# -------------------------------------------------------------------------------- unbiased ones


@pytest.mark.parametrize("constant", [0.0, 10.0])
def test_sequence_importance_sampling_is_unbiased(constant: float) -> None:
    prompts = [with_advantage(random_prompt(SHAPE, seed), lambda y, a: a + constant) for seed in (20, 21)]
    found = referee_of(*prompts).weigh(estimators.get("sequence-is")).moments()
    assert found.bias < 1e-12
    assert found.gain == pytest.approx(1.0, rel=1e-12)
    assert found.kl_effective == pytest.approx(0.0, abs=1e-14)
    assert found.kl_prefix == pytest.approx(0.0, abs=1e-14)
    assert found.variance > 1


def test_a_constant_added_to_the_advantage_is_bias_for_token_importance_sampling() -> None:
    # The actor's law of prefixes weighs states wrongly, but within each of them E_p[e_x − p] = 0 all the same.
    prompt = random_prompt(SHAPE, 20)
    plain, shifted = (
        referee_of(with_advantage(prompt, lambda y, a, c=c: a + c)).weigh(estimators.get("is")).moments().bias
        for c in (0.0, 10.0)
    )
    assert plain > 0.1
    assert shifted == pytest.approx(plain, rel=1e-10)
    clipped = [
        referee_of(with_advantage(prompt, lambda y, a, c=c: a + c)).weigh(estimators.get("tis", clip=1.0)).moments()
        for c in (0.0, 10.0)
    ]
    assert clipped[1].bias > 2 * clipped[0].bias


@pytest.mark.parametrize("length", [1, 2, 4])
def test_second_moment_of_independent_states(length: int) -> None:
    shape = Shape(3, length, None)
    p, q = [0.5, 0.3, 0.2], [0.25, 0.35, 0.4]
    same = {s: list(p) for s in prefixes(shape)}
    prompt = Prompt(same, {s: list(q) for s in prefixes(shape)}, same, {y: float(sum(y)) for y in strings(shape)})
    chi_square = sum(a**2 / b for a, b in zip(p, q, strict=True)) - 1
    found = referee_of(prompt, shape=shape).weigh(estimators.get("sequence-is")).moments()
    assert found.ess_fraction == pytest.approx((1 + chi_square) ** -length, rel=1e-12)


@pytest.mark.parametrize("denominator", list(Denominator))
def test_an_actor_that_is_the_policy_needs_no_correction(denominator: Denominator) -> None:
    prompts = [random_prompt(SHAPE, seed) for seed in (22, 23)]
    referee = referee_of(*(dataclasses.replace(prompt, actor=prompt.policy) for prompt in prompts))
    for name in ("none", "is", "tis", "obrs", "jackpot", "sequence-is", "geometric-tis", "veto"):
        found = referee.weigh(estimators.get(name)).moments(denominator)
        # Z(1) is a sum of probabilities, which may miss 1 by a rounding.
        assert found.bias == 0.0 if name != "jackpot" else found.bias < 1e-14, name
        assert found.variance == pytest.approx(1.0, rel=1e-12), name
        assert found.kl_effective == pytest.approx(0.0, abs=1e-14), name
        assert found.ess_fraction == pytest.approx(1.0, rel=1e-12), name


@pytest.mark.parametrize("name", ["tis", "jackpot", "sequence-tis", "geometric-is"])
def test_a_normalised_batch_is_the_self_normalised_update(name: str) -> None:
    referee = referee_of(random_prompt(SHAPE, 24))
    correction = estimators.get(name)
    normalised = referee.weigh(batch_normalize(correction)).moments("proposed")
    expected = referee.weigh(correction).moments("self_normalized")
    assert normalised.bias == pytest.approx(expected.bias, rel=1e-12)
    assert normalised.gain == pytest.approx(expected.gain, rel=1e-12)
    assert normalised.bias != pytest.approx(referee.weigh(correction).moments("proposed").bias, rel=1e-3)


def test_a_reference_that_is_the_policy_may_be_a_copy() -> None:
    for case, (shape, prompts) in cases(updated=False).items():
        enumerations = [enumeration(shape, prompt) for prompt in prompts]
        copies = [
            dataclasses.replace(
                each, laws=dataclasses.replace(each.laws, reference_log_probs=each.laws.policy_log_probs.copy())
            )
            for each in enumerations
        ]
        for name in ("none", "is", "tis", "jackpot", "sequence-tis"):
            correction = estimators.get(name)
            found, expected = (enumerated.exact(each, correction, n_samples=4) for each in (copies, enumerations))
            for column, value in columns(found).items():
                assert value == pytest.approx(columns(expected)[column], rel=1e-12, nan_ok=True), (case, name, column)


# ---------------------------------------------------------------------- no signal, nothing kept


def test_a_constant_advantage_has_no_gradient() -> None:
    flat = with_advantage(random_prompt(SHAPE, 25), lambda y, a: 3.0)
    found = referee_of(flat, flat).weigh(estimators.get("tis")).moments(n_samples=4)
    assert found.degenerate_states == 2
    assert found.grad_norm_sq == 0.0
    for name in ("bias", "gain", "direction_bias", "noise_to_signal", "mse", "mse_rescaled"):
        assert math.isnan(getattr(found, name)), name
    assert referee_of(flat, random_prompt(SHAPE, 26)).weigh(estimators.get("tis")).moments().degenerate_states == 1


def test_where_nothing_is_kept_all_ratios_are_nan() -> None:
    weighed = referee_of(random_prompt(SHAPE, 25)).weigh(estimators.get("mis", low=90.0, high=99.0))
    for denominator in Denominator:
        found = weighed.moments(denominator)
        assert found.acceptance_rate == 0.0
        assert found.degenerate_states == 1
        expected = 1.0 if denominator is Denominator.PROPOSED else math.nan
        assert found.bias == pytest.approx(expected, rel=1e-12, nan_ok=True)
        assert math.isnan(found.ess_fraction)
        assert math.isnan(found.kl_accepted)


# ------------------------------------------------------------------------ where bias comes from


def shares(prompt: Prompt, name: str = "tis", denominator: str = "proposed", **parameters: float) -> Any:
    found = referee_of(prompt).weigh(estimators.get(name, **parameters)).bias_shares(denominator)
    assert found is not None
    assert found.prefix + found.continuation + found.weight == pytest.approx(1.0, rel=1e-12)
    return found


@pytest.mark.parametrize("denominator", list(Denominator))
def test_shares_of_bias_add_up_to_one(denominator: str) -> None:
    for updated in (False, True):
        for case, (shape, prompts) in cases(updated).items():
            referee = referee_of(*prompts, shape=shape)
            for correction in TOKEN_CORRECTIONS:
                weighed = referee.weigh(correction)
                found = weighed.bias_shares(denominator)
                if math.isnan(weighed.moments(denominator).bias):
                    assert found is None, (case, correction)
                elif found is not None:
                    assert sum(dataclasses.astuple(found)) == pytest.approx(1.0, rel=1e-10), (case, correction)
                else:
                    assert weighed.moments(denominator).bias == 0, (case, correction)


def in_six_orders(weights: Any, divisor: float) -> list[Any]:
    """What each factor adds to ĝ − g, on average over the orders in which the three can be exchanged."""
    prompt = weights.prompt
    visits = prompt.visits_policy, prompt.visits_actor
    prefixes = [each.sum(axis=-1, keepdims=True) for each in visits]
    right = [prefixes[0], prompt.value_policy / visits[0], visits[0] / prefixes[0]]
    wrong = [prefixes[1], prompt.value_actor / visits[1], weights.visits / prefixes[1] / divisor]
    added: list[Any] = [0.0] * 3
    for order in itertools.permutations(range(3)):
        now = list(right)
        for factor in order:
            before = prompt.space.update(math.prod(now))
            now[factor] = wrong[factor]
            added[factor] = added[factor] + (prompt.space.update(math.prod(now)) - before) / 6
    return added


def explicit_shares(weighed: Any, divisor: float) -> list[float]:
    parts = [in_six_orders(weights, divisor) for weights in weighed._prompts]
    errors = [sum(part) for part in parts]
    along = [
        sum(float(np.sum(part[factor] * error)) for part, error in zip(parts, errors, strict=True))
        for factor in range(3)
    ]
    return [each / sum(float(np.sum(error**2)) for error in errors) for each in along]


@pytest.mark.parametrize("divisor", [1.0, 0.7])
def test_parts_of_the_bias_add_up_to_the_bias(divisor: float) -> None:
    for updated in (False, True):
        for case, (shape, prompts) in cases(updated).items():
            for correction in TOKEN_CORRECTIONS:
                for weights in referee_of(*prompts, shape=shape).weigh(correction)._prompts:
                    error = weights.prompt.space.update(weights.mass / divisor - weights.prompt.value_policy)
                    parts = weights.bias_parts(divisor)
                    np.testing.assert_allclose(sum(parts), error, atol=1e-12, err_msg=f"{case} {correction}")
    assert np.max(np.abs(error)) > 0.01


@pytest.mark.parametrize("name", ["none", "tis", "jackpot"])
def test_a_share_is_a_mean_over_six_orders(name: str) -> None:
    weighed = referee_of(random_prompt(SHAPE, 31), random_prompt(SHAPE, 32)).weigh(estimators.get(name))
    found = weighed.bias_shares()
    assert found is not None
    assert dataclasses.astuple(found) == pytest.approx(explicit_shares(weighed, 1.0), rel=1e-11)


def test_the_rate_accepted_counts_the_tokens_of_all_prompts_alike() -> None:
    weighed = referee_of(*unequal_prompts(SHAPE, 33)).weigh(estimators.get("obrs", lam=1.0))
    found, told = weighed.moments("accepted"), weighed.bias_shares("accepted")
    states = found.per_state
    assert states.length.tolist() == pytest.approx([1.11, 2.77], abs=0.01)
    rate = float(states.acceptance_rate @ states.length / states.length.sum())
    assert found.acceptance_rate == pytest.approx(rate, rel=1e-13)
    assert abs(rate - states.acceptance_rate.mean()) > 0.01
    assert told is not None
    assert dataclasses.astuple(told) == pytest.approx(explicit_shares(weighed, rate), rel=1e-11)


def test_what_is_not_wrong_has_no_share() -> None:
    prompt = random_prompt(SHAPE, 27)
    # Weighed by the ratio, tokens are right: what is wrong is where they stand and what follows.
    unclipped = shares(prompt, "is")
    assert unclipped.weight == pytest.approx(0.0, abs=1e-12)
    assert abs(unclipped.prefix) > 0.01
    assert abs(unclipped.continuation) > 0.01
    # Actor and policy differ at the last step alone: they reach the same prefixes.
    last = {s: prompt.actor[s] if len(s) == SHAPE.length - 1 else prompt.policy[s] for s in prompt.policy}
    assert shares(dataclasses.replace(prompt, actor=last), "none").prefix == pytest.approx(0.0, abs=1e-12)
    # At the first step alone: what follows is the same.
    first = {s: prompt.policy[s] if s else prompt.actor[s] for s in prompt.policy}
    assert shares(dataclasses.replace(prompt, actor=first), "none").continuation == pytest.approx(0.0, abs=1e-12)
    # The first token decides everything: what follows does not matter.
    decided = with_advantage(prompt, lambda y, a: float(y[0] == 2))
    assert shares(decided, "none").continuation == pytest.approx(0.0, abs=1e-12)


def test_one_step_has_wrong_weights_only() -> None:
    found = enumerated.Referee(one_step(CELLS["three states"], None)).weigh(estimators.get("tis", clip=1.0))
    share = found.bias_shares("self_normalized")
    assert share is not None
    assert (share.prefix, share.continuation) == pytest.approx((0.0, 0.0), abs=1e-13)
    assert share.weight == pytest.approx(1.0, rel=1e-12)


def test_no_shares_without_bias_or_for_whole_sequences() -> None:
    prompt = random_prompt(SHAPE, 28)
    assert referee_of(prompt).weigh(estimators.get("sequence-tis")).bias_shares() is None
    assert referee_of(prompt).weigh(batch_normalize(estimators.get("tis"))).bias_shares() is None
    on_policy = dataclasses.replace(prompt, actor=prompt.policy)
    assert referee_of(on_policy).weigh(estimators.get("none")).bias_shares() is None


# ----------------------------------------------------------------------------- inputs and errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"denominator": "kept"}, "kept"),
        ({"target": "p_old"}, "p_old"),
        ({"n_samples": 0}, "n_samples must be at least 1, got 0"),
        ({"target": "p_new"}, "tis cannot target p_new"),
    ],
)
def test_errors_name_the_argument(options: dict[str, Any], message: str) -> None:
    correction = estimators.get("tis")
    if options.get("target") == "p_new" and not hasattr(correction, "carries_reference_ratio"):
        pytest.skip("which corrections can target p_new is not said yet")
    with pytest.raises(ValueError, match=message):
        enumerated.exact([enumeration(SHAPE, random_prompt(SHAPE, 1))], correction, **options)


def test_truth_is_the_gradient_along_every_feature() -> None:
    referee = referee_of(random_prompt(SHAPE, 29), random_prompt(SHAPE, 30))
    truth, found = referee.truth(), referee.weigh(estimators.get("none")).moments()
    assert truth.grad_norm_sq == pytest.approx(2 * found.grad_norm_sq, rel=1e-13)
    assert truth.on_policy_variance == pytest.approx(2 * found.on_policy_variance, rel=1e-13)
    for prompt, along in zip(referee.prompts, truth.along, strict=True):
        # E_p[A Σ⟨φ, g⟩] = ‖g‖².
        assert float(np.sum(prompt.value_policy * along)) == pytest.approx(prompt.grad_norm_sq, rel=1e-12)


def test_a_weight_whose_square_overflows_keeps_its_second_moment() -> None:
    policy, actor = np.log([[0.5, 0.5 - 1e-9, 1e-9]]), np.array([[np.log(0.5), np.log(0.5), -600.0]])
    tree, advantage = PrefixTree(3, 1), np.array([1.0, 0.5, 2.0])
    enumeration = Enumeration(SequenceLaws(policy, actor, policy), tree.sequences, advantage)
    found = enumerated.exact([enumeration], estimators.get("is"))
    expected = moments.exact(policy, actor, advantage[None], estimators.get("is"))
    assert expected.variance > 1e200
    assert found.variance == pytest.approx(expected.variance, rel=1e-12)
    assert found.ess_fraction == pytest.approx(expected.ess_fraction, rel=1e-12)
