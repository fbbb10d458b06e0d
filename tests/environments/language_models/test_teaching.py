"""The three loops of training: what they learn, and that a path is one path however it is walked."""

import math
from typing import Any

import numpy as np
import pytest
import scipy.special
import torch

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.environments.language_models.build import TinyQwen3, build
from jackpot_sim.environments.language_models.derivatives import parameter_gradient
from jackpot_sim.environments.language_models.scoring import CausalLM
from jackpot_sim.environments.language_models.teaching import (
    BATCH,
    COHERENCE,
    ENDING,
    Distillation,
    PolicyGradientAscent,
    Pretraining,
    StrideLanguage,
    TrainingPath,
    _batch,
)
from jackpot_sim.environments.prefix_tree import PrefixTree, objective, policy_gradient
from jackpot_sim.environments.sequences.mean_kl import ExactKL

TREE = PrefixTree(5, 3, end_token=2)
LANGUAGE = StrideLanguage(TREE, prompt_length=2)
PROMPTS = np.array([[0, 1], [3, 4]])
START = build(TinyQwen3(hidden=16, layers=1), 5, np.random.default_rng(0))
STUDENT = build(TinyQwen3(hidden=8, layers=1), 5, np.random.default_rng(1))


def ones(tokens: Ints, mask: Flags) -> Floats:
    return np.sum((tokens == 1) & mask, axis=-1).astype(np.float64)


def pretraining() -> TrainingPath:
    return Pretraining(START, LANGUAGE, 1e-2, np.random.default_rng(5))


def ascent(learning_rate: float = 1e-2) -> PolicyGradientAscent:
    return PolicyGradientAscent(START, PROMPTS, TREE, ones, learning_rate, np.random.default_rng(5))


def distillation() -> TrainingPath:
    return Distillation(STUDENT, START, PROMPTS, TREE, 1e-2, np.random.default_rng(5))


every_path = pytest.mark.parametrize("path", [pretraining, ascent, distillation], ids=lambda path: path.__name__)


def weights(model: Any) -> np.ndarray:
    return np.concatenate([weight.detach().numpy().ravel() for weight in model.parameters()])


@every_path
def test_a_path_is_the_same_however_it_is_walked(path: Any) -> None:
    direct, steps = path(), path()
    untouched = weights(direct.after(0)).copy()
    forwards = [weights(steps.after(n)) for n in (2, 5, 9)]
    np.testing.assert_array_equal(weights(direct.after(9)), forwards[2])
    np.testing.assert_array_equal(weights(direct.after(5)), forwards[1])
    np.testing.assert_array_equal(weights(steps.after(2)), forwards[0])
    assert np.any(forwards[0] != forwards[1])
    np.testing.assert_array_equal(weights(direct.after(0)), untouched)


