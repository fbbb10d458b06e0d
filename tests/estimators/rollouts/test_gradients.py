"""Figures from gradients of real updates: against every sequence of tiny models, and with honest errors."""

from __future__ import annotations

import copy
import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.core.arrays import Floats, Ints
from jackpot_sim.core.obrs import overlap
from jackpot_sim.core.scored import ScoredRollouts
from jackpot_sim.core.sequences import Enumeration, SequenceLaws
from jackpot_sim.environments.prefix_tree import PrefixTree
from jackpot_sim.estimators import Denominator
from jackpot_sim.estimators.rollouts import weights as scored
from jackpot_sim.estimators.rollouts.gradients import Spread, Updates, figures
from jackpot_sim.estimators.sequences import enumerated

NAMES = (
    *("bias_sq", "direction_bias", "gain", "variance", "mse", "mse_rescaled"),
    *("grad_norm_sq", "on_policy_variance", "noise_to_signal"),
)


# --------------------------------------------------------------------------- a model, in full


class Cell(NamedTuple):
    """Every sequence of a tiny model and its actor after two prompts."""

    prompts: Any
    enumerations: list[Enumeration]
    features: Any
    model: Any


TREE = PrefixTree(4, 3, 2)


@cache
def cell() -> Cell:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from jackpot_sim.environments.language_models.derivatives import log_prob_features
    from jackpot_sim.environments.language_models.scoring import CausalLM
    from tests.environments.language_models.tiny_models import MODEL

    actor, generator = copy.deepcopy(MODEL), np.random.default_rng(3)
    with torch.no_grad():
        for weight in actor.parameters():
            weight += 0.2 * weight.std() * torch.from_numpy(generator.normal(size=tuple(weight.shape)))
    prompts = np.array([[0, 1], [3, 3]])
    laws = [CausalLM(each).log_probs(prompts, TREE) for each in (MODEL, actor)]
    worth = generator.normal(size=(2, len(TREE.sequences))) + 0.5
    enumerations = [
        Enumeration(SequenceLaws(p, q, p), TREE.sequences, advantage)
        for p, q, advantage in zip(*laws, worth, strict=True)
    ]
    return Cell(prompts, enumerations, log_prob_features(MODEL, prompts, TREE), MODEL)


def scores_of(prompt: int, which: Ints, coefficient: Floats, replicates: int) -> Any:
    """Σ_i Σ_t c[i, t] φ of the sequences of each replicate, by the features; (replicates, parameters)."""
    shape = (TREE.prefixes, TREE.vocab)
    parts = zip(np.split(which, replicates), np.split(coefficient, replicates), strict=True)
    tables = np.array([TREE.sequences.take(rows).scatter(values, shape) for rows, values in parts])
    return np.einsum("rsx,sxp->rp", tables, cell().features[prompt], optimize=True)


def probabilities(prompt: int) -> tuple[Floats, Floats]:
    laws = cell().enumerations[prompt].laws
    p, q = (np.exp(TREE.sequences.log_probs(each)) for each in (laws.policy_log_probs, laws.actor_log_probs))
    return p / p.sum(), q / q.sum()


def everything(prompts: Any) -> ScoredRollouts:
    """Every sequence after each prompt, as rollouts."""
    columns = []
    for prompt in prompts:
        each = cell().enumerations[prompt]
        tables = (each.laws.policy_log_probs, each.laws.actor_log_probs)
        gathered = [TREE.sequences.gather(table) for table in tables]
        columns.append((*gathered, TREE.sequences.mask, each.advantage, np.full(len(each.advantage), prompt)))
    return ScoredRollouts(*(np.concatenate(column) for column in zip(*columns, strict=True)))


def by_backward_passes(prompts: Any, weight: Floats) -> Any:
    """Gradients of every sequence with weights w and 1, through the model itself; (2, sequences, parameters)."""
    from jackpot_sim.environments.language_models.block_gradients import gradients

    each = everything(prompts)
    tokens = np.concatenate([TREE.sequences.token] * len(prompts))
    coefficients = np.stack([weight, np.ones_like(weight)]) * each.advantage[:, None]
    alone = [slice(i, i + 1) for i in range(len(each))]
    given = (list(cell().prompts), each.prompt, tokens, each.mask, coefficients)
    return np.stack([found for _, found in gradients(cell().model, *given, patterns=("*",), batches=alone)], axis=1)


