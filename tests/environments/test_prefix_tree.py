"""Every sequence after a prompt: the tree, its laws, what is drawn from it, and what it costs."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from scipy import stats

from jackpot_sim import estimators
from jackpot_sim.core.sequences import Enumeration, SequenceLaws
from jackpot_sim.environments import prefix_tree
from jackpot_sim.environments.prefix_tree import PrefixTree, objective, policy_gradient, prefix_shift, require_an_end
from jackpot_sim.estimators.sequences.enumerated import Referee
from jackpot_sim.estimators.states.moments import Denominator
from tests.core.laws import normalised
from tests.estimators import sequence_brute as brute
from tests.estimators.sequence_brute import Shape
from tests.estimators.sequence_cells import random_prompt, table

SHAPES = [Shape(2, 1, None), Shape(2, 1, 0), Shape(3, 3, 1), Shape(2, 4, 0), Shape(4, 3, 3), Shape(3, 2, None)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def random_laws(tree: PrefixTree, seed: int) -> Any:
    return normalised(np.random.default_rng(seed).normal(size=(tree.prefixes, tree.vocab)))


def written(tree: PrefixTree) -> list[tuple[int, ...]]:
    paths = tree.sequences
    return [tuple(tokens[live].tolist()) for tokens, live in zip(paths.token, paths.mask, strict=True)]


# ------------------------------------------------------------------------------------------ tree


@every_shape
def test_every_sequence_is_there_once(shape: Shape) -> None:
    tree = PrefixTree(*shape)
    found, expected = written(tree), brute.strings(shape)
    assert sorted(found) == sorted(expected)
    assert len(found) == len(set(found)) == tree.sequences_count == len(tree.sequences)
    assert [len(y) for y in found] == sorted(len(y) for y in found)
    fan = shape.vocab - (shape.end is not None)
    assert tree.prefixes == sum(fan**t for t in range(shape.length)) == len(brute.prefixes(shape))
    assert tree.levels[0] == slice(0, 1)
    assert tree.levels[-1].stop == tree.prefixes


@every_shape
def test_rows_are_prefixes(shape: Shape) -> None:
    tree = PrefixTree(*shape)
    rows = {prefix: row for row, prefix in enumerate(brute.prefixes(shape))}
    for y, path in zip(written(tree), tree.sequences.prefix, strict=True):
        assert [rows[y[:t]] for t in range(len(y))] == path[: len(y)].tolist()
    for prefix, row in rows.items():
        assert tree.parent[row] == (rows[prefix[:-1]] if prefix else -1)
        assert tree.last_token[row] == (prefix[-1] if prefix else -1)
        for token in range(shape.vocab):
            assert tree.child[row, token] == rows.get((*prefix, token), -1)


@every_shape
def test_probabilities_add_up_to_one(shape: Shape) -> None:
    tree, prompt = PrefixTree(*shape), random_prompt(shape, 0)
    log_probs = table(shape, prompt.policy)
    probability = np.exp(tree.sequences.log_probs(log_probs))
    assert probability.sum() == pytest.approx(1.0, rel=1e-13)
    assert probability == pytest.approx([brute.chance(prompt.policy, y) for y in written(tree)], rel=1e-12)
    reach = np.exp(tree.reach(log_probs))
    assert reach == pytest.approx([brute.chance(prompt.policy, s) for s in brute.prefixes(shape)], rel=1e-12)


# ----------------------------------------------------------------------------------------- draws


@pytest.mark.parametrize("shape", [Shape(3, 3, 1), Shape(2, 3, None)], ids=str)
def test_draws_follow_the_law(shape: Shape) -> None:
    tree, n = PrefixTree(*shape), 20_000
    log_probs = random_laws(tree, 1)
    uniforms = np.random.default_rng(2).random((n, shape.length))
    drawn = tree.draw(log_probs, uniforms)
    counts = dict.fromkeys(written(tree), 0)
    for tokens, live in zip(drawn.token, drawn.mask, strict=True):
        counts[tuple(tokens[live].tolist())] += 1
    expected = n * np.exp(tree.sequences.log_probs(log_probs))
    assert expected.min() > 5
    assert stats.chisquare(list(counts.values()), expected).pvalue > 0.001
    np.testing.assert_allclose(np.bincount(drawn.prefix[:, 0], minlength=1), [n])


def test_draws_are_paths_and_replay() -> None:
    tree = PrefixTree(3, 4, 0)
    log_probs, uniforms = random_laws(tree, 3), np.random.default_rng(4).random((300, 4))
    drawn, again = tree.draw(log_probs, uniforms), tree.draw(log_probs, uniforms)
    half = tree.draw(log_probs, uniforms[:150])
    for name in ("prefix", "token", "mask"):
        np.testing.assert_array_equal(getattr(drawn, name), getattr(again, name))
        np.testing.assert_array_equal(getattr(drawn, name)[:150], getattr(half, name))
    for prefix, token, mask in zip(drawn.prefix, drawn.token, drawn.mask, strict=True):
        live = int(mask.sum())
        assert mask[:live].all()
        assert prefix[0] == 0
        assert [tree.child[s, x] for s, x in zip(prefix[: live - 1], token[: live - 1], strict=True)] == list(
            prefix[1:live]
        )
        assert tree.child[prefix[live - 1], token[live - 1]] == -1
    assert set(drawn.lengths) == {1.0, 2.0, 3.0, 4.0}


def test_all_may_end_at_once() -> None:
    tree = PrefixTree(2, 3, 1)
    ends = np.log(np.array([[1e-300, 1.0]] * tree.prefixes))
    assert tree.draw(ends, np.full((5, 3), 0.5)).lengths.tolist() == [1.0] * 5


# ------------------------------------------------------------------------- objective and gradient


@every_shape
def test_the_gradient_is_the_derivative_of_the_objective(shape: Shape) -> None:
    tree, prompt = PrefixTree(*shape), random_prompt(shape, 5)
    log_probs = table(shape, prompt.policy)
    reward = np.array([prompt.advantage[y] for y in written(tree)])
    by_hand = sum(brute.chance(prompt.policy, y) * a for y, a in prompt.advantage.items())
    assert objective(tree.sequences, log_probs, reward) == pytest.approx(by_hand, rel=1e-12)
    found, step = policy_gradient(tree.sequences, log_probs, reward), 1e-4
    phi = brute.logits(shape, prompt)
    explicit = sum(
        brute.chance(prompt.policy, y) * a * brute.score(phi, y, [1.0] * len(y)) for y, a in prompt.advantage.items()
    )
    np.testing.assert_allclose(found.ravel(), explicit, rtol=1e-11, atol=1e-14)
    for s, x in itertools.product(range(tree.prefixes), range(tree.vocab)):
        ahead, behind = log_probs.copy(), log_probs.copy()
        ahead[s, x] += step
        behind[s, x] -= step
        rise = objective(tree.sequences, normalised(ahead), reward)
        fall = objective(tree.sequences, normalised(behind), reward)
        assert (rise - fall) / (2 * step) == pytest.approx(found[s, x], rel=1e-7, abs=1e-8)


# ------------------------------------------------------------------------------------------ shift


@every_shape
def test_prefix_shift(shape: Shape) -> None:
    tree, prompt = PrefixTree(*shape), random_prompt(shape, 6)
    found = prefix_shift(tree, table(shape, prompt.policy), table(shape, prompt.actor))
    p, q = ({s: brute.chance(law, s) for s in brute.prefixes(shape)} for law in (prompt.policy, prompt.actor))
    for depth in range(shape.length):
        here = [s for s in p if len(s) == depth]
        ended = [y for y in brute.strings(shape) if len(y) <= depth and shape.end is not None]
        gone = abs(sum(brute.chance(prompt.policy, y) - brute.chance(prompt.actor, y) for y in ended))
        apart = (sum(abs(p[s] - q[s]) for s in here) + gone) / 2
        assert found.total_variation[depth] == pytest.approx(apart, rel=1e-10, abs=1e-15)
    assert found.total_variation[0] == 0.0
    assert found.kl == pytest.approx(brute.divergence(p, q), rel=1e-10, abs=1e-15)
    assert prefix_shift(tree, *[table(shape, prompt.actor)] * 2).kl == 0.0


# ------------------------------------------------------------------------------------------- cost


def _peak(vocab: int, length: int, end: int | None, prompts: int) -> tuple[int, PrefixTree]:
    """What one correction over every denominator holds beside the laws it was given."""
    tree = PrefixTree(vocab, length, end)
    pairs = [(random_laws(tree, 2 * prompt), random_laws(tree, 2 * prompt + 1)) for prompt in range(prompts)]
    tracemalloc.start()
    try:
        generator = np.random.default_rng(9)
        enumerations = [
            Enumeration(
                SequenceLaws(policy, actor, policy), tree.sequences, generator.normal(size=tree.sequences_count)
            )
            for policy, actor in pairs
        ]
        weighed = Referee(enumerations).weigh(estimators.get("jackpot"))
        for denominator in Denominator:
            weighed.moments(denominator, 5)
        weighed.bias_shares()
        return tracemalloc.get_traced_memory()[1], tree
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("prompts", [1, 4])
@pytest.mark.parametrize("end", [None, 0])
def test_what_is_held_is_no_more_than_announced(end: int | None, prompts: int) -> None:
    peak, tree = _peak(4, 6, end, prompts)
    assert peak <= tree.bytes_needed(prompts)
    assert tree.bytes_needed(prompts) < 5 * peak


def test_cost_grows_with_the_sequences() -> None:
    short, long = PrefixTree(4, 6, None), PrefixTree(4, 8, None)
    per_step = [tree.bytes_needed() / (tree.sequences_count * tree.length) for tree in (short, long)]
    assert per_step[0] == pytest.approx(per_step[1], rel=0.2)
    assert short.bytes_needed(3) > short.bytes_needed()
    small = PrefixTree(3, 2, 1)
    assert small.bytes_needed() < PrefixTree(3, 3, 1).bytes_needed() < PrefixTree(4, 3, 1).bytes_needed()


def test_what_does_not_fit_is_refused_with_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = PrefixTree(10, 8, None)
    gib = tree.bytes_needed() / 2**30
    with pytest.raises(ValueError, match="the memory limit is 1 GiB") as caught:
        tree.require_fits(1 << 30)
    for part in ("100,000,000 sequences", "11,111,111 prefixes", "vocab 10, length 8", f"{gib:.3g} GiB", "Monte Carlo"):
        assert part in str(caught.value), part
    small = PrefixTree(3, 3, 1)
    small.require_fits(small.bytes_needed())
    with pytest.raises(ValueError, match="memory limit"):
        small.require_fits(small.bytes_needed() - 1)

    class Full:
        available = 1000

    monkeypatch.setattr(prefix_tree.psutil, "virtual_memory", Full)
    with pytest.raises(ValueError, match=r"this machine has free 9.31e-07 GiB"):
        small.require_memory()


# ------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 2, 3), "end_token=3 is never reached: the vocabulary is 0 to 2"),
        ((3, 2, -1), "end_token=-1 is never reached"),
        ((1, 2, None), "vocab"),
        ((3, 0, None), "length"),
    ],
)
def test_sizes_out_of_range_are_refused(shape: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrefixTree(*shape)


def test_an_end_that_a_policy_never_writes_is_refused() -> None:
    tree = PrefixTree(3, 2, 1)
    laws = random_laws(tree, 10)
    assert np.isfinite(laws).all()
    require_an_end(tree, laws, "the policy")
    never = normalised(np.where(np.arange(3) == 1, -math.inf, laws))
    with pytest.raises(ValueError, match="the end token 1 is never reached: the actor gives it probability 0"):
        require_an_end(tree, never, "the actor")
    never[2] = laws[2]
    require_an_end(tree, never, "the actor")
    require_an_end(PrefixTree(3, 2), laws, "the policy")


# ------------------------------------------------------------------------------------------ wrong shapes


SQUARE = PrefixTree(3, 2, None)
"""As many prefixes but one as tokens, so that a column broadcasts."""


@pytest.mark.parametrize(
    "wrong",
    [lambda law: law[:, :1], lambda law: law[:1], lambda law: law[None], lambda law: law[:, 0]],
)
def test_a_table_of_another_shape_is_refused(wrong: Any) -> None:
    law = random_laws(SQUARE, 0)
    uniforms = np.full((2, 2), 0.5)
    for call in (
        lambda: SQUARE.reach(wrong(law)),
        lambda: SQUARE.draw(wrong(law), uniforms),
        lambda: prefix_shift(SQUARE, law, wrong(law)),
        lambda: prefix_shift(SQUARE, wrong(law), wrong(law)),
    ):
        with pytest.raises(ValueError, match="log_probs has shape"):
            call()
    for dtype in (np.int64, np.bool_, np.complex128):
        with pytest.raises(TypeError, match="log_probs must hold real"):
            SQUARE.reach(law.astype(dtype))


@pytest.mark.parametrize("shape", [(9, 1), (1,), (1, 9), (9, 9), ()])
def test_rewards_are_one_per_sequence(shape: tuple[int, ...]) -> None:
    for function in (objective, policy_gradient):
        with pytest.raises(ValueError, match="reward has shape"):
            function(SQUARE.sequences, random_laws(SQUARE, 0), np.ones(shape))
        with pytest.raises(ValueError, match="log_probs has shape"):
            function(SQUARE.sequences, random_laws(SQUARE, 0)[:, 0], np.ones(9))


def test_uniforms_are_one_per_token_of_the_tree() -> None:
    for shape in ((5, 1), (5, 3), (2,), (5, 2, 1)):
        with pytest.raises(ValueError, match="uniforms has shape"):
            SQUARE.draw(random_laws(SQUARE, 0), np.full(shape, 0.5))


def test_the_chance_of_an_end_is_read_from_laws_of_the_tree() -> None:
    with pytest.raises(ValueError, match="log_probs has shape"):
        require_an_end(PrefixTree(3, 2, 0), random_laws(SQUARE, 0)[:, :2], "the policy")