@every_path
def test_no_global_generator_is_used(path: Any) -> None:
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    path().after(2)
    assert torch.equal(torch.get_rng_state(), torch_before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


def test_the_language_is_what_it_says() -> None:
    prompts, tokens, mask = LANGUAGE.draw(np.random.default_rng(0), 40_000)
    circle = TREE.going_on.tolist()
    assert set(np.unique(prompts)) == set(circle)
    place = {token: index for index, token in enumerate(circle)}
    at = np.array([place[token] for token in prompts[:, 1]])
    stride = np.array([1 + place[token] % 3 for token in prompts[:, 0]])
    expected = np.array(circle)[(at + stride) % 4]
    ended = tokens[:, 0] == 2
    assert np.mean(ended) == pytest.approx(ENDING, abs=0.01)
    assert np.mean((tokens[:, 0] == expected)[~ended]) == pytest.approx(COHERENCE + (1 - COHERENCE) / 4, abs=0.01)
    np.testing.assert_array_equal(mask[:, 1], ~ended)
    assert np.mean(mask[:, 2]) == pytest.approx((1 - ENDING) ** 2, abs=0.01)


def test_pretraining_learns_the_language() -> None:
    """Cross-entropy is bounded below by the entropy of the language, which it must nearly reach."""
    follow = (1 - ENDING) * np.array([COHERENCE + (1 - COHERENCE) / 4, *[(1 - COHERENCE) / 4] * 3])
    entropy = -sum(p * math.log(p) for p in [ENDING, *follow])
    model = Pretraining(build(TinyQwen3(), 5, np.random.default_rng(0)), LANGUAGE, 1e-2, np.random.default_rng(1))
    prompts, tokens, mask = LANGUAGE.draw(np.random.default_rng(2), 4000)
    ids = torch.from_numpy(np.concatenate([prompts, tokens], axis=1))

    def cross_entropy(steps: int) -> float:
        with torch.no_grad():
            laws = torch.log_softmax(model.after(steps)(input_ids=ids[:, :-1]).logits[:, 1:], -1)
        return -float(laws.gather(-1, ids[:, 2:, None])[..., 0].numpy()[mask].mean())

    assert cross_entropy(0) > entropy + 0.5
    assert entropy - 0.03 < cross_entropy(200) < entropy + 0.06


def test_policy_gradient_raises_the_reward() -> None:
    path, sequences = ascent(), TREE.sequences
    reward = ones(sequences.token, sequences.mask)

    def value(steps: int) -> float:
        tables = CausalLM(path.after(steps)).log_probs(PROMPTS, TREE)
        return float(np.mean([objective(sequences, table, reward) for table in tables]))

    assert value(20) > value(0) + 0.5


def test_policy_gradient_is_the_gradient() -> None:
    """The mean over batches is ∇J, but for the factor 63/64 of a baseline that holds the sample itself."""
    path, sequences = ascent(), TREE.sequences
    reward = ones(sequences.token, sequences.mask)
    laws = CausalLM(START).log_probs(PROMPTS, TREE)
    table = np.stack([policy_gradient(sequences, law, reward) for law in laws]) / len(PROMPTS)
    exact = parameter_gradient(START, PROMPTS, TREE, table)
    batches = []
    for batch in range(200):
        loss = path._loss(START, np.random.default_rng((3, batch)))
        batches.append(-np.concatenate([g.numpy().ravel() for g in torch.autograd.grad(loss, START.parameters())]))
    mean, error = np.mean(batches, axis=0), np.std(batches, axis=0) / math.sqrt(len(batches))
    z = (mean - exact * 63 / 64) / np.maximum(error, 1e-6)
    assert 0.5 < np.sqrt(np.mean(z**2)) < 1.5
    assert np.linalg.norm(mean - exact) < 0.2 * np.linalg.norm(exact)


def test_distillation_brings_the_student_to_the_teacher() -> None:
    path, referee = distillation(), ExactKL(TREE, PROMPTS)
    kls = [referee.kl(CausalLM(START), CausalLM(path.after(steps))).value for steps in (0, 30, 120)]
    assert kls[0] > 3 * kls[1] > 6 * kls[2]
    losses = [path._loss(STUDENT, np.random.default_rng((7, batch))).item() for batch in range(40)]
    assert np.mean(losses) == pytest.approx(kls[0], rel=0.05)


# ------------------------------------------------------------------------------- one loss, in numpy


def laws_of(model: Any, prompts: Ints, tokens: Ints) -> Floats:
    """log p(·|s) at the prefix of every token, (n, length, vocab)."""
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(np.concatenate([prompts, tokens], axis=1))).logits.numpy()
    found: Floats = scipy.special.log_softmax(logits, axis=-1)[:, prompts.shape[1] - 1 : -1]
    return found


def chosen(laws: Floats, tokens: Ints) -> Floats:
    return np.take_along_axis(laws, tokens[..., None], axis=-1)[..., 0]


def test_the_loss_of_pretraining_is_a_mean_over_tokens() -> None:
    prompts, tokens, mask = LANGUAGE.draw(np.random.default_rng(11), BATCH)
    expected = -np.sum(chosen(laws_of(START, prompts, tokens), tokens) * mask) / mask.sum()
    assert not mask.all()
    assert pretraining()._loss(START, np.random.default_rng(11)).item() == pytest.approx(expected, rel=1e-10)


def test_the_loss_of_policy_gradient_is_centred_and_leaves_padding_out() -> None:
    prompts, tokens, mask = _batch(START, PROMPTS, TREE, np.random.default_rng(12))
    reward = ones(tokens, mask)
    log_probs = np.sum(chosen(laws_of(START, prompts, tokens), tokens) * mask, axis=1)
    assert not mask.all()
    assert reward.mean() > 0.1
    expected = -np.sum((reward - reward.mean()) * log_probs) / BATCH
    assert ascent()._loss(START, np.random.default_rng(12)).item() == pytest.approx(expected, rel=1e-10)


def test_the_loss_of_distillation_is_the_teachers_divergence_over_tokens() -> None:
    prompts, tokens, mask = _batch(START, PROMPTS, TREE, np.random.default_rng(13))
    teacher, student = (laws_of(model, prompts, tokens) for model in (START, STUDENT))
    kl, reverse = (
        np.sum(np.sum(np.exp(p) * (p - q), axis=-1) * mask) / mask.sum()
        for p, q in ((teacher, student), (student, teacher))
    )
    assert not mask.all()
    assert abs(kl - reverse) > 0.01
    assert distillation()._loss(STUDENT, np.random.default_rng(13)).item() == pytest.approx(kl, rel=1e-10)
