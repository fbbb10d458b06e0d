"""Laws in blocks against reading each sequence whole and alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from jackpot_sim.environments.language_models.library import rounding_cache  # noqa: E402
from jackpot_sim.environments.language_models.sampling_law import SamplingLaw  # noqa: E402
from jackpot_sim.environments.language_models.scoring import CausalLM  # noqa: E402
from jackpot_sim.environments.language_models.states import head_of  # noqa: E402
from jackpot_sim.environments.language_models.streaming import StreamedLaws, StreamedStates, last_hidden, laws  # noqa: E402
from tests.environments.language_models.real_models import ARCHITECTURES, PROMPTS, VOCAB, along, made  # noqa: E402

PROMPT = np.array([0, 0, 1, 2, 3, 3, 2])
TOKENS = np.random.default_rng(3).integers(VOCAB, size=(len(PROMPT), 6))
MASK = np.arange(6) < np.array([6, 1, 3, 0, 2, 6, 5])[:, None]
MASK[3, 0] = True
COLD = SamplingLaw(temperature=0.7, top_k=20, top_p=0.9)
MORE_THAN_A_HEAD = ("gemma2, capped logits, windows", "granite, scaled logits")


def streamed(scorer: CausalLM, sampling: SamplingLaw = COLD, batch_size: int = 3, rows: int = 4) -> list[StreamedLaws]:
    return list(laws(scorer, PROMPTS, PROMPT, TOKENS, MASK, sampling=sampling, batch_size=batch_size, rows=rows))


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("sampling", [SamplingLaw(), COLD], ids=["plain", "cold"])
def test_laws_are_those_of_a_plain_forward_pass(name: str, sampling: SamplingLaw) -> None:
    scorer = CausalLM(made(name))
    blocks = streamed(scorer, sampling)
    sequence = np.concatenate([block.sequence for block in blocks])
    step = np.concatenate([block.step for block in blocks])
    assert np.array_equal(np.stack([sequence, step]), np.stack(np.nonzero(MASK)))
    found = np.concatenate([block.log_probs.numpy() for block in blocks])
    expected = np.concatenate(along(scorer, PROMPT, TOKENS, MASK, sampling))
    assert found.dtype == np.float64
    assert np.array_equal(np.isinf(found), np.isinf(expected))
    inside = np.isfinite(expected)
    np.testing.assert_allclose(found[inside], expected[inside], rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["qwen3", *MORE_THAN_A_HEAD])
@pytest.mark.parametrize(("batch_size", "rows"), [(1, 1), (2, 3), (100, 100)])
def test_blocks_are_no_larger_than_asked_and_change_nothing(name: str, batch_size: int, rows: int) -> None:
    scorer = CausalLM(made(name))
    blocks = streamed(scorer, batch_size=batch_size, rows=rows)
    assert max(len(block.log_probs) for block in blocks) <= rows
    found = np.concatenate([block.log_probs.numpy() for block in blocks])
    expected = np.concatenate(along(scorer, PROMPT, TOKENS, MASK, COLD))
    inside = np.isfinite(expected)
    np.testing.assert_allclose(found[inside], expected[inside], rtol=0, atol=1e-11)


def test_two_models_give_the_same_rows() -> None:
    pairs = zip(
        streamed(CausalLM(made("qwen3"))), streamed(CausalLM(made("gemma2, capped logits, windows"))), strict=True
    )
    for ours, theirs in pairs:
        assert np.array_equal(ours.sequence, theirs.sequence)
        assert np.array_equal(ours.step, theirs.step)


@pytest.mark.parametrize("name", ["qwen3", "mistral, windows", "gemma2, capped logits, windows"])
def test_a_rounding_cache_is_honoured(name: str) -> None:
    model = made(name)
    rounds: Callable[[], Any] = lambda: rounding_cache(model.config, lambda x: torch.round(4 * x) / 4)  # noqa: E731
    scorer = CausalLM(model, rounds)
    found = np.concatenate([block.log_probs.numpy() for block in streamed(scorer, SamplingLaw())])
    expected = np.concatenate(along(scorer, PROMPT, TOKENS, MASK, SamplingLaw()))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)
    plain = np.concatenate(along(CausalLM(model), PROMPT, TOKENS, MASK, SamplingLaw()))
    assert np.max(np.abs(found - plain)) > 1e-3


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_head_is_given_where_it_is_all_there_is(name: str) -> None:
    model = made(name)
    found = head_of(model)
    assert (found is None) == (name in MORE_THAN_A_HEAD)
    if found is None:
        return
    weight, bias = found
    assert bias is None
    scorer, expected = CausalLM(model), np.concatenate(along(CausalLM(model), PROMPT, TOKENS, MASK, SamplingLaw()))
    blocks = list(last_hidden(scorer, PROMPTS, PROMPT, TOKENS, MASK, batch_size=3, rows=5))
    logits = torch.cat([block.states for block in blocks]).clone() @ weight.detach().T
    np.testing.assert_allclose(torch.log_softmax(logits, -1).numpy(), expected, rtol=0, atol=1e-11)


def test_a_cap_is_seen_where_it_hardly_changes_a_logit() -> None:
    model = made("gemma2, capped logits, windows", torch.float32)
    model.config.final_logit_softcapping = 3000.0
    assert head_of(model) is None
    model.config.final_logit_softcapping = None
    assert head_of(model) is not None


def test_no_more_than_a_block_of_logits_is_made() -> None:
    model, shapes = made("qwen3"), list[tuple[int, ...]]()
    hook = model.lm_head.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape)))
    streamed(CausalLM(model), rows=2)
    hook.remove()
    assert max(np.prod(shape[:-1]) for shape in shapes[2:]) <= 2  # the first two compare the head with the model


def test_nothing_stays_switched_on_between_two_blocks() -> None:
    model = made("granite, scaled logits")
    stream = laws(
        CausalLM(model), PROMPTS, PROMPT, TOKENS, MASK, sampling=SamplingLaw(), batch_size=2, rows=3, single=True
    )
    first = next(stream)
    assert first.log_probs.dtype == torch.float32
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert torch.ones(1, dtype=torch.float64).float().dtype == torch.float32
    assert not model.model._forward_hooks


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"tokens": TOKENS + VOCAB}, "tokens holds tokens from"),
        ({"mask": MASK[:, :-1]}, "tokens has shape .* mask has shape"),
        ({"mask": ~MASK | (np.arange(6) == 5)}, "a token after padding"),
        ({"prompt": PROMPT + 1}, "there are 4 prompts"),
        ({"rows": 0}, "rows must be an integer of at least 1"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
        ({"scorer": CausalLM(made("qwen3"), transform=lambda laws: laws)}, "belong into sampling"),
    ],
)
def test_what_cannot_be_scored_is_refused(changes: dict[str, Any], error: str) -> None:
    given: dict[str, Any] = {"scorer": CausalLM(made("qwen3")), "prompts": PROMPTS, "prompt": PROMPT, "tokens": TOKENS}
    given |= {"mask": MASK, "sampling": COLD, "batch_size": 2, "rows": 2} | changes
    with pytest.raises(ValueError, match=error):
        next(laws(**given))


def test_indices_stand_beside_each_row_of_a_stream() -> None:
    rows = np.arange(2)
    StreamedLaws(rows, rows, np.zeros((2, 3)))
    for wrong in ((rows[:1], rows), (rows, rows[:, None]), (rows * 1.0, rows)):
        with pytest.raises((TypeError, ValueError), match=r"(sequence|step) "):
            StreamedLaws(*wrong, np.zeros((2, 3)))
        with pytest.raises((TypeError, ValueError), match=r"(sequence|step) "):
            StreamedStates(*wrong, torch.zeros((2, 3)))


@pytest.mark.parametrize("name", ["llama", "mistral, windows", "gemma2, capped logits, windows"])
def test_a_prompt_is_read_once_for_all_its_sequences(name: str) -> None:
    model, read = made(name), list[int]()
    hook = model.get_input_embeddings().register_forward_pre_hook(lambda _, given: read.append(given[0].numel()))
    stream = last_hidden(CausalLM(model), PROMPTS, np.full(7, 2), TOKENS, MASK, batch_size=3, rows=100)
    with hook:
        assert sum(len(block.step) for block in stream) == MASK.sum()
    probes = 3 + 5 + 2 + 3  # the norm, and whether the model goes on from a cache
    by_length = np.sort(MASK.sum(-1))
    most = sum(len(some) * (some.max() - 1) for some in (by_length[:3], by_length[3:6], by_length[6:]))
    assert sum(read) <= probes + len(PROMPTS[2]) + most
