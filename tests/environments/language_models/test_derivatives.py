"""Derivatives of scores with respect to parameters: against differences, and against each other."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from jackpot_sim.core.arrays import Floats  # noqa: E402
from jackpot_sim.environments.language_models.altered import with_sliding_window  # noqa: E402
from jackpot_sim.environments.language_models.build import Model  # noqa: E402
from jackpot_sim.environments.language_models.derivatives import parameter_gradient  # noqa: E402
from jackpot_sim.environments.language_models.scoring import CausalLM  # noqa: E402
from jackpot_sim.environments.prefix_tree import PrefixTree, objective, policy_gradient  # noqa: E402
from tests.environments.language_models.tiny_models import (  # noqa: E402
    CONTEXT,
    MODEL,
    PROMPTS,
    TREES,
    VOCAB,
    check_gradient_in_features,
    in_blocks_of,
)


@pytest.mark.parametrize("model", [MODEL, with_sliding_window(MODEL, 3)], ids=["plain", "window"])
@pytest.mark.parametrize("rows", [2, 1000])
def test_the_parameter_gradient_agrees_with_the_features(
    model: Model, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = PrefixTree(VOCAB, 3, 0)
    in_blocks_of(rows, monkeypatch, tree)
    check_gradient_in_features(model, tree)


def moved(model: Model, direction: Floats, step: float) -> Model:
    """A copy whose weights lie `step` along a direction in the flattened parameters."""
    out = with_sliding_window(model, CONTEXT)  # a window as long as the context is none
    start = 0
    with torch.no_grad():
        for weight in out.parameters():
            part = direction[start : start + weight.numel()].reshape(tuple(weight.shape))
            weight += step * torch.from_numpy(part)
            start += weight.numel()
    assert start == len(direction)
    return out


def test_the_parameter_gradient_is_that_of_the_objective() -> None:
    tree, prompt, generator = TREES[1], PROMPTS[:1], np.random.default_rng(3)
    sequences = tree.sequences
    reward = generator.normal(size=len(sequences))

    def value(model: Model) -> float:
        return objective(sequences, CausalLM(model).log_probs(prompt, tree)[0], reward)

    table = policy_gradient(sequences, CausalLM(MODEL).log_probs(prompt, tree)[0], reward)[None]
    gradient = parameter_gradient(MODEL, prompt, tree, table)
    for _ in range(3):
        direction, step = generator.normal(size=gradient.size) / np.sqrt(gradient.size), 1e-4
        difference = (value(moved(MODEL, direction, step)) - value(moved(MODEL, direction, -step))) / (2 * step)
        assert gradient @ direction == pytest.approx(difference, rel=1e-5)


def test_a_table_may_ask_of_logits_what_no_law_does() -> None:
    tree, generator = PrefixTree(VOCAB, 2), np.random.default_rng(4)
    shift = parameter_gradient(MODEL, PROMPTS, tree, np.ones((3, tree.prefixes, VOCAB)))
    assert np.max(np.abs(shift)) > 1e-3  # a constant added to all logits: no matter to the law
    first, second = generator.normal(size=(2, 3, tree.prefixes, VOCAB))
    together = parameter_gradient(MODEL, PROMPTS, tree, first + second)
    apart = parameter_gradient(MODEL, PROMPTS, tree, first) + parameter_gradient(MODEL, PROMPTS, tree, second)
    np.testing.assert_allclose(together, apart, rtol=0, atol=1e-10)


def test_a_frozen_model_has_derivatives() -> None:
    frozen, tree = with_sliding_window(MODEL, CONTEXT).requires_grad_(False), TREES[0]
    table = np.random.default_rng(5).normal(size=(3, tree.prefixes, VOCAB))
    gradient = parameter_gradient(frozen, PROMPTS, tree, table)
    np.testing.assert_allclose(gradient, parameter_gradient(MODEL, PROMPTS, tree, table), rtol=0, atol=1e-12)


def test_derivatives_leave_the_model_as_it_was() -> None:
    before = [weight.clone() for weight in MODEL.parameters()]
    with torch.no_grad(), torch.inference_mode():
        parameter_gradient(MODEL, PROMPTS, TREES[0], np.ones((3, TREES[0].prefixes, VOCAB)))
        check_gradient_in_features(MODEL, PrefixTree(VOCAB, 2))
    assert all(weight.grad is None and weight.requires_grad for weight in MODEL.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, MODEL.parameters(), strict=True))
