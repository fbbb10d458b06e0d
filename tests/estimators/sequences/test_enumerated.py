"""Exact moments over all sequences: against brute force, in parameters, at one step, and by identities."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.estimators.corrections.batch import batch_normalize
from jackpot_sim.estimators.sequences import enumerated, spaces
from jackpot_sim.estimators.states.moments import Denominator
from tests.estimators import sequence_brute as brute
from tests.estimators.cells import columns
from tests.estimators.sequence_brute import Prompt, Shape
from tests.estimators.sequence_cells import cases, enumeration, feature_table

CORRECTIONS: list[tuple[str, dict[str, Any]]] = [
    ("none", {}),
    ("is", {}),
    ("tis", {"clip": 1.1}),
    ("mis", {"low": 0.4, "high": 1.6}),
    ("obrs", {"lam": 1.3}),
    ("jackpot", {"lam": 0.9, "c1": 1.05, "c2": 1.1}),
    ("jackpot", {"lam": 1.0, "c1": math.inf, "c2": math.inf}),
    ("jackpot", {"lam": 0.9, "c1": 1.3, "c2": 1.1, "clip_on": "ratio"}),
    ("sequence-is", {}),
    ("sequence-tis", {"clip": 1.2}),
    ("sequence-mis", {"low": 0.3, "high": 1.7}),
    ("geometric-is", {}),
    ("geometric-tis", {"clip": 1.1}),
    ("veto", {"threshold": 0.4}),
    ("tv-mask", {"epsilon": 0.1}),
    ("binary-kl-mask", {"bound": 0.03}),
    ("dppo-tv", {"delta": 0.05}),
    ("dppo-kl", {"delta": 0.01}),
    ("cispo", {"low": 0.3, "high": 0.1}),
    ("sapo", {"tau_positive": 1.0, "tau_negative": 3.0}),
    ("topr", {}),
    ("minpro", {}),
    ("vaco", {"bound": 0.3}),
    ("sequence-tis", {"clip": 1.2, "floor": 0.7}),
    ("sequence-mask-error", {"bound": 1.5}),
    ("geometric-band-is", {"low": 0.7, "high": 1.2}),
    ("gspo", {"low": 0.2, "high": 0.1}),
    ("luspo", {"low": 0.2, "high": 0.1}),
    ("gmpo", {"low": 0.2, "high": 0.1}),
    ("vespo", {}),
]
every_correction = pytest.mark.parametrize(("name", "parameters"), CORRECTIONS, ids=lambda x: str(x))
CASES = {updated: cases(updated) for updated in (False, True)}
ALONE = ("kl_prefix",)
"""Columns beyond those of `cells.columns`."""


@cache
def referee(case: str, updated: bool) -> enumerated.Referee:
    shape, prompts = CASES[updated][case]
    return enumerated.Referee([enumeration(shape, prompt) for prompt in prompts])


def assert_agrees(found: Any, expected: dict[str, float], note: Any, rel: float = 1e-10) -> None:
    values = columns(found) | {name: getattr(found, name) for name in ALONE}
    for name, value in expected.items():
        scale = expected["mse"] if name == "bias_sq" else 0.0  # an unbiased one is 0 but for rounding
        assert values[name] == pytest.approx(value, rel=rel, abs=1e-13 + 1e-13 * scale, nan_ok=True), (name, note)


@every_correction
@pytest.mark.parametrize("case", CASES[False])
def test_every_column_is_that_of_brute_force(case: str, name: str, parameters: dict[str, Any]) -> None:
    correction = estimators.get(name, **parameters)
    level, rules = ("token", brute.TOKEN) if name in brute.TOKEN else ("sequence", brute.SEQUENCE)
    # Every one of them at p_ref, and at p_new, where allowed, those that undo the surrogate's ratio.
    targets = ("p_ref", "p_new") if getattr(correction, "carries_reference_ratio", False) else ("p_ref",)
    compared = 0
    for updated in (False, True):
        shape, prompts = CASES[updated][case]
        for target in targets:
            states = brute.states_of(shape, prompts, lambda y: rules[name](y, **parameters), level, target)
            weighed = referee(case, updated).weigh(correction, target)
            for denominator in Denominator:
                expected = brute.moments(states, denominator, 7)
                assert_agrees(weighed.moments(denominator, 7), expected, (updated, target, denominator))
                compared += 1
    assert compared == 6 * len(targets)


# ---------------------------------------------------------- wrapped, and with the whole batch


def rule_of_batch_mean(case: str, level: str) -> brute.Rule:
    """min(r, 1.1), or min(e^S, 1.2), over its mean in both prompts' sequences together, of tokens or of sequences."""
    shape, prompts = CASES[False][case]
    inner = brute.TOKEN["tis"] if level == "token" else brute.SEQUENCE["sequence-tis"]
    clip = 1.1 if level == "token" else 1.2
    weight = units = 0.0
    for prompt in prompts:
        for y in brute.strings(shape):
            q = brute.chance(prompt.actor, y)
            if q > 0:
                found = [w for _, w in inner(brute.steps_of(prompt, y, "p_ref"), clip=clip)]
                weight += q * (sum(found) if level == "token" else found[0])
                units += q * (len(y) if level == "token" else 1)
    return lambda y: [(1.0, w * units / weight) for _, w in inner(y, clip=clip)]


