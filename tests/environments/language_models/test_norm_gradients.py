"""Gradients in the final norm from its states, against reading the rollouts again and one sequence at a time."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from jackpot_sim.core.support import SamplingMask  # noqa: E402
from jackpot_sim.environments.language_models.block_gradients import OtherTokens, gradients  # noqa: E402
from jackpot_sim.environments.language_models.completions import Completions  # noqa: E402
from jackpot_sim.environments.language_models.norm_gradients import NormGradients  # noqa: E402
from jackpot_sim.environments.language_models.reading import Reader  # noqa: E402
from jackpot_sim.environments.language_models.scoring import CausalLM  # noqa: E402
from tests.environments.language_models.real_models import ARCHITECTURES, PROMPTS, VOCAB, made  # noqa: E402

RNG = np.random.default_rng(8)
PROMPT = np.array([0, 1, 1, 3, 2])
TOKENS = RNG.integers(VOCAB, size=(5, 4))
MASK = np.arange(4) < np.array([4, 1, 3, 2, 4])[:, None]
COEFFICIENTS = RNG.normal(size=(3, 5, 4))
COEFFICIENTS[:, 1] = 0
COEFFICIENTS[2, 3, 0] = np.inf
SINGLES = [slice(row, row + 1) for row in (3, 0, 1, 2, 4)]
BATCHES = [slice(0, 2), slice(2, 5)]


def ours(name: str, **given: Any) -> tuple[NormGradients, dict[str, Any]]:
    """The gradients, and what the other way needs of the same rollouts."""
    model = made(name)
    reader = Reader(CausalLM(model))
    states = reader.states(Completions.checked(model, PROMPTS, PROMPT, TOKENS, MASK), 3)
    found = NormGradients(reader, states, TOKENS, MASK, given.get("kept"), 0.7, 5)
    arrays = {"model": model, "prompts": PROMPTS, "prompt": PROMPT, "tokens": TOKENS, "mask": MASK}
    return found, {**arrays, "patterns": sorted(found.names), "temperature": 0.7, **given}


def assert_equal(found: Any, expected: Any) -> None:
    for (rows, one), (other_rows, other) in zip(found, expected, strict=True):
        assert rows == other_rows
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("batches", [SINGLES, BATCHES], ids=["singles", "batches"])
def test_gradients_are_those_of_rollouts_read_again(name: str, batches: list[slice]) -> None:
    found, given = ours(name)
    assert_equal(found.of(COEFFICIENTS, batches), gradients(coefficients=COEFFICIENTS, batches=batches, **given))
    twice = 2 * COEFFICIENTS + (np.arange(5) == 1)[:, None]  # and of a rollout that was not looked at before
    assert_equal(found.of(twice, batches), gradients(coefficients=twice, batches=batches, **given))


@pytest.mark.parametrize("batches", [SINGLES, BATCHES], ids=["singles", "batches"])
def test_other_tokens_and_supports_too(batches: list[slice]) -> None:
    inside = RNG.random((20, VOCAB)) < 0.6
    inside[np.arange(20), TOKENS.ravel()] = True
    offsets = np.concatenate([[0], np.cumsum(inside.sum(-1))])
    support = SamplingMask(np.nonzero(inside)[1].astype(np.int32), offsets, np.arange(20).reshape(5, 4))
    ids = np.argsort(~inside, axis=-1, kind="stable")[:, 2:5].reshape(5, 4, 3)
    factor, each = RNG.normal(size=5), RNG.normal(size=(5, 4, 3))
    others = OtherTokens(ids, [None, (factor, each), (factor, np.where(ids == ids[0, 0, 0], np.inf, each))])
    found, given = ours("llama", kept=support)
    expected = gradients(coefficients=COEFFICIENTS, batches=batches, others=others, **given)
    assert_equal(found.of(COEFFICIENTS, batches, others), expected)
