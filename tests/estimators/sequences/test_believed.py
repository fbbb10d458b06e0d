"""Sequences whose trainer believes in other laws: every sequence by hand, draws against exact, in both spaces."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.core.sequences import Enumeration, SampledSequences, SequenceLaws
from jackpot_sim.core.support import on_support
from jackpot_sim.environments.prefix_tree import PrefixTree
from jackpot_sim.estimators.sequences import enumerated
from jackpot_sim.estimators.sequences import sampled as rollouts
from tests.cases import each, every
from tests.core.laws import normalised
from tests.estimators.brute import Seen, rule_of
from tests.estimators.sequence_brute import Shape
from tests.estimators.sequence_cells import enumeration, random_prompt

SHAPE = Shape(4, 2, 1)
TREE = PrefixTree(*SHAPE)
TOLD, NAMES = ("support", "raw"), ("none", "tis", "obrs", "jackpot")


@cache
def cell(told: str) -> tuple[Enumeration, ...]:
    """Two prompts, with p_ref, p_new and an actor that is cut to its two or three likeliest tokens."""
    out = []
    for seed in (40, 41):
        whole = enumeration(SHAPE, random_prompt(SHAPE, seed, updated=True))
        new, model, old = (getattr(whole.laws, f"{name}_log_probs") for name in ("policy", "actor", "reference"))
        least = np.sort(model, axis=-1)[:, -2 - seed % 2, None]
        actor = normalised(np.where(model >= least, model, -np.inf))
        seen = (on_support(new, actor), actor, on_support(old, actor)) if told == "support" else (new, model, old)
        laws = SequenceLaws(new, actor, old, SequenceLaws(*(np.asarray(x) for x in seen)))
        out.append(Enumeration(laws, whole.sequences, whole.advantage))
    return tuple(out)


SLOPE = np.random.default_rng(0).normal(size=(TREE.prefixes, TREE.vocab, 3))


def gradients(log_p: Any, in_parameters: bool) -> Any:
    """∂log p(x|s) of every token, (prefixes, vocab, directions): in all logits, or along three directions."""
    p = np.exp(log_p)
    if in_parameters:
        return SLOPE - np.einsum("sx,sxp->sp", p, SLOPE)[:, None]
    out = np.zeros((*p.shape, p.size))
    for s, x in np.ndindex(p.shape):
        own = np.zeros(p.shape)
        own[s] = np.eye(p.shape[1])[x] - p[s]
        out[s, x] = own.reshape(-1)
    return out


def by_hand(given: Enumeration, correction: Any, in_parameters: bool) -> tuple[Any, float, Any]:
    """E[X], E‖X‖² and g, sequence by sequence and token by token."""
    rule, laws, seen = rule_of(correction), given.laws, given.laws.told
    true, used = (gradients(x.policy_log_probs, in_parameters) for x in (laws, seen))
    mean, g, square = np.zeros(true.shape[-1]), np.zeros(true.shape[-1]), 0.0
    for prefix, token, live, advantage in zip(
        given.sequences.prefix, given.sequences.token, given.sequences.mask, given.advantage, strict=True
    ):
        path = [(s, x) for s, x, here in zip(prefix, token, live, strict=True) if here]
        p, q = (np.exp(sum(table[at] for at in path)) for table in (laws.policy_log_probs, laws.actor_log_probs))
        g = g + p * advantage * sum(true[at] for at in path)
        if q == 0:
            continue
        step, noise = np.zeros(true.shape[-1]), 0.0
        for s, x in path:
            law, reference = np.exp(seen.actor_log_probs[s]), np.exp(seen.reference_log_probs[s])
            z = float(np.sum(np.minimum(reference, law)))
            a, w = rule(Seen(reference[x] / law[x], z, reference[x], law[x], advantage))
            w *= np.exp(seen.policy_log_probs[s, x]) / reference[x]
            step = step + advantage * a * w * used[s, x]
            noise += a * (1 - a) * (advantage * w) ** 2 * float(used[s, x] @ used[s, x])
        mean, square = mean + q * step, square + q * (float(step @ step) + noise)
    return mean, square, g


@each("told, name, in_parameters", every(TOLD, NAMES, (False, True)))
def test_every_sequence_by_hand(told: str, name: str, in_parameters: bool) -> None:
    correction, given = estimators.get(name), cell(told)
    features = [gradients(x.laws.policy_log_probs, True) for x in given] if in_parameters else None
    found = enumerated.exact(given, correction, features=features)
    parts = [by_hand(x, correction, in_parameters) for x in given]
    error = sum(float((mean - g) @ (mean - g)) for mean, _, g in parts)
    signal = sum(float(g @ g) for _, _, g in parts)
    variance = sum(square - float(mean @ mean) for mean, square, _ in parts)
    assert found.bias**2 == pytest.approx(error / signal, rel=1e-10)
    assert found.variance * found.on_policy_variance * len(parts) == pytest.approx(variance, rel=1e-10)
    shares = enumerated.Referee(given, features).weigh(correction).bias_shares()
    assert shares is None or told == "raw", "the gradient of another law is a fourth factor"


def draw(given: Enumeration, n: int, generator: np.random.Generator) -> SampledSequences:
    value = np.zeros(given.laws.shape)
    last = np.arange(len(given.sequences)), given.sequences.mask.sum(axis=1) - 1
    value[given.sequences.prefix[last], given.sequences.token[last]] = given.advantage

    def drawn(law: Any) -> tuple[Any, Any]:
        paths = TREE.draw(law, generator.random((n, SHAPE.length)))
        end = np.arange(n), paths.mask.sum(axis=1) - 1
        return paths, value[paths.prefix[end], paths.token[end]]

    laws = given.laws
    return SampledSequences(laws, *drawn(laws.actor_log_probs), *drawn(laws.policy_log_probs), SHAPE.end)


@pytest.mark.parametrize("known", [False, True], ids=["drawn truth", "known truth"])
@pytest.mark.parametrize("in_parameters", [False, True], ids=["logits", "parameters"])
def test_draws_agree(in_parameters: bool, known: bool) -> None:
    replicates, n = 300, 40
    for told in TOLD:
        given, generator = cell(told), np.random.default_rng(5)
        features = [gradients(x.laws.policy_log_probs, True) for x in given] if in_parameters else None
        referee = enumerated.Referee(given, features)
        drawn = [draw(x, replicates * n, generator) for x in given]
        for name in ("tis", "jackpot"):
            correction = estimators.get(name)
            exact = referee.weigh(correction).moments(n_samples=n)
            found = rollouts.estimate(
                drawn,
                correction,
                np.random.default_rng(6),
                replicates=replicates,
                truth=referee.truth() if known else None,
                features=features,
            )
            wanted = {"bias_sq": exact.bias**2, "gain": exact.gain, "variance": exact.variance}
            for figure, value in wanted.items():
                error = found.standard_error[figure]
                assert 0 < error < np.inf
                assert abs(found.value[figure] - value) < 4 * error, (told, name, figure, found.value[figure], value)


def test_laws_that_are_the_true_ones_change_nothing() -> None:
    given = cell("raw")
    for name in NAMES:
        plain, twice = (
            enumerated.exact(
                [dataclasses.replace(x, laws=dataclasses.replace(x.laws, believed=again(x.laws))) for x in given],
                estimators.get(name),
                n_samples=3,
            )
            for again in (
                lambda laws: None,
                lambda laws: SequenceLaws(laws.policy_log_probs * 1.0, laws.actor_log_probs, laws.reference_log_probs),
            )
        )
        assert twice.mse == pytest.approx(plain.mse, rel=1e-12)
        assert twice.bias == pytest.approx(plain.bias, rel=1e-12)


def test_laws_of_other_prefixes_are_refused() -> None:
    laws = cell("raw")[0].laws
    few = SequenceLaws(laws.policy_log_probs[:2], laws.actor_log_probs[:2], laws.reference_log_probs[:2])
    with pytest.raises(ValueError, match="believed has shape"):
        dataclasses.replace(laws, believed=few)
