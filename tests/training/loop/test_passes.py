"""A forward pass over rollouts of any lengths against every sequence read alone."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from jackpot_sim.core.support import SamplingMask
from jackpot_sim.core.topk import TopK
from jackpot_sim.environments.language_models.build import TinyQwen3, build
from jackpot_sim.environments.language_models.library import in_double
from jackpot_sim.training.loop.passes import PaddedSequences, model_pass
from jackpot_sim.training.objective import ModelPass

VOCAB = 7
RAGGED = ([1, 2], [3, 4, 5, 6, 1], [2])
EVEN = ([1, 2, 3], [4, 5, 6], [2, 0, 1])
COMPLETIONS = ([[1, 2, 3], [4]], [[5, 5, 5, 2], [0, 0]], [[6, 1]])
"""Of every prompt."""


@pytest.fixture(scope="module")
def model() -> Any:
    return build(TinyQwen3(hidden=16, layers=2, heads=2, context=16), VOCAB, np.random.default_rng(2))


class Whole(torch.nn.Module):
    """A model that knows no `logits_to_keep`, and gives the laws at every token that it reads."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Any, use_cache: bool = True) -> Any:
        assert not use_cache
        return SimpleNamespace(logits=self.model(ids, use_cache=False).logits)


def sequences(
    prompts: Any = RAGGED, completions: Any = COMPLETIONS, filler: int = 0, extra: int = 0
) -> PaddedSequences:
    """Padded to the longest and `extra` more, with `filler` at padding."""
    rows = [(at, row) for at, several in enumerate(completions) for row in several]
    length = max(len(row) for _, row in rows) + extra
    tokens = np.full((len(rows), length), filler, dtype=np.int64)
    mask = np.zeros(tokens.shape, dtype=bool)
    for row, (_, written) in enumerate(rows):
        tokens[row, : len(written)], mask[row, : len(written)] = written, True
    starts = np.array([at for at, _ in rows])
    return PaddedSequences.of([np.array(each) for each in prompts], starts, tokens, mask, "cpu")


def alone(model: Any, prompts: Any, completions: Any, temperature: float) -> list[Any]:
    """log p at every token of every completion, each read without any other."""
    found = []
    for prompt, several in zip(prompts, completions, strict=True):
        for written in several:
            with torch.no_grad():
                logits = model(torch.tensor([[*prompt, *written]])).logits[0, len(prompt) - 1 : -1]
            found.append(torch.log_softmax(logits / temperature, -1))
    return found


def scored(model: Any, given: PaddedSequences, temperature: float = 1.0) -> ModelPass:
    with in_double(model), torch.no_grad():
        return model_pass(model, given, temperature)


@pytest.mark.parametrize("prompts", [RAGGED, EVEN], ids=["ragged prompts", "prompts of one length"])
@pytest.mark.parametrize("completions", [COMPLETIONS, ([[1], [2]], [[3]], [[4]])], ids=["ragged", "one token"])
@pytest.mark.parametrize("temperature", [1.0, 0.6, 2.0])
@pytest.mark.parametrize("whole", [False, True], ids=["logits_to_keep", "all logits"])
def test_a_pass_scores_each_sequence_as_if_alone(
    model: Any, prompts: Any, completions: Any, temperature: float, whole: bool
) -> None:
    given = sequences(prompts, completions)
    with in_double(model):
        expected = alone(model, prompts, completions, temperature)
        with torch.no_grad():
            found = model_pass(Whole(model) if whole else model, given, temperature)
    written = [row for several in completions for row in several]
    assert len(given) == len(written) == len(found.log_probs)
    for row, (law, tokens) in enumerate(zip(expected, written, strict=True)):
        live = given.mask[row]
        assert int(live.sum()) == len(tokens)
        assert given.tokens[row][live].tolist() == tokens
        torch.testing.assert_close(found.law()[row][live], law, rtol=0, atol=1e-12)
        torch.testing.assert_close(found.log_probs[row][live], law[range(len(tokens)), tokens], rtol=0, atol=1e-12)


def test_what_stands_at_padding_does_not_matter(model: Any) -> None:
    one, other = sequences(), sequences(filler=5, extra=3)
    assert one.ids.shape == other.ids.shape  # cut to the longest
    assert not torch.equal(one.ids, other.ids)
    first, second = (scored(model, each).log_probs[each.mask] for each in (one, other))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_some_of_the_sequences_are_scored_as_all_are(model: Any) -> None:
    given = sequences()
    rows = torch.tensor([3, 0])
    part, whole = scored(model, given.take(rows)), scored(model, given)
    mask = given.mask[rows]
    torch.testing.assert_close(part.log_probs[mask], whole.log_probs[rows][mask], rtol=0, atol=1e-12)
    torch.testing.assert_close(given.take(slice(1, 3)).ids, given.ids[1:3])


