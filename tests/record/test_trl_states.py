"""The actor's likeliest tokens on their way through TRL: found, placed, moved with their tokens, and given back."""

from __future__ import annotations

from typing import Any

import pytest

from jackpot_sim.record.trl_states import Law, Placed, Stored, likeliest, noting, placed, places
from tests.cases import each

torch = pytest.importorskip("torch")


def laws(rows: int, vocab: int, seed: int = 0) -> Any:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)


@each("vocab, k", [(5, 3), (5, 9), (640, 20), (655, 20), (4099, 1), (4099, 20)])
def test_the_likeliest_tokens_are_those_of_a_sort(vocab: int, k: int) -> None:
    law = laws(30, vocab)
    ids, log_probs = likeliest(law, k)
    expected = law.topk(min(k, vocab), dim=-1)
    assert torch.equal(ids, expected.indices.int())
    assert torch.equal(log_probs, expected.values)


def test_the_likeliest_of_a_law_cut_to_a_few_tokens_are_these() -> None:
    law = torch.full((2, 4099), -torch.inf)
    law[:, [7, 4098, 300]] = torch.tensor([0.5, 0.3, 0.2]).log()
    ids, log_probs = likeliest(law, 20)
    assert ids[:, :3].tolist() == [[7, 4098, 300]] * 2
    assert log_probs[:, 3:].isneginf().all()
    assert all(len(set(row.tolist())) == 20 for row in ids), "a token stands twice"


@pytest.mark.parametrize("seen_drawing", [True, False])
def test_a_law_gives_each_token_its_log_prob_and_its_place(seen_drawing: bool) -> None:
    drawn, stored, law = [[3, 1, 0], [2, 4]], Stored(), Law(topk=2)
    seen = [laws(2, 6, seed) for seed in range(3)]
    ids = torch.tensor([[5], [5]])
    for step, scores in enumerate(seen):
        assert law(ids, scores) is scores
        if seen_drawing:
            law.drawing_from(scores.softmax(-1))
            law.drawing_from(torch.ones(1))  # something else that is drawn
        ids = torch.cat([ids, torch.tensor([[row[step]] if step < len(row) else [0] for row in drawn])], dim=1)
    log_probs = law.of(drawn, stored)
    for row, own in enumerate(drawn):
        assert log_probs[row] == pytest.approx([float(seen[step][row, token]) for step, token in enumerate(own)])
    found = stored.at(places(log_probs), 3, torch.device("cpu"))
    assert found is not None
    for row, own in enumerate(drawn):
        for step in range(len(own)):
            assert torch.allclose(found[1][row, step], seen[step][row].topk(2).values)
            assert torch.equal(found[0][row, step], seen[step][row].topk(2).indices.int())


def test_places_go_with_tokens_through_lists_that_are_cut_and_joined() -> None:
    """As TRL does where a tool's answer stands between two turns."""
    stored = Stored()
    for turn in range(2):
        stored.add(torch.full((3, 2), turn, dtype=torch.int32), torch.tensor([[turn, float(at)] for at in range(3)]))
    first = [Placed(-1.0, 0), Placed(-2.0, 1), Placed(-3.0, 2)]
    second = [Placed(-4.0, 3), Placed(-5.0, 4), Placed(-6.0, 5)]
    joined = first[:2] + [0.0] * 2 + second[:1]
    assert torch.tensor(joined).tolist() == [-1.0, -2.0, 0.0, 0.0, -4.0]
    found = stored.at(places([joined]), 5, torch.device("cpu"))
    assert found is not None
    assert found[1][0, [0, 1, 4]].tolist() == [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]]


def test_an_engines_lists_give_the_sampled_token_and_the_likeliest() -> None:
    """The sampled token stands behind the likeliest, among them, or without a log-prob."""
    stored = Stored()
    completions = [[7, 1], [2]]
    ids = [[[3, 4, 7], [1, 5]], [[2, 9]]]
    log_probs: list[list[list[float | None]]] = [[[-0.5, -1.0, -4.0], [-0.1, -2.5]], [[None, -0.7]]]
    found = placed(completions, log_probs, ids, 2, stored, 10)
    assert found == [[[-4.0], [-0.1]], [[None]]]
    kept = stored.at(places([[each for (each,) in row] for row in found]), 2, torch.device("cpu"))
    assert kept is not None
    assert kept[0][0].tolist() == [[3, 4], [1, 5]]
    assert torch.equal(kept[1][0], torch.tensor([[-0.5, -1.0], [-0.1, -2.5]]))
    assert placed(completions, None, None, 2, stored, 10) is None
    assert placed([[]], [[]], [[]], 2, stored, 10) == [[]]


