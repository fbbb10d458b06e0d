"""Batched generation against reading each sequence whole and alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from jackpot_sim.core.topk import TopK  # noqa: E402
from jackpot_sim.environments.language_models.build import Model  # noqa: E402
from jackpot_sim.environments.language_models.generation import Written, generate  # noqa: E402
from jackpot_sim.environments.language_models.library import rounding_cache  # noqa: E402
from jackpot_sim.environments.language_models.sampling_law import SamplingLaw  # noqa: E402
from jackpot_sim.environments.language_models.scoring import CausalLM  # noqa: E402
from jackpot_sim.environments.language_models.streaming import laws  # noqa: E402
from tests.environments.language_models.real_models import ARCHITECTURES, PROMPTS, VOCAB, along, made  # noqa: E402

PROMPT = np.array([0, 0, 1, 1, 2, 2, 3, 3, 0, 2])
UNIFORMS = np.random.default_rng(0).random((len(PROMPT), 9))
COLD = SamplingLaw(temperature=0.7, top_k=20, top_p=0.9)
ENDS = tuple(range(4, VOCAB, 6))


def written(model: Model, sampling: SamplingLaw = COLD, batch_size: int = 4, **given: Any) -> Written:
    scorer = CausalLM(model, given.pop("new_cache", None))
    given = {"end_tokens": ENDS, **given}
    return generate(scorer, PROMPTS, PROMPT, UNIFORMS, sampling=sampling, batch_size=batch_size, **given)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_log_probs_are_those_of_a_plain_forward_pass(name: str) -> None:
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-11)):
        model = made(name, dtype)
        out = written(model, topk=3)
        assert out.topk is not None
        plain = along(CausalLM(model), PROMPT, out.tokens, out.mask, SamplingLaw())
        for row, law in enumerate(along(CausalLM(model), PROMPT, out.tokens, out.mask, COLD)):
            there, steps = out.mask[row], np.arange(len(law))
            tokens = out.tokens[row][there]
            np.testing.assert_allclose(out.log_probs[row][there], law[steps, tokens], rtol=0, atol=tolerance)
            np.testing.assert_allclose(out.raw_log_probs[row][there], plain[row][steps, tokens], rtol=0, atol=tolerance)
            ids = np.argsort(-law, axis=-1, kind="stable")[:, :3]
            found = out.topk.log_probs[row][there]
            np.testing.assert_allclose(found, np.take_along_axis(law, ids, axis=-1), rtol=0, atol=1e-5)
        assert len(np.unique(out.tokens[out.mask])) > 5
        assert 0 < np.mean(out.mask) < 1


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_batch_size_changes_nothing(name: str) -> None:
    model = made(name)
    first, *others = (written(model, batch_size=size, topk=2) for size in (3, 100))
    for other in others:
        assert np.array_equal(first.tokens, other.tokens)
        assert np.array_equal(first.mask, other.mask)
        np.testing.assert_allclose(first.log_probs, other.log_probs, rtol=0, atol=1e-12)
        assert first.topk is not None
        assert other.topk is not None
        assert np.array_equal(first.topk.ids, other.topk.ids)


def test_one_at_a_time_is_the_same_too() -> None:
    alone, together = (written(made("mistral, windows"), batch_size=size, topk=2) for size in (1, 4))
    assert np.array_equal(alone.tokens, together.tokens)
    np.testing.assert_allclose(alone.log_probs, together.log_probs, rtol=0, atol=1e-12)


def test_the_tokens_are_drawn_by_inversion_from_the_law_that_is_sampled() -> None:
    out = written(made("qwen3"), end_tokens=())
    assert out.mask.all()
    for row, law in enumerate(along(CausalLM(made("qwen3")), PROMPT, out.tokens, out.mask, COLD)):
        cumulative = np.cumsum(np.exp(law), axis=-1)
        assert [np.searchsorted(c, u, side="right") for c, u in zip(cumulative, UNIFORMS[row], strict=True)] == list(
            out.tokens[row]
        )


def test_a_plain_law_has_the_same_log_probs_twice() -> None:
    out, cold = written(made("llama"), SamplingLaw()), written(made("llama"))
    assert np.array_equal(out.log_probs, out.raw_log_probs)
    assert np.max(np.abs(cold.log_probs - cold.raw_log_probs)) > 0.1
    assert np.all(cold.log_probs[cold.mask] > -np.inf)


def test_a_sequence_ends_with_its_end_token_and_holds_nothing_after() -> None:
    out = written(made("qwen3"), topk=2)
    assert out.topk is not None
    for tokens, mask in zip(out.tokens, out.mask, strict=True):
        last = int(mask.sum()) - 1
        assert np.array_equal(mask, np.arange(len(mask)) <= last)
        assert not np.isin(tokens[:last], ENDS).any()
        assert last == len(mask) - 1 or tokens[last] in ENDS
    for array in (out.tokens, out.log_probs, out.raw_log_probs, out.topk.ids):
        assert not array[~out.mask].any()
    assert np.all(out.topk.log_probs[~out.mask] == -np.inf)
    assert out.tokens.dtype == np.int64


def test_what_has_ended_is_not_read_and_a_prompt_is_read_once() -> None:
    model, shapes, laws = made("qwen3"), list[tuple[int, int]](), list[tuple[int, ...]]()
    model.register_forward_pre_hook(lambda _, given: shapes.append(tuple(given[0].shape)))
    model.lm_head.register_forward_hook(lambda _, __, made: laws.append(tuple(made.shape)))
    out = written(model, batch_size=100)
    assert shapes[0] == (len(PROMPTS), max(map(len, PROMPTS)))
    assert sum(count for count, _ in shapes[1:]) == np.sum(out.mask[:, 1:])
    assert laws == [(count, 1, VOCAB) for count, _ in shapes]  # and no law is made that is not drawn from


@pytest.mark.parametrize("name", ["qwen3", "mistral, windows"])
def test_a_rounding_cache_is_honoured(name: str) -> None:
    model = made(name)
    rounds: Callable[[], Any] = lambda: rounding_cache(model.config, lambda x: torch.round(4 * x) / 4)  # noqa: E731
    out = written(model, new_cache=rounds)
    for row, law in enumerate(along(CausalLM(model, rounds), PROMPT, out.tokens, out.mask, COLD)):
        there = out.mask[row]
        found = law[np.arange(len(law)), out.tokens[row][there]]
        np.testing.assert_allclose(out.log_probs[row][there], found, rtol=0, atol=1e-11)
    assert not np.array_equal(out.log_probs, written(model).log_probs)


def test_progress_is_reported_after_every_batch() -> None:
    heard = list[int]()
    written(made("gpt2"), batch_size=4, report=heard.append)
    assert heard == [4, 8, 10]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"prompts": [np.array([VOCAB])]}, "prompt 0 holds tokens from 50 to 50: the vocabulary is 0 to 49"),
        ({"prompts": [np.array([], dtype=np.int64)]}, "prompt 0 must hold token ids"),
        ({"prompts": [np.zeros(45, dtype=np.int64)]}, "reads at most 48 tokens: .* would be 49"),
        ({"prompt": np.array([1, 0])}, "prompt holds 0 to 1: there are 1 prompts"),
        ({"prompt": np.array([0])}, r"prompt has shape \(1,\) and the sequences \(2, 4\): one prompt each"),
        ({"uniforms": np.full((2, 4), 1.0)}, r"uniforms must lie in \[0, 1\)"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
        ({"topk": -1}, "topk must be an integer of at least 0"),
    ],
)
def test_what_cannot_be_written_is_refused(changes: dict[str, Any], error: str) -> None:
    given: dict[str, Any] = {"prompts": [np.array([1, 2])], "prompt": np.zeros(2, dtype=np.int64)}
    given |= {"uniforms": np.zeros((2, 4)), "batch_size": 2, "topk": 0} | changes
    with pytest.raises(ValueError, match=error):
        generate(CausalLM(made("qwen3")), sampling=SamplingLaw(), end_tokens=(), **given)


def test_a_transform_and_a_model_in_training_mode_are_refused() -> None:
    model = made("qwen3")
    with pytest.raises(ValueError, match="belong into sampling"):
        generate(
            CausalLM(model, transform=lambda laws: laws),
            *(PROMPTS, PROMPT, UNIFORMS),
            sampling=COLD,
            end_tokens=(),
            batch_size=1,
        )
    with pytest.raises(ValueError, match="training mode"):
        written(model.train())


@pytest.mark.parametrize(
    "wrong",
    [
        {"mask": np.ones((2, 3), dtype=int)},
        {"mask": np.ones((2, 1), dtype=bool)},
        {"prompt": np.zeros((2, 1), dtype=int)},
        {"prompt": np.zeros(2)},
        {"tokens": np.zeros((2, 3))},
        {"log_probs": np.zeros((2, 1))},
        {"log_probs": np.zeros((2, 3), dtype=int)},
        {"own_log_probs": np.zeros(3)},
        {"topk": TopK(np.zeros((2, 1, 1), dtype=np.int32), np.zeros((2, 1, 1), dtype=np.float32))},
    ],
    ids=lambda each: next(iter(each)),
)
def test_what_a_server_returns_has_one_shape(wrong: dict[str, Any]) -> None:
    zeros = np.zeros((2, 3))
    given: dict[str, Any] = {
        "prompt": np.zeros(2, dtype=int),
        "tokens": zeros.astype(int),
        "mask": zeros == 0,
        "log_probs": zeros,
        "own_log_probs": zeros,
    }
    Written(**given)
    with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
        Written(**(given | wrong))


def test_uniforms_are_reals_of_each_step() -> None:
    model = made("qwen3", torch.float32)
    for uniforms in (np.zeros((len(PROMPT), 9), dtype=int), UNIFORMS[:, 0], UNIFORMS[None]):
        with pytest.raises((TypeError, ValueError), match="uniforms "):
            generate(CausalLM(model), PROMPTS, PROMPT, uniforms, sampling=COLD, end_tokens=ENDS, batch_size=2)


def test_the_support_that_is_recorded_is_that_of_every_law() -> None:
    model = made(next(iter(ARCHITECTURES)), torch.float64)
    out = written(model, support=True)
    assert out.kept is not None
    kept = out.kept.dense(VOCAB)
    for row, law in enumerate(along(CausalLM(model), PROMPT, out.tokens, out.mask, COLD)):
        assert (kept[row][out.mask[row]] == (law > -np.inf)).all()
    assert kept[~out.mask].all(), "nothing is cut at padding"
    assert np.take_along_axis(kept, out.tokens[..., None], axis=-1).all()
    assert 0 < kept[out.mask].mean() < 0.9
    smaller = written(model, support=True, batch_size=3)
    assert smaller.kept is not None
    assert (smaller.kept.dense(VOCAB) == kept).all()
    assert written(model).kept is None
    assert written(model, sampling=SamplingLaw(temperature=0.7), support=True).kept is None, "a sampler without cuts"


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_the_states_of_the_writer_make_its_laws(name: str, batch_size: int) -> None:
    model, warm = made(name), SamplingLaw(temperature=0.8)
    out = written(model, warm, batch_size, states=True)
    assert out.states is not None
    assert out.states.are_of(CausalLM(model))
    assert written(model, warm, batch_size).states is None
    arrays = CausalLM(model), PROMPTS, PROMPT, out.tokens, out.mask
    kept, anew = (
        list(laws(*arrays, sampling=warm, batch_size=3, rows=4, states=states)) for states in (out.states.values, None)
    )
    for one, other in zip(kept, anew, strict=True):
        assert np.array_equal(one.sequence, other.sequence)
        assert np.array_equal(one.step, other.step)
        np.testing.assert_allclose(one.log_probs, other.log_probs, rtol=0, atol=1e-11)
        chosen = one.log_probs.gather(1, torch.as_tensor(out.tokens[one.sequence, one.step])[:, None])[:, 0]
        np.testing.assert_allclose(chosen, out.log_probs[one.sequence, one.step], rtol=0, atol=1e-11)