def rule_of_second_moment(case: str, threshold: float) -> brute.Rule:
    """The largest ℓ² dropped until their mean in both prompts' tokens together is at most `threshold`."""
    shape, prompts = CASES[False][case]
    mass: dict[float, float] = {}
    for prompt in prompts:
        for y in brute.strings(shape):
            q = brute.chance(prompt.actor, y)
            for step in brute.steps_of(prompt, y, "p_ref") if q > 0 else []:
                square = round(math.log(step.ratio) ** 2, 12)
                mass[square] = mass.get(square, 0.0) + q
    share: dict[float, float] = {}
    room = 0.0
    for square in sorted(mass):
        room -= mass[square] * (square - threshold)
        # At the cut what is too much is left out, and beyond it everything.
        share[square] = 1.0 if room >= 0 else max(0.0, 1 + room / (mass[square] * (square - threshold)))
        room = room if room >= 0 else -math.inf
    return lambda y: [(share[round(math.log(s.ratio) ** 2, 12)], 1.0) for s in y]


def rule_of_both(y: list[brute.Step]) -> list[tuple[float, float]]:
    pairs = zip(brute.TOKEN["tis"](y, clip=1.1), brute.SEQUENCE["veto"](y, threshold=0.4), strict=True)
    return [(a * b, v * w) for (a, v), (b, w) in pairs]


def rule_of_rao_blackwell(y: list[brute.Step]) -> list[tuple[float, float]]:
    return [(1.0, a * w) for a, w in brute.TOKEN["jackpot"](y, lam=0.9, c1=1.05, c2=1.1)]


@pytest.mark.parametrize("case", ["an end token", "no end token", "an actor that cannot reach the policy"])
def test_wrapped_corrections_and_limits_of_large_batches_are_those_of_brute_force(case: str) -> None:
    get = estimators.get
    wrapped: list[tuple[Any, brute.Rule, str]] = [
        (batch_normalize(get("tis", clip=1.1)), rule_of_batch_mean(case, "token"), "token"),
        (batch_normalize(get("sequence-tis", clip=1.2)), rule_of_batch_mean(case, "sequence"), "sequence"),
        (get("m2po", threshold=0.1), rule_of_second_moment(case, 0.1), "token"),
        (estimators.combined(get("tis", clip=1.1), get("veto", threshold=0.4)), rule_of_both, "sequence"),
        (estimators.rao_blackwell(get("jackpot", lam=0.9, c1=1.05, c2=1.1)), rule_of_rao_blackwell, "token"),
    ]
    shape, prompts = CASES[False][case]
    for correction, rule, level in wrapped:
        states = brute.states_of(shape, prompts, rule, level, "p_ref")
        for denominator in Denominator:
            found = referee(case, False).weigh(correction).moments(denominator, 7)
            assert_agrees(found, brute.moments(states, denominator, 7), (correction, denominator))
        assert found.variance > 0, correction


# ------------------------------------------------------------------------------- in parameters


def test_a_tabular_model_has_the_moments_of_the_logits() -> None:
    shape, prompts = CASES[True]["an end token"]
    enumerations = [enumeration(shape, prompt) for prompt in prompts]
    features = [feature_table(shape, brute.logits(shape, prompt)) for prompt in prompts]
    in_parameters = enumerated.Referee(enumerations, features)
    for name, parameters in CORRECTIONS:
        correction = estimators.get(name, **parameters)
        for denominator in Denominator:
            found = in_parameters.weigh(correction).moments(denominator, 3)
            expected = referee("an end token", True).weigh(correction).moments(denominator, 3)
            for column, value in columns(found).items():
                assert value == pytest.approx(columns(expected)[column], rel=1e-12, abs=1e-14), (name, column)


def linear_model(shape: Shape, prompt: Prompt, seed: int) -> brute.Phi:
    """∂log p/∂θ of logits that are linear in three parameters, with a chain rule written out."""
    generator = np.random.default_rng(seed)
    slope = {(s, x): generator.normal(size=3) for s in brute.prefixes(shape) for x in range(shape.vocab)}
    return {
        (s, x): own - sum(prompt.policy[s][other] * slope[s, other] for other in range(shape.vocab))
        for (s, x), own in slope.items()
    }


@pytest.mark.parametrize("block", [1, 1 << 22])
def test_few_parameters_against_explicit_vectors(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spaces, "_BLOCK", block)  # every sequence by itself, or all of them at once
    shape, prompts = CASES[True]["an end token"]
    phis = [linear_model(shape, prompt, seed) for seed, prompt in enumerate(prompts)]
    enumerations = [enumeration(shape, prompt) for prompt in prompts]
    in_parameters = enumerated.Referee(enumerations, [feature_table(shape, phi) for phi in phis])
    for name, parameters in CORRECTIONS:
        level, rules = ("token", brute.TOKEN) if name in brute.TOKEN else ("sequence", brute.SEQUENCE)
        rule = rules[name]
        states = brute.states_of(
            shape, prompts, lambda y, rule=rule, given=parameters: rule(y, **given), level, "p_ref", phis
        )
        for denominator in Denominator:
            found = in_parameters.weigh(estimators.get(name, **parameters)).moments(denominator, 7)
            expected = brute.moments(states, denominator, 7)
            assert found.variance == pytest.approx(expected["variance"], rel=1e-10)
            assert_agrees(found, expected, (name, denominator))
