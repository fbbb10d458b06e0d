"""The centred form of corrections along sequences: against brute force, in parameters, by simulation, by identities."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.estimators import Denominator, centred
from jackpot_sim.estimators.sequences import enumerated
from jackpot_sim.estimators.states import moments
from tests.cases import each, every, rotating
from tests.estimators import sequence_brute as brute
from tests.estimators.cells import assert_same
from tests.estimators.sequence_brute import Prompt, Shape
from tests.estimators.sequence_cells import cases, enumeration, feature_table, table
from tests.estimators.sequences.test_enumerated import assert_agrees, linear_model

TOKEN: list[tuple[str, dict[str, float]]] = [
    ("none", {}),
    ("is", {}),
    ("tis", {"clip": 1.1}),
    ("mis", {"low": 0.4, "high": 1.6}),
    ("obrs", {"lam": 1.3}),
    ("jackpot", {"lam": 0.9, "c1": 1.05, "c2": 1.1}),
]
CASES = {updated: cases(updated) for updated in (False, True)}
DENOMINATORS = list(Denominator)
SMOOTH = estimators.rao_blackwell(estimators.get("jackpot", lam=0.9, c1=1.05))


def topr(y: list[brute.Step]) -> list[tuple[float, float]]:
    return [(1.0, 1.0 if step.advantage > 0 else min(step.ratio, 1.0)) for step in y]


def smooth(y: list[brute.Step]) -> list[tuple[float, float]]:
    return [(1.0, a * w) for a, w in brute.TOKEN["jackpot"](y, lam=0.9, c1=1.05, c2=1.0)]


@cache
def referee(case: str, updated: bool) -> enumerated.Referee:
    shape, prompts = CASES[updated][case]
    return enumerated.Referee([enumeration(shape, prompt) for prompt in prompts])


@each("name, parameters, case", [(*row, case) for row, case in every(TOKEN, CASES[False])])
def test_every_column_is_that_of_brute_force(name: str, parameters: dict[str, float], case: str) -> None:
    correction = centred(estimators.get(name, **parameters))
    targets = ("p_ref", "p_new") if name == "jackpot" else ("p_ref",)
    for updated, target in every((False, True), targets):
        shape, prompts = CASES[updated][case]
        rule = brute.TOKEN[name]
        states = brute.states_of(
            shape, prompts, lambda y, rule=rule: rule(y, **parameters), "token", target, None, True
        )
        weighed = referee(case, updated).weigh(correction, target)
        for denominator in DENOMINATORS:
            expected = brute.moments(states, denominator, 7)
            assert_agrees(weighed.moments(denominator, 7), expected, (updated, target, denominator))


@each("case, denominator", every(CASES[False], DENOMINATORS))
def test_the_sign_of_the_advantage_and_a_wrapped_correction(case: str, denominator: str) -> None:
    shape, prompts = CASES[True][case]
    for correction, rule in ((estimators.get("topr"), topr), (SMOOTH, smooth)):
        states = brute.states_of(shape, prompts, rule, "token", "p_ref", None, True)
        found = referee(case, True).weigh(centred(correction)).moments(denominator, 7)
        assert_agrees(found, brute.moments(states, denominator, 7), (correction, denominator))


@each("row, denominator", rotating(TOKEN, DENOMINATORS))
def test_few_parameters_against_explicit_vectors(row: tuple[str, dict[str, float]], denominator: str) -> None:
    name, parameters = row
    shape, prompts = CASES[True]["an end token"]
    phis = [linear_model(shape, prompt, seed) for seed, prompt in enumerate(prompts)]
    features = [feature_table(shape, phi) for phi in phis]
    enumerations = [enumeration(shape, prompt) for prompt in prompts]
    rule = brute.TOKEN[name]
    states = brute.states_of(shape, prompts, lambda y: rule(y, **parameters), "token", "p_ref", phis, True)
    weighed = enumerated.Referee(enumerations, features).weigh(centred(estimators.get(name, **parameters)))
    assert_agrees(weighed.moments(denominator, 7), brute.moments(states, denominator, 7), (name, denominator))


@each("row, denominator", rotating(TOKEN, DENOMINATORS))
def test_a_tabular_model_has_the_moments_of_the_logits(row: tuple[str, dict[str, float]], denominator: str) -> None:
    shape, prompts = CASES[True]["an end token"]
    features = [feature_table(shape, brute.logits(shape, prompt)) for prompt in prompts]
    in_parameters = enumerated.Referee([enumeration(shape, prompt) for prompt in prompts], features)
    correction = centred(estimators.get(row[0], **row[1]))
    found, expected = (
        each.weigh(correction).moments(denominator, 3) for each in (in_parameters, referee("an end token", True))
    )
    assert_same(found, expected, rtol=1e-11)


@each("name, denominator", every(["none", "tis", "jackpot", "topr"], DENOMINATORS))
def test_one_token_is_a_state(name: str, denominator: str) -> None:
    shape, prompts = CASES[False]["one step"]
    laws = [np.concatenate([table(shape, getattr(prompt, who)) for prompt in prompts]) for who in ("policy", "actor")]
    advantage = np.array([[prompt.advantage[x,] for x in range(shape.vocab)] for prompt in prompts])
    correction = centred(estimators.get(name))
    expected = moments.exact(*laws, advantage, correction, denominator=denominator, n_samples=5)
    found = referee("one step", False).weigh(correction).moments(denominator, 5)
    assert_same(found, expected, rtol=1e-11)


@each("name, case", every(["none", "tis", "jackpot", "obrs"], ["an end token", "no end token"]))
def test_a_constant_advantage_moves_nothing(name: str, case: str) -> None:
    shape, prompts = CASES[True][case]
    constant = [dataclasses.replace(each, advantage=dict.fromkeys(each.advantage, -7.3)) for each in prompts]
    every_prompt = enumerated.Referee([enumeration(shape, prompt) for prompt in constant])
    for denominator in DENOMINATORS:
        found = every_prompt.weigh(centred(estimators.get(name))).moments(denominator).per_state
        assert np.all(found.estimate_sq < 1e-28)
        assert np.all(found.error_sq < 1e-28)
        plain = every_prompt.weigh(estimators.get(name)).moments(denominator).per_state
        assert np.all(plain.estimate_sq > 1e-6)


def test_importance_sampling_has_no_mean_to_lose() -> None:
    for case in ("an end token", "no end token", "a policy with holes"):
        for denominator in DENOMINATORS:
            found, expected = (
                referee(case, False).weigh(form).moments(denominator, 3)
                for form in (centred(estimators.get("is")), estimators.get("is"))
            )
            assert_same(found, expected, rtol=1e-11, atol=1e-13)


@each("name", ["none", "tis", "jackpot"])
def test_the_shares_of_the_bias_add_up(name: str) -> None:
    for denominator in DENOMINATORS:
        weighed = referee("an end token", False).weigh(centred(estimators.get(name)))
        shares = weighed.bias_shares(denominator)
        assert shares is not None
        assert sum(dataclasses.astuple(shares)) == pytest.approx(1.0, rel=1e-10)
        parts = [w.bias_parts(d) for w, d in zip(weighed._prompts, weighed._divisors(denominator), strict=True)]
        error = sum(float(np.sum(sum(part) ** 2)) for part in parts)
        assert error == pytest.approx(float(np.sum(weighed.moments(denominator).per_state.error_sq)), rel=1e-9)


@each("size", [1e-3, 1e-6])
def test_a_small_bias_keeps_its_digits(size: float) -> None:
    shape, (prompt, _) = CASES[False]["no end token"]
    generator = np.random.default_rng(0)
    near = {s: list(np.array(law) * np.exp(size * generator.normal(size=len(law)))) for s, law in prompt.policy.items()}
    moved = dataclasses.replace(prompt, actor={s: [x / sum(law) for x in law] for s, law in near.items()})
    found = enumerated.exact([enumeration(shape, moved)], centred(estimators.get("none")))
    expected = error_in_long_double(shape, moved)
    assert found.bias == pytest.approx(expected, rel=1e-13 / size + 1e-13, abs=0)
    assert 0 < expected < 10 * size


def error_in_long_double(shape: Shape, prompt: Prompt) -> float:
    """The bias of centred(none), each sequence's term summed as a vector."""
    exact = {
        who: {s: np.array(law, dtype=np.longdouble) for s, law in getattr(prompt, who).items()}
        for who in ("policy", "actor")
    }
    exact = {who: {s: law / law.sum() for s, law in laws.items()} for who, laws in exact.items()}
    rows = {s: i for i, s in enumerate(brute.prefixes(shape))}
    mean = np.zeros((len(rows), shape.vocab), dtype=np.longdouble)
    gradient = np.zeros_like(mean)
    for y in brute.strings(shape):
        steps = [(y[:t], x) for t, x in enumerate(y)]
        p, q = (np.prod([exact[who][s][x] for s, x in steps]) for who in ("policy", "actor"))
        for s, x in steps:
            unit = np.eye(shape.vocab)[x] - exact["policy"][s]
            lost = exact["actor"][s] - exact["policy"][s]
            mean[rows[s]] += q * prompt.advantage[y] * (unit - lost)
            gradient[rows[s]] += p * prompt.advantage[y] * unit
    return float(np.sqrt(np.sum((mean - gradient) ** 2) / np.sum(gradient**2)))
