"""Sequences that share a row of a model are those that are written alone, and rows are read instead of sequences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from jackpot_sim.core.arrays import Ints  # noqa: E402
from jackpot_sim.environments.language_models.generation import Written, generate  # noqa: E402
from jackpot_sim.environments.language_models.library import rounding_cache  # noqa: E402
from jackpot_sim.environments.language_models.sampling_law import SamplingLaw  # noqa: E402
from jackpot_sim.environments.language_models.scoring import CausalLM  # noqa: E402
from jackpot_sim.environments.language_models.together import pays, writes_together  # noqa: E402
from tests.environments.language_models.real_models import ARCHITECTURES, VOCAB, made  # noqa: E402

SAMPLES, LENGTH = 3, 4
PROMPTS = [np.random.default_rng(each).integers(0, VOCAB, length) for each, length in enumerate((2, 7, 4))]
PROMPT = np.repeat(np.arange(3), SAMPLES)
UNIFORMS = np.random.default_rng(9).random((len(PROMPT), LENGTH))
TOGETHER = [name for name in ARCHITECTURES if writes_together(made(name))]


def written(
    model: Any, *, prompt: Ints = PROMPT, ends: tuple[int, ...] = (), batch: int = 100, **given: Any
) -> Written:
    scorer = CausalLM(model, given.pop("new_cache", None))
    cold = SamplingLaw(temperature=0.7)
    options = {"sampling": cold, "end_tokens": ends, "batch_size": batch, "topk": 2} | given
    return generate(scorer, PROMPTS, prompt, UNIFORMS[: len(prompt)], **options)


def shapes_of(model: Any, monkeypatch: pytest.MonkeyPatch, **given: Any) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = []
    hook = model.register_forward_pre_hook(lambda _, given: shapes.append(tuple(given[0].shape)))
    written(model, **given)
    hook.remove()
    return shapes


@pytest.fixture(autouse=True)
def _it_pays(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The models of these tests are so narrow that it would not."""
    if "pays" not in request.node.name:
        monkeypatch.setattr("jackpot_sim.environments.language_models.generation.pays", lambda *_: True)


def test_the_usual_architectures_do() -> None:
    assert {"qwen3", "llama"} <= set(TOGETHER)
    assert "mistral, windows" not in TOGETHER


@pytest.mark.parametrize("name", TOGETHER)
@pytest.mark.parametrize(("ends", "batch"), [((), 100), (tuple(range(VOCAB // 3)), 100), (tuple(range(5)), 4)])
def test_sequences_are_those_that_are_written_alone(name: str, ends: tuple[int, ...], batch: int) -> None:
    model = made(name)
    together, alone = (written(model, ends=ends, batch=batch, together=each) for each in (True, False))
    assert np.array_equal(together.tokens, alone.tokens)
    assert np.array_equal(together.mask, alone.mask)
    for name_ in ("log_probs", "raw_log_probs"):
        np.testing.assert_allclose(getattr(together, name_), getattr(alone, name_), rtol=0, atol=1e-11)
    assert together.topk is not None
    assert alone.topk is not None
    assert np.array_equal(together.topk.ids, alone.topk.ids)


def test_a_row_is_read_for_each_prompt_and_none_for_what_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made("qwen3")
    assert shapes_of(model, monkeypatch, together=True) == [(3, 7)] + [(3, SAMPLES)] * (LENGTH - 1)
    assert shapes_of(model, monkeypatch, together=False) == [(3, 7)] + [(9, 1)] * (LENGTH - 1)
    ends = tuple(range(VOCAB // 2))
    out = written(model, ends=ends)
    live = out.mask.reshape(3, SAMPLES, LENGTH).sum(1)[:, 1:].T
    expected = [(int((step > 0).sum()), int(step.max())) for step in live if step.any()]
    assert any(rows < 3 for rows, _ in expected), "a prompt has ended"
    assert shapes_of(model, monkeypatch, ends=ends, together=True)[1:] == expected


def test_what_shares_no_row_is_written_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made("qwen3")
    mixed = PROMPT.reshape(3, 3).T.ravel()
    rounds: Any = lambda: rounding_cache(model.config, lambda x: torch.round(4 * x) / 4)  # noqa: E731
    for given in ({"prompt": mixed}, {"new_cache": rounds}, {"states": True}):
        assert shapes_of(model, monkeypatch, together=True, **given)[1] == (9, 1), given


def test_it_pays_for_few_or_short_sequences() -> None:
    model = made("qwen3")
    width = model.config.hidden_size
    assert pays(model, 2, width // 2)
    assert not pays(model, 2, width)
    assert not pays(model, 1, 1), "there is nothing to share"
    assert written(model, together=True).mask.all()
