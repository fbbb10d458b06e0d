"""A prompt that is read once for all of its rollouts leaves every law as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from jackpot_sim.environments.language_models.altered import with_sliding_window
from jackpot_sim.environments.language_models.build import TinyQwen3, build
from jackpot_sim.training.loop import packing, passes
from jackpot_sim.training.loop.packing import packs
from jackpot_sim.training.loop.passes import PaddedSequences, model_pass
from tests.environments.language_models.real_models import ARCHITECTURES, VOCAB, made

SAMPLES = 3


def groups(lengths: tuple[int, ...], length: int, seed: int = 0, vocab: int = VOCAB) -> PaddedSequences:
    """Rollouts of `length` tokens at most after prompts of these lengths, three of each; they share more of few ids."""
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(1, VOCAB, size) for size in lengths]
    n = SAMPLES * len(lengths)
    mask = np.arange(length) < rng.integers(1, length + 1, n)[:, None]
    mask[0] = True
    tokens = np.where(mask, rng.integers(1, vocab, (n, length)), 0)
    return PaddedSequences.of(prompts, np.repeat(np.arange(len(lengths)), SAMPLES), tokens, mask, "cpu", SAMPLES)


def gradient(model: Any, sequences: PaddedSequences) -> Any:
    model.zero_grad()
    (model_pass(model, sequences).log_probs[sequences.mask] ** 2).sum().backward()
    found = [weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]
    model.zero_grad()
    return torch.cat(found)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("vocab", [VOCAB, 3])
@pytest.mark.parametrize(("lengths", "length"), [((5, 4, 6, 4), 4), ((4, 4, 7), 4), ((3, 2), 1)])
def test_laws_and_gradients_are_those_of_sequences_alone(
    name: str, lengths: tuple[int, ...], length: int, vocab: int
) -> None:
    model = made(name, torch.float32)
    if not packs(model):
        pytest.skip("this architecture reads every sequence by itself")
    together = groups(lengths, length, vocab=vocab)
    alone = together.take(slice(None))
    assert (together.samples, alone.samples) == (SAMPLES, 1)
    first, second = model_pass(model, together), model_pass(model, alone)
    for name_, ours in first._asdict().items():
        torch.testing.assert_close(ours[together.mask], getattr(second, name_)[alone.mask], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient(model, together), gradient(model, alone), rtol=1e-3, atol=1e-4)


def shapes_of(model: Any, sequences: PaddedSequences) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = []
    hook = model.register_forward_pre_hook(lambda _, given: shapes.append(tuple(given[0].shape)))
    model_pass(model, sequences)
    hook.remove()
    return shapes


def test_a_beginning_that_rollouts_share_is_read_once() -> None:
    model, prompt = made("qwen3", torch.float32), np.array([1, 2, 3, 4])
    tokens = np.array([[5, 6, 7], [5, 6, 8], [5, 9, 9]])
    mask = np.array([[True, True, True], [True, True, True], [True, True, False]])
    for rows, read in ((tokens, 2), (tokens[[0, 0, 0]], 2), (tokens + 10 * np.arange(3)[:, None], 5)):
        sequences = PaddedSequences.of([prompt], np.zeros(3, dtype=np.int64), rows, mask, "cpu", SAMPLES)
        assert shapes_of(model, sequences) == [(1, len(prompt) + read)], "the last token of each is not read"


def test_two_prompts_share_a_row_where_the_model_is_wide() -> None:
    sequences = groups((4, 6, 5), 3)
    for width, rows in ((16, 3), (64, 2)):
        model = build(TinyQwen3(hidden=width, layers=1), VOCAB, np.random.default_rng(0)).float()
        assert shapes_of(model, sequences)[0][0] == rows
        alone = model_pass(model, sequences.take(slice(None)))
        found = model_pass(model, sequences).log_probs[sequences.mask]
        torch.testing.assert_close(found, alone.log_probs[sequences.mask], rtol=0, atol=1e-5)


def test_the_usual_architecture_packs() -> None:
    assert packs(made("qwen3", torch.float32))


@pytest.mark.parametrize("window", [3, 40])
def test_a_model_with_a_window_reads_every_sequence_by_itself(window: int) -> None:
    model = build(TinyQwen3(hidden=16, layers=2), VOCAB, np.random.default_rng(0)).float()
    assert packs(model)
    assert not packs(with_sliding_window(model, window))


def test_other_attention_than_sdpa_is_not_asked() -> None:
    model = build(TinyQwen3(hidden=16, layers=1), VOCAB, np.random.default_rng(0)).float()
    model.set_attn_implementation("eager")
    assert not packs(model)


def test_it_is_used_where_prompts_are_no_shorter_than_completions(monkeypatch: pytest.MonkeyPatch) -> None:
    model, used = made("qwen3", torch.float32), []

    def seen(*given: Any) -> Any:
        used.append(True)
        return packing.packed_logits(*given)

    monkeypatch.setattr(passes, "packed_logits", seen)
    model_pass(model, groups((4, 5), 4))
    assert used == [True]
    model_pass(model, groups((3, 5), 4))
    model_pass(model, groups((4, 5), 4).take(slice(None)))
    assert used == [True]


def test_parts_of_groups_are_read_row_by_row() -> None:
    whole = groups((4, 4), 3)
    rows = torch.tensor([3, 4, 5])
    assert whole.take(rows, whole_groups=True).samples == SAMPLES
    assert whole.take(rows).samples == 1


@pytest.mark.parametrize(
    ("ids", "places", "samples"),
    [((2, 6), (2,), 2), ((2, 6), (1, 3), 1), ((3, 6), (3, 3), 2), ((2, 3), (2, 3), 1), ((6,), (2, 3), 2)],
)
def test_rows_that_are_no_whole_groups_or_too_short_are_refused(
    ids: tuple[int, ...], places: tuple[int, ...], samples: int
) -> None:
    given = torch.ones(ids, dtype=torch.int64), torch.ones(places, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"ids|places"):
        packing.packed_logits(None, *given, torch.ones(places, dtype=torch.bool), samples)