def drawn(law: Any, gradient: Any, prompts: Any, replicates: int, n: int, generator: np.random.Generator) -> Updates:
    """Updates of sequences drawn from a law over all of them, whose gradients are known; one by one."""
    updates = Updates(replicates, gradient.shape[-1], len(prompts))
    for index, prompt in enumerate(prompts):
        for at, which in enumerate(generator.choice(len(law[index]), p=law[index], size=replicates * n)):
            updates.add_sequence(at // n, prompt, gradient[index, which] / (n * len(prompts)))
    return updates


def moments(law: Any, gradient: Any) -> tuple[Any, float]:
    """The mean over prompts of the mean gradient, and of the variance of one sequence."""
    means = [p @ x for p, x in zip(law, gradient, strict=True)]
    variances = [float(p @ np.sum((x - mean) ** 2, axis=1)) for p, x, mean in zip(law, gradient, means, strict=True)]
    return np.mean(means, axis=0), float(np.mean(variances))


def z_scores(found: tuple[dict[str, float], dict[str, float]], expected: dict[str, float]) -> dict[str, float]:
    value, error = found
    return {name: (value[name] - expected[name]) / error[name] for name in expected}


@pytest.mark.parametrize("spread", list(Spread))
@pytest.mark.parametrize("prompts", [(1,), (0, 1)])
def test_figures_are_those_of_every_sequence(prompts: tuple[int, ...], spread: Spread) -> None:
    replicates, n, correction = 40, 150, estimators.get("tis", clip=1.1)
    pair = scored.weigh(everything(prompts), correction)
    found = by_backward_passes(prompts, pair.weight)
    found = found.reshape(2, len(prompts), len(TREE.sequences), -1)
    p, q = ([probabilities(prompt)[which] for prompt in prompts] for which in (0, 1))
    (estimate, spread_x), (gradient, spread_y) = moments(q, found[0]), moments(p, found[1])
    signal, total = gradient @ gradient, n * len(prompts)
    bias_sq, gain = np.sum((estimate - gradient) ** 2) / signal, estimate @ gradient / signal
    mse = bias_sq + spread_x / signal / total
    expected = {
        "bias_sq": bias_sq,
        "gain": gain,
        "direction_bias": 1 - gain * math.sqrt(signal / (estimate @ estimate)),
        "variance": spread_x / spread_y,
        "mse": mse,
        "mse_rescaled": 1 - gain**2 / (mse + 2 * gain - 1),
        "grad_norm_sq": signal,
        "on_policy_variance": spread_y,
        "noise_to_signal": spread_y / signal,
    }
    if prompts == (1,):
        enumeration = cell().enumerations[1]
        referee = enumerated.Referee([enumeration], [cell().features[1]])
        exact = referee.weigh(correction).moments("proposed", n)
        of_referee = {name: getattr(exact, name) for name in NAMES if name != "bias_sq"} | {"bias_sq": exact.bias**2}
        assert expected == pytest.approx(of_referee, rel=1e-8, abs=1e-12)
    assert bias_sq > 0.01
    generator = np.random.default_rng(5)
    actor = drawn(q, found[0], prompts, replicates, n, generator)
    policy = drawn(p, found[1], prompts, replicates, n, generator)
    result = figures(actor, policy, n_samples=n, actor_spread=spread, policy_spread=spread)
    scores = z_scores(result, expected)
    assert max(map(abs, scores.values())) < 4, scores
    assert result[1]["gain"] < 0.5  # there is something to be right about
    assert result[0]["bias"] == pytest.approx(math.sqrt(result[0]["bias_sq"]))


@pytest.mark.parametrize("denominator", list(Denominator))
def test_drawn_masks_and_denominators(denominator: Denominator) -> None:
    replicates, n, correction = 50, 200, estimators.get("jackpot", c1=0.9)
    enumeration, generator = cell().enumerations[1], np.random.default_rng(7)
    p, q = probabilities(1)
    which = [generator.choice(len(law), p=law, size=replicates * n) for law in (q, p)]
    z = np.asarray(overlap(enumeration.laws.policy_log_probs, enumeration.laws.actor_log_probs, 1.0))
    each = everything([1]).take(which[0])
    replicate = np.repeat(np.arange(replicates), n)
    pair = scored.weigh(each, correction, TREE.sequences.take(which[0]).gather(z))
    mask, weight = scored.draw(each, pair, generator)
    divisor = scored.scale(each, mask, weight, denominator, correction.unit, replicate)
    x = scores_of(1, which[0], weight * (each.advantage / divisor / n)[:, None], replicates)
    wanted = np.broadcast_to(enumeration.advantage[which[1], None] / n, each.mask.shape)
    y = scores_of(1, which[1], wanted, replicates)
    actor, policy = Updates(replicates, x.shape[1]), Updates(replicates, x.shape[1])
    for r in range(replicates):
        actor.add(r, x[r])
        policy.add(r, y[r])
    exact = enumerated.Referee([enumeration], [cell().features[1]]).weigh(correction).moments(denominator, n)
    expected = {name: getattr(exact, name) for name in NAMES if name != "bias_sq"} | {"bias_sq": exact.bias**2}
    scores = z_scores(figures(actor, policy, n_samples=n), expected)
    value, error = scored.weight_figures(each, mask, weight, correction.unit, replicate)
    scores |= z_scores((value, error), {name: getattr(exact, name) for name in value})
    assert max(map(abs, scores.values())) < 4, scores


# ------------------------------------------------------------------------------ plain vectors


MEANS = np.array([[[1.0, 0.5, 0.0, 0.3], [0.4, 1.0, 0.2, 0.0]], [[0.8, 0.6, 0.1, 0.3], [0.6, 0.8, 0.0, 0.1]]])
"""Of actor and policy, two prompts."""
WIDTH = (0.9, 1.1)


def vectors(seed: int, replicates: int = 10, n: int = 12) -> list[Updates]:
    """Gaussian gradients of sequences with known means and variances."""
    generator, out = np.random.default_rng(seed), []
    for means, width in zip(MEANS, WIDTH, strict=True):
        updates = Updates(replicates, 4, 2)
        for prompt, mean in enumerate(means):
            for at, x in enumerate(mean + width * generator.normal(size=(replicates * n, 4))):
                updates.add_sequence(at % replicates, prompt, x / (2 * n))
        out.append(updates)
    return out


TRUTH = {
    "grad_norm_sq": float(np.sum(MEANS[1].mean(axis=0) ** 2)),
    "on_policy_variance": 4 * WIDTH[1] ** 2,
    "variance": (WIDTH[0] / WIDTH[1]) ** 2,
    "gain": float(MEANS[0].mean(axis=0) @ MEANS[1].mean(axis=0) / np.sum(MEANS[1].mean(axis=0) ** 2)),
    "bias_sq": float(np.sum((MEANS[0] - MEANS[1]).mean(axis=0) ** 2) / np.sum(MEANS[1].mean(axis=0) ** 2)),
}


def both(seed: int, spread: Spread) -> Any:
    return figures(*vectors(seed), n_samples=12, actor_spread=spread, policy_spread=spread)


@cache
def runs(spread: Spread) -> list[Any]:
    return [both(seed, spread) for seed in range(100)]


@pytest.mark.parametrize("spread", list(Spread))
def test_figures_are_centred_and_their_errors_honest(spread: Spread) -> None:
    for name, expected in TRUTH.items():
        values, errors = (np.array([run[kind][name] for run in runs(spread)]) for kind in (0, 1))
        stated = math.sqrt(np.mean(np.square(errors)))
        # A ratio of variances from 9 degrees of freedom is a little skewed.
        assert abs(np.mean(values) - expected) < 4 * values.std(ddof=1) / 10 + 0.03 * expected, name
        # Where a bias is small against its noise its square is a degenerate statistic, and a jackknife too wide.
        low = 0.55 if name == "bias_sq" else 0.7
        assert low < values.std(ddof=1) / stated < 1.4, name


def test_sequences_tell_the_same_variance_with_less_noise() -> None:
    by_replicates, by_sequences = runs(Spread.REPLICATES), runs(Spread.SEQUENCES)
    for name in ("variance", "on_policy_variance"):
        differences = [
            first[0][name] - second[0][name] for first, second in zip(by_replicates, by_sequences, strict=True)
        ]
        stated = [
            math.hypot(first[1][name], second[1][name])
            for first, second in zip(by_replicates, by_sequences, strict=True)
        ]
        assert np.mean(np.abs(differences) < 2 * np.array(stated)) > 0.9
        noise = [np.std([run[0][name] for run in each], ddof=1) for each in (by_replicates, by_sequences)]
        # 9 degrees of freedom against 2 · (120 − 1).
        assert noise[1] < 0.35 * noise[0], (name, noise)
    for name in ("bias_sq", "gain", "direction_bias", "grad_norm_sq"):
        for first, second in zip(by_replicates, by_sequences, strict=True):
            assert first[0][name] == pytest.approx(second[0][name], nan_ok=True), name


@pytest.mark.parametrize("spread", list(Spread))
def test_errors_are_the_jackknife_over_whole_replicates(spread: Spread) -> None:
    generator, replicates, n = np.random.default_rng(1), 5, 3
    drawn = generator.normal(size=(2, 2, replicates, n, 4)) + MEANS[..., None, None, :]

    def updates(kept: list[int]) -> list[Updates]:
        out = []
        for x in drawn:
            each = Updates(len(kept), 4, 2)
            for prompt in range(2):
                for at, replicate in enumerate(kept):
                    for gradient in x[prompt, replicate]:
                        each.add_sequence(at, prompt, gradient / (2 * n))
            out.append(each)
        return out

    options: Any = {"n_samples": n, "actor_spread": spread, "policy_spread": spread}
    everyone = list(range(replicates))
    _, errors = figures(*updates(everyone), **options)
    left_out = [figures(*updates([r for r in everyone if r != gone]), **options)[0] for gone in everyone]
    for name in ("variance", "on_policy_variance", "mse", "gain", "grad_norm_sq"):
        values = np.array([each[name] for each in left_out])
        assert errors[name] == pytest.approx(math.sqrt((replicates - 1) * values.var()), rel=1e-9), name


def test_the_variance_of_sequences_is_the_pooled_one() -> None:
    replicates, n, generator = 4, 3, np.random.default_rng(0)
    x = generator.normal(size=(2, replicates, n, 5)) + np.array([3.0, -1.0])[:, None, None, None]
    updates = Updates(replicates, 5, 2)
    for prompt in (1, 0):
        for r in np.arange(replicates)[::-1]:
            for each in x[prompt, r]:
                updates.add_sequence(int(r), prompt, each)
    np.testing.assert_allclose(updates.total, x.sum(axis=(0, 2)), rtol=1e-12)
    found = updates.variance(n)
    for left_out in (None, *range(replicates)):
        kept = x[:, [r for r in range(replicates) if r != left_out]].reshape(2, -1, 5)
        expected = n * kept.var(axis=1, ddof=1).sum()
        assert found[0 if left_out is None else 1 + left_out] == pytest.approx(expected, rel=1e-12)


def test_a_gradient_that_is_lost_in_noise_has_no_units() -> None:
    generator = np.random.default_rng(1)
    for _ in range(20):
        actor, policy = Updates(3, 6), Updates(3, 6)
        for r in range(3):
            actor.add(r, generator.normal(size=6))
            policy.add(r, generator.normal(size=6))
        value, error = figures(actor, policy, n_samples=2)
        lost = value["grad_norm_sq"] <= 0
        for name in ("bias_sq", "gain", "mse", "direction_bias", "noise_to_signal"):
            assert math.isnan(value[name]) or not lost
            assert math.isnan(error[name]) or not lost
        assert math.isfinite(value["on_policy_variance"])
        if lost:
            break
    else:
        pytest.fail("never lost")


def test_an_update_without_a_denominator_is_nan() -> None:
    actor, policy = vectors(0)
    actor.add(2, np.full(4, np.nan))
    value, error = figures(actor, policy, n_samples=12)
    assert math.isnan(value["bias_sq"])
    assert math.isnan(error["gain"])
    assert math.isfinite(value["grad_norm_sq"])


# ------------------------------------------------------------------------------------------ errors


def test_sequences_come_prompt_by_prompt() -> None:
    updates = Updates(3, 2, 2)
    updates.add_sequence(0, 5, np.ones(2))
    updates.add_sequence(0, 7, np.ones(2))
    with pytest.raises(ValueError, match="prompt 5 comes back after another"):
        updates.add_sequence(1, 5, np.ones(2))
    with pytest.raises(ValueError, match="prompt 9 is one more than the 2 announced"):
        updates.add_sequence(1, 9, np.ones(2))


def test_the_variance_of_sequences_needs_them_all() -> None:
    actor, policy = vectors(0)
    with pytest.raises(ValueError, match="prompt 0 has 12 to 12 sequences in a replicate, and n_samples is 6"):
        figures(actor, policy, n_samples=6, actor_spread="sequences")
    actor.add(0, np.ones(4))
    with pytest.raises(ValueError, match="take it from replicates"):
        figures(actor, policy, n_samples=12, actor_spread="sequences")
    figures(actor, policy, n_samples=12, policy_spread="sequences")
    with pytest.raises(ValueError, match="all of them, of every prompt"):
        Updates(3, 2).variance(1)


def test_errors_name_the_argument() -> None:
    actor, policy = vectors(0)
    with pytest.raises(ValueError, match="replicates must be at least 3, got 2"):
        Updates(2, 4)
    with pytest.raises(ValueError, match="prompts must be at least 1, got 0"):
        Updates(3, 4, 0)
    with pytest.raises(ValueError, match=r"64 updates of 1,000,000,000 parameters take 954 GiB and the limit is 8 GiB"):
        Updates(64, 10**9)
    with pytest.raises(ValueError, match=r"actor holds 10 x 4 \(2 prompts\) and policy 3 x 4 \(1 prompts\)"):
        figures(actor, Updates(3, 4), n_samples=12)
    with pytest.raises(ValueError, match="n_samples must be at least 1"):
        figures(actor, policy, n_samples=0)
    with pytest.raises(ValueError, match="tokens"):
        figures(actor, policy, n_samples=12, actor_spread="tokens")


@pytest.mark.parametrize("name", ["add", "add_sequence"])
def test_a_gradient_has_one_number_per_parameter(name: str) -> None:
    updates = Updates(3, 4)
    place = (0,) if name == "add" else (0, 0)
    add = getattr(updates, name)
    for wrong in (np.ones(1), np.ones(()), np.ones((4, 1)), np.ones((1, 4)), np.ones(3), np.ones(5)):
        with pytest.raises(ValueError, match=r"gradient has shape .*, not \(4,\): one number per parameter"):
            add(*place, wrong)
    for kind in (np.int64, np.bool_, np.complex128):
        with pytest.raises(TypeError, match="gradient must hold real floating numbers"):
            add(*place, np.ones(4, dtype=kind))
    for replicate in (-1, 3):
        with pytest.raises(ValueError, match=f"replicate must lie from 0 to 2, got {replicate}"):
            add(replicate, *place[1:], np.ones(4))
    assert not updates.total.any()
    add(*place, np.arange(4.0))
    np.testing.assert_array_equal(updates.total[0], np.arange(4.0))


@pytest.mark.parametrize("name", ["actor", "policy"])
def test_a_replicate_without_a_gradient_is_no_update_of_zero(name: str) -> None:
    given = dict(zip(("actor", "policy"), vectors(0), strict=True))
    whole = figures(**given, n_samples=12)
    lacking = Updates(10, 4, 2)
    for replicate in range(10):
        if replicate != 7:
            lacking.add(replicate, given[name].total[replicate])
    with pytest.raises(ValueError, match=f"{name} holds no gradient of replicate 7"):
        figures(**given | {name: lacking}, n_samples=12)
    lacking.add(7, given[name].total[7])
    assert figures(**given | {name: lacking}, n_samples=12) == whole
    zero = Updates(10, 4, 2)
    for replicate in range(10):
        zero.add(replicate, np.zeros(4))
    figures(**given | {name: zero}, n_samples=12)