def test_nothing_stored_gives_nothing() -> None:
    assert Stored().at([[-1, -1]], 2, torch.device("cpu")) is None


def test_generation_and_drawing_are_seen_inside_alone() -> None:
    transformers = pytest.importorskip("transformers")
    before = transformers.GenerationMixin._get_logits_processor, torch.multinomial
    with noting() as law:
        law(torch.zeros(2, 1, dtype=torch.long), laws(2, 6))
        probs = laws(2, 6, seed=1).exp()
        torch.multinomial(probs, 1)
        assert law._law is probs
    assert (transformers.GenerationMixin._get_logits_processor, torch.multinomial) == before


GOOD_IDS, GOOD = [[[3, 1], [2, 0]], [[1, 2]]], [[[-0.5, -1.5], [-0.1, -3.0]], [[-1.0, -1.0]]]


@pytest.mark.parametrize(
    ("ids", "log_probs", "sentence"),
    [
        (None, GOOD, "one of them is missing"),
        (GOOD_IDS, None, "one of them is missing"),
        ([[3, 1], [2]], GOOD, "topk_ids must hold a list for each token"),
        (GOOD_IDS, GOOD[:1], "topk_logprobs must hold a list for each token"),
        (GOOD_IDS, [[[-0.5], [-0.1, -3.0]], [[-1.0, -1.0]]], "lists of different lengths"),
        ([[[], []], [[]]], [[[], []], [[]]], "topk_ids has an empty list"),
        ([[[3.5, 1], [2, 0]], [[1, 2]]], GOOD, "topk_ids must hold whole numbers"),
        ([[["a", "b"], [2, 0]], [[1, 2]]], GOOD, "must hold lists of numbers"),
        ([[[3, 3], [2, 0]], [[1, 2]]], GOOD, "topk_ids names a token twice"),
        ([[[3, 1], [2, 4]], [[1, 2]]], GOOD, "topk_ids holds 4, and the policy's tokens are 0 to 3"),
        ([[[3, 1], [2, -1]], [[1, 2]]], GOOD, "topk_ids holds -1"),
        (GOOD_IDS, [[[0.5, -1.5], [-0.1, -3.0]], [[-1.0, -1.0]]], "topk_logprobs must be log-probs"),
        (GOOD_IDS, [[[-0.5, float("nan")], [-0.1, -3.0]], [[-1.0, -1.0]]], "topk_logprobs must be log-probs"),
        (GOOD_IDS, [[[-0.5, -0.5], [-0.1, -3.0]], [[-1.0, -1.0]]], "add up to at most 1"),
        (GOOD_IDS, [[[-1.5, -0.5], [-0.1, -3.0]], [[-1.0, -1.0]]], "list the likeliest token first"),
    ],
)
def test_a_topk_of_a_rollout_function_that_is_none_is_refused(ids: Any, log_probs: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Stored().fill(ids, log_probs, [2, 1], 2, 4)
    assert Stored().fill(GOOD_IDS, GOOD, [2, 1], 2, 4) == [[0, 1], [2]]
    with pytest.raises(ValueError, match="topk_ids must hold a list for each token of each completion"):
        Stored().fill(GOOD_IDS, GOOD, [2, 2], 2, 4)


def test_an_engine_that_hides_the_token_it_wrote_or_writes_another_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no log-prob of token 7, which it wrote itself"):
        placed([[7]], [[[-0.5, -2.0]]], [[[3, 4]]], 2, Stored(), 10)
    with pytest.raises(ValueError, match=r"the engine's token ids holds 12, and the policy's tokens are 0 to 9"):
        placed([[7]], [[[-0.5, -2.0]]], [[[12, 7]]], 2, Stored(), 10)
