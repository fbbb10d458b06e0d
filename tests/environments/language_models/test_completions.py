"""Completions of different lengths: their ids, their places, and logits as if each were read alone."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from jackpot_sim.environments.language_models.completions import Completions, logits_along, right_padded  # noqa: E402
from jackpot_sim.environments.language_models.library import logits  # noqa: E402
from jackpot_sim.environments.language_models.prompts import left_padded  # noqa: E402
from jackpot_sim.environments.language_models.walking import scoring_mode  # noqa: E402
from tests.environments.language_models.tiny_models import MODEL  # noqa: E402

PROMPTS = [np.array([0, 1, 2]), np.array([3])]
PROMPT = np.array([1, 0, 0, 1])
TOKENS = np.array([[2, 2, 1], [3, 1, 0], [1, 0, 0], [0, 0, 0]])
MASK = np.array([[True] * 3, [True, True, False], [True, False, False], [False] * 3])


def checked(**changes: Any) -> Completions:
    given: dict[str, Any] = {"prompts": PROMPTS, "prompt": PROMPT, "tokens": TOKENS, "mask": MASK} | changes
    return Completions.checked(MODEL, **given)


def test_the_last_token_is_not_read_and_padding_is_on_the_right() -> None:
    assert checked().ids().tolist() == [[3, 2, 2, 0], [0, 1, 2, 3], [0, 1, 2, 0], [3, 0, 0, 0]]
    row, step, place = checked().places()
    assert row.tolist() == [0, 0, 0, 1, 1, 2]
    assert step.tolist() == [0, 1, 2, 0, 1, 0]
    assert place.tolist() == [0, 1, 2, 2, 3, 2]  # one before the token
    assert checked().take(np.array([2, 0])).ids().tolist() == [[0, 1, 2], [3, 2, 2]]
    ids, mask = right_padded([np.array([1, 2]), np.array([3])], pad=9)
    assert ids.tolist() == [[1, 2], [3, 9]]
    assert mask.tolist() == [[True, True], [True, False]]


def test_logits_are_those_of_each_completion_read_alone() -> None:
    with scoring_mode(MODEL):
        together = checked().logits(MODEL)
        alone = [
            logits(MODEL, torch.as_tensor(np.concatenate([PROMPTS[prompt], tokens[mask]])[None]))[0]
            for prompt, tokens, mask in zip(PROMPT, TOKENS, MASK, strict=True)
        ]
        expected = [each[len(PROMPTS[prompt]) - 1 : -1] for each, prompt in zip(alone, PROMPT, strict=True)]
        np.testing.assert_allclose(together, torch.cat(expected), rtol=0, atol=1e-12)
        whole = logits_along(MODEL, np.tile(PROMPTS[0], (4, 1)), TOKENS)
        np.testing.assert_allclose(whole[1, :2], expected[1], rtol=0, atol=1e-12)


def test_only_the_tokens_that_are_read_have_to_fit_the_context() -> None:
    checked(prompts=[np.zeros(11, dtype=np.int64), PROMPTS[1]], mask=MASK & (PROMPT == 1)[:, None])
    with pytest.raises(ValueError, match="reads at most 12 tokens"):
        checked(prompts=[np.zeros(11, dtype=np.int64), PROMPTS[1]])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mask": MASK.astype(int)}, "mask must be boolean"),
        ({"mask": MASK[:, :1]}, "mask has shape"),
        ({"mask": MASK[0]}, "mask has shape"),
        ({"prompt": PROMPT * 1.0}, "prompt must hold integers"),
        ({"prompt": PROMPT > 0}, "prompt must hold integers"),
        ({"prompt": PROMPT[:, None]}, "prompt has shape"),
        ({"tokens": TOKENS[0]}, "tokens has shape"),
    ],
)
def test_a_mask_and_indices_of_another_dtype_or_shape_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        checked(**changes)
    if "tokens" not in changes:
        with pytest.raises((TypeError, ValueError), match=said):
            Completions(PROMPTS, **{"prompt": PROMPT, "tokens": TOKENS, "mask": MASK, **changes})


def test_rows_are_no_mask_and_rows_of_ids_have_one_axis() -> None:
    with pytest.raises(TypeError, match="rows must hold integers"):
        checked().take(np.array([True, False, True, True]))
    for padded in (right_padded, left_padded):
        for row in (np.zeros((2, 2), dtype=int), np.zeros(2), np.int64(1)):
            with pytest.raises((TypeError, ValueError), match=r"(rows|prompts) "):
                padded([row])
    with pytest.raises(ValueError, match="prompts has shape"):
        logits_along(MODEL, TOKENS[:1], TOKENS)