def test_every_law_adds_up_to_one_and_holds_the_tokens(model: Any) -> None:
    found = scored(model, given := sequences(), 0.8)
    assert found.law().shape == (*given.mask.shape, VOCAB)
    torch.testing.assert_close(found.law().exp().sum(-1), torch.ones(given.mask.shape, dtype=torch.float64))
    torch.testing.assert_close(found.law().gather(-1, given.tokens[..., None])[..., 0], found.log_probs)


def test_other_tokens_of_the_same_states(model: Any) -> None:
    found = scored(model, sequences(), 1.3)
    ids = TopK.of(found.law().flip(-1), 3).ids  # any tokens
    topk = TopK(ids, torch.zeros(ids.shape, dtype=torch.float32))
    torch.testing.assert_close(found.on(topk), found.law().gather(-1, ids.long()))


def test_gradients_reach_the_model_but_not_through_other_tokens(model: Any) -> None:
    found = model_pass(model, sequences())
    assert found.log_probs.requires_grad
    assert found.law().requires_grad
    ids = torch.zeros((*found.log_probs.shape, 1), dtype=torch.int32)
    assert not found.on(TopK(ids, ids.float())).requires_grad


@pytest.mark.parametrize(
    ("dtype", "computed"),
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)],
)
def test_laws_are_computed_in_float32_at_least(model: Any, dtype: Any, computed: Any) -> None:
    other = build(TinyQwen3(hidden=16, layers=2, heads=2, context=16), VOCAB, np.random.default_rng(2)).to(dtype)
    given = sequences()
    found = model_pass(other, given)
    assert found.logits.dtype == found.log_normaliser.dtype == found.log_probs.dtype == computed
    torch.testing.assert_close(
        found.log_probs[given.mask].double(), scored(model, given).log_probs[given.mask], rtol=0, atol=0.05
    )


TOKENS, THERE = np.array([[1, 2], [3, 0]]), np.array([[True, True], [True, False]])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"mask": THERE.astype(int)}, "mask must be boolean"),
        ({"mask": THERE[:, :1]}, "mask has shape"),
        ({"mask": ~THERE}, "mask has padding before a token"),
        ({"prompt": np.array([0])}, "prompt has shape"),
        ({"prompt": np.array([0, 1])}, "prompt must lie from 0 to 0"),
        ({"prompt": np.array([0.0, 0.0])}, "prompt must hold integers"),
        ({"tokens": TOKENS.astype(float)}, "tokens must hold integers"),
        ({"prompts": [np.array([[1, 2]])]}, "prompts has shape"),
    ],
)
def test_sequences_of_another_shape_or_dtype_are_refused(wrong: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"prompts": [np.array([1, 2])], "prompt": np.zeros(2, int), "tokens": TOKENS, "mask": THERE}
    PaddedSequences.of(**given, device="cpu")
    with pytest.raises((TypeError, ValueError), match=said):
        PaddedSequences.of(**(given | wrong), device="cpu")


def test_a_place_beyond_the_ids_is_refused(model: Any) -> None:
    given = PaddedSequences(torch.tensor([[1, 2, 3]]), torch.tensor([[2]]), torch.tensor([[True]]))
    with pytest.raises(ValueError, match="places must lie from 0 to 1"):
        model_pass(model, given)
    for field in ({"mask": given.mask.long()}, {"places": given.places[0]}, {"ids": given.ids.double()}):
        with pytest.raises((TypeError, ValueError), match=next(iter(field))):
            dataclasses.replace(given, **field)
    with pytest.raises(TypeError, match="rows must hold integers"):
        given.take(torch.tensor([True]))


def test_laws_stand_on_the_tokens_that_the_sampler_kept(model: Any) -> None:
    given = sequences()
    keep = torch.rand((*given.mask.shape, VOCAB), generator=torch.Generator().manual_seed(0)) < 0.5
    keep.scatter_(-1, torch.where(given.mask, given.tokens, 0)[..., None], value=True)
    keep[0, 0] = True
    count = keep.sum(-1).reshape(-1).numpy()
    kept = SamplingMask(
        torch.nonzero(keep.reshape(-1, VOCAB))[:, 1].int().numpy(),
        np.concatenate([[0], np.cumsum(count)]),
        np.arange(given.mask.numel()).reshape(given.mask.shape),
    )
    plain, cut = scored(model, given), scored(model, dataclasses.replace(given, kept=kept))
    wanted = torch.log_softmax(plain.logits.masked_fill(~keep, -torch.inf), -1)
    torch.testing.assert_close(cut.law()[given.mask], wanted[given.mask], rtol=0, atol=1e-12)
    chosen = wanted.gather(-1, given.tokens[..., None])[..., 0]
    torch.testing.assert_close(cut.log_probs[given.mask], chosen[given.mask], rtol=0, atol=1e-12)
    rows = torch.tensor([2, 0])
    part = scored(model, dataclasses.replace(given, kept=kept).take(rows))
    torch.testing.assert_close(part.log_probs[given.mask[rows]], chosen[rows][given.mask[rows]], rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"kept\.places has shape"):
        dataclasses.replace(given, kept=kept.take(slice(0, 1)))
