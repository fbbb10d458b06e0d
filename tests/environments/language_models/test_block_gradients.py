"""Gradients in a block of parameters: against plain backward passes, features and differences."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from jackpot_sim.core.support import SamplingMask  # noqa: E402
from jackpot_sim.environments.language_models.block_gradients import (  # noqa: E402
    OtherTokens,
    block_of,
    gradients,
    token_log_probs,
)
from jackpot_sim.environments.language_models.derivatives import log_prob_features  # noqa: E402
from jackpot_sim.environments.language_models.library import in_double  # noqa: E402
from jackpot_sim.environments.prefix_tree import PrefixTree  # noqa: E402
from tests.environments.language_models.tiny_models import ARCHITECTURES, MODEL, VOCAB  # noqa: E402

BLOCKS = (("*",), ("lm_head.*",), ("model.layers.1.*", "lm_head.weight"), ("*norm*",))
PROMPTS = [np.array([0, 1, 2, 1, 3]), np.array([3, 2]), np.array([1, 0, 0])]
PROMPT = np.array([0, 1, 2, 1, 0, 2])
LENGTHS = np.array([5, 3, 1, 5, 2, 4])
GENERATOR = np.random.default_rng(0)
TOKENS = GENERATOR.integers(VOCAB, size=(6, 5))
MASK = np.arange(5) < LENGTHS[:, None]
COEFFICIENTS = np.where(MASK, GENERATOR.normal(size=(3, 6, 5)), np.nan)
"""The last sequence counts in one set alone, and the fifth in none."""
COEFFICIENTS[:, 4] = 0.0
COEFFICIENTS[:2, 5] = 0.0
DATA = (PROMPTS, PROMPT, TOKENS, MASK, COEFFICIENTS)


def log_prob(model: Any, row: int, temperature: float = 1.0) -> Any:
    """Σ over nothing: log p of every token of one sequence, read alone and unpadded."""
    ids = np.concatenate([PROMPTS[PROMPT[row]], TOKENS[row, : LENGTHS[row]]])
    with in_double(model):
        logits = model(torch.as_tensor(ids[None]), use_cache=False).logits[0, -LENGTHS[row] - 1 : -1]
    logits = logits.double() if model.dtype == torch.float64 else logits.float()
    laws = torch.log_softmax(logits / temperature, dim=-1)
    return laws[torch.arange(LENGTHS[row]), torch.as_tensor(TOKENS[row, : LENGTHS[row]])]


def plain(model: Any, patterns: Any, rows: Any, temperature: float = 1.0) -> Any:
    """By autograd on the whole model, sequence by sequence."""
    block = list(block_of(model, patterns).values())
    out = np.zeros((3, sum(weight.numel() for weight in block)))
    for row in rows:
        log_probs = log_prob(model, row, temperature)
        for kind in range(3):
            value = torch.as_tensor(COEFFICIENTS[kind, row, : LENGTHS[row]]).to(log_probs.dtype) @ log_probs
            found = torch.autograd.grad(value, block, retain_graph=True)
            out[kind] += np.concatenate([each.flatten().double().numpy() for each in found])
    return out


def together(model: Any, batches: Any, patterns: Any = ("*",), **options: Any) -> list[Any]:
    return list(gradients(model, *DATA, patterns=patterns, batches=batches, **options))


def random_model(name: str) -> Any:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(ARCHITECTURES[name](), dtype=torch.float64).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.3 * torch.randn(weight.shape, dtype=weight.dtype)
    return model


@pytest.mark.parametrize("patterns", BLOCKS)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_a_batch_is_the_sum_of_plain_backward_passes(patterns: Any, temperature: float) -> None:
    batches = [slice(0, 4), slice(4, 6)]
    found = together(MODEL, batches, patterns, temperature=temperature)
    assert [rows for rows, _ in found] == batches
    for rows, each in found:
        expected = plain(MODEL, patterns, range(6)[rows], temperature)
        assert np.max(np.abs(expected)) > 0.1
        np.testing.assert_allclose(each, expected, rtol=0, atol=1e-10 * np.max(np.abs(expected)))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_other_architectures(name: str) -> None:
    model = random_model(name)
    _, found = together(model, [slice(0, 6)])[0]
    expected = plain(model, ("*",), range(6))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * np.max(np.abs(expected)))


def test_sequences_alone_add_up_to_their_batch() -> None:
    alone = together(MODEL, (slice(i, i + 1) for i in range(6)))
    _, batch = together(MODEL, [slice(0, 6)])[0]
    np.testing.assert_allclose(sum(each for _, each in alone), batch, rtol=0, atol=1e-10)
    for row, (_, each) in enumerate(alone):
        np.testing.assert_allclose(each, plain(MODEL, ("*",), [row]), rtol=0, atol=1e-10)
    assert not alone[4][1].any()
    assert not alone[5][1][:2].any()
    assert alone[5][1][2].any()


def test_the_features_say_the_same() -> None:
    tree = PrefixTree(VOCAB, 3)
    prompts = np.array([[0, 1], [3, 3]])
    sequences = tree.sequences
    weight = np.random.default_rng(1).normal(size=(2, len(sequences), 3))
    features = log_prob_features(MODEL, prompts, tree)
    for prompt in range(2):
        table = np.array([sequences.scatter(each, (tree.prefixes, VOCAB)) for each in weight[prompt : prompt + 1]])
        expected = np.einsum("ksx,sxp->kp", table, features[prompt])
        where = np.full(len(sequences), prompt)
        given = (list(prompts), where, sequences.token, sequences.mask, weight[prompt : prompt + 1])
        blocks = (slice(start, start + 20) for start in range(0, len(sequences), 20))
        found = sum(each for _, each in gradients(MODEL, *given, patterns=("*",), batches=blocks))
        assert np.max(np.abs(expected)) > 0.1
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


def test_differences_say_the_same() -> None:
    patterns, generator = ("model.layers.1.*",), np.random.default_rng(2)
    _, found = together(MODEL, [slice(0, 6)], patterns, temperature=0.7)[0]

    def values(step: float, direction: Any) -> Any:
        moved = copy.deepcopy(MODEL)
        start = 0
        with torch.no_grad():
            for weight in block_of(moved, patterns).values():
                part = direction[start : start + weight.numel()].reshape(tuple(weight.shape))
                weight += step * torch.from_numpy(part)
                start += weight.numel()
            rows = [log_prob(moved, row, 0.7).numpy() for row in range(6)]
        return [sum(c[i, : LENGTHS[i]] @ each for i, each in enumerate(rows)) for c in COEFFICIENTS]

    direction = generator.normal(size=found.shape[1]) / np.sqrt(found.shape[1])
    difference = (np.array(values(1e-4, direction)) - values(-1e-4, direction)) / 2e-4
    np.testing.assert_allclose(found @ direction, difference, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_fewer_digits(dtype: Any, tolerance: float) -> None:
    model = copy.deepcopy(MODEL).to(dtype)
    _, found = together(model, [slice(0, 6)], ("lm_head.*",))[0]
    assert found.dtype == np.float64
    assert token_log_probs(model, *DATA[:4]).dtype == torch.float32
    exact = plain(copy.deepcopy(model).double(), ("lm_head.*",), range(6))
    assert np.linalg.norm(found - exact) < tolerance * np.linalg.norm(exact)


@pytest.mark.parametrize("endless", [np.nan, np.inf])
def test_what_is_not_finite_has_no_gradient_and_leaves_others_alone(endless: float) -> None:
    coefficients = COEFFICIENTS.copy()
    coefficients[2, 1, 0] = endless
    (_, first), (_, second) = gradients(
        MODEL, *DATA[:4], coefficients, patterns=("*",), batches=[slice(0, 2), slice(2, 6)]
    )
    assert np.isnan(first[2]).all()
    np.testing.assert_allclose(first[:2], plain(MODEL, ("*",), range(2))[:2], rtol=0, atol=1e-9)
    np.testing.assert_allclose(second, plain(MODEL, ("*",), range(2, 6)), rtol=0, atol=1e-9)


def test_log_probs_to_train_on() -> None:
    model = copy.deepcopy(MODEL)
    found = token_log_probs(model, *DATA[:4], temperature=0.6)
    expected = torch.cat([log_prob(model, row, 0.6) for row in range(6)])
    assert found.shape == (MASK.sum(),)
    np.testing.assert_allclose(found.detach(), expected.detach(), rtol=0, atol=1e-12)
    weight = torch.from_numpy(np.where(COEFFICIENTS[0] > 0, 1.0, 0.5)[MASK])
    block = list(model.parameters())
    mine, theirs = (torch.autograd.grad(weight @ each, block) for each in (found, expected))
    for first, second in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(first, second, rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="temperature"):
        token_log_probs(model, *DATA[:4], temperature=-1.0)


# ------------------------------------------------------------------------------------------ blocks


def test_a_tied_weight_is_there_once_under_any_of_its_names() -> None:
    model = random_model("gpt2")
    assert list(block_of(model, ("lm_head.*",))) == ["transformer.wte.weight"]
    assert list(block_of(model, ("lm_head.*", "transformer.wte.*"))) == ["transformer.wte.weight"]
    assert list(block_of(model, ("*",))) == [name for name, _ in model.named_parameters()]
    # Both uses count.
    _, found = together(model, [slice(0, 6)], ("lm_head.*",))[0]
    expected = plain(model, ("transformer.wte.weight",), range(6))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_a_block_is_a_part_of_the_whole() -> None:
    _, whole = together(MODEL, [slice(0, 6)])[0]
    _, part = together(MODEL, [slice(0, 6)], ("model.layers.1.*",))[0]
    at = 0
    parts = []
    for name, weight in MODEL.named_parameters():
        if name.startswith("model.layers.1."):
            parts.append(whole[:, at : at + weight.numel()])
        at += weight.numel()
    np.testing.assert_allclose(part, np.concatenate(parts, axis=1), rtol=0, atol=1e-12)


def test_nothing_below_the_block_is_differentiated(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = torch.nn.Embedding.forward

    def spy(self: Any, ids: Any) -> Any:
        out = original(self, ids)
        seen.append(out.requires_grad)
        return out

    monkeypatch.setattr(torch.nn.Embedding, "forward", spy)
    together(MODEL, [slice(0, 6)], ("lm_head.*",))
    together(MODEL, [slice(0, 6)], ("*embed_tokens*",))
    assert seen == [False, True]


def test_the_model_stays_as_it_was() -> None:
    model = copy.deepcopy(MODEL)
    weights = list(model.parameters())
    weights[0].requires_grad_(False)
    before = [(weight.clone(), weight.requires_grad) for weight in weights]
    running = gradients(model, *DATA, patterns=("lm_head.*",), batches=[slice(0, 2), slice(2, 6)])
    with torch.no_grad():
        next(running)  # between two slices nothing is different either
        assert [weight.requires_grad for weight in weights] == [flag for _, flag in before]
        with torch.inference_mode():
            together(model, [slice(0, 6)])
    assert all(torch.equal(weight, old) for weight, (old, _) in zip(weights, before, strict=True))
    assert all(weight.grad is None for weight in weights)
    assert [weight.requires_grad for weight in model.parameters()] == [flag for _, flag in before]
    assert not weights[0].requires_grad


# ------------------------------------------------------------------------------------------ errors


def test_a_block_must_exist() -> None:
    with pytest.raises(ValueError, match=r"no parameter matches 'layers\.9\.\*': there are 25, among them model\.emb"):
        block_of(MODEL, ("lm_head.*", "layers.9.*"))
    with pytest.raises(ValueError, match="patterns is empty"):
        block_of(MODEL, ())


def test_what_is_too_large_is_refused_with_its_size() -> None:
    with pytest.raises(ValueError, match=r"3 sets of coefficients in .* parameters are .* GiB and the limit is"):
        together(MODEL, [slice(0, 6)], limit=1000)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, [np.array([0, 4])], "prompt 0 holds tokens from 0 to 4"),
        (0, [np.zeros(9, int)] * 3, "reads at most 12 tokens"),
        (1, PROMPT + 1, "prompt holds 1 to 3: there are 3 prompts"),
        (1, PROMPT[:2], r"prompt has shape \(2,\)"),
        (2, TOKENS + 4, "tokens holds tokens from 0 to"),
        (2, TOKENS[:, :4], r"tokens has shape \(6, 4\)"),
        (3, ~MASK, "mask has a token after padding"),
        (4, COEFFICIENTS[0], r"coefficients has shape \(6, 5\)"),
        (4, COEFFICIENTS[:0], r"coefficients has shape \(0, 6, 5\)"),
    ],
)
def test_errors_name_the_argument(place: int, value: Any, message: str) -> None:
    given: list[Any] = list(DATA)
    given[place] = value
    with pytest.raises(ValueError, match=message):
        gradients(MODEL, *given, patterns=("*",), batches=[])


def test_options_are_checked_before_anything_runs() -> None:
    with pytest.raises(ValueError, match="temperature"):
        gradients(MODEL, *DATA, patterns=("*",), batches=[], temperature=0.0)
    with pytest.raises(ValueError, match="training mode"):
        gradients(copy.deepcopy(MODEL).train(), *DATA, patterns=("*",), batches=[])


def test_on_a_support_the_law_is_renormalised_before_it_is_differentiated() -> None:
    keep = np.random.default_rng(4).random((6, 5, VOCAB)) < 0.6
    np.put_along_axis(keep, TOKENS[..., None], True, axis=-1)
    keep[0] = True
    count = keep.sum(axis=-1).reshape(-1)
    ids = np.nonzero(keep.reshape(-1, VOCAB))[1].astype(np.int32)
    kept = SamplingMask(ids, np.concatenate([[0], np.cumsum(count)]), np.arange(30).reshape(6, 5))
    block = list(block_of(MODEL, ("*",)).values())
    for rows, found in together(MODEL, [slice(0, 4), slice(4, 6)], kept=kept, temperature=0.6):
        expected = np.zeros_like(found)
        for row in range(6)[rows]:
            ids_read = torch.as_tensor(np.concatenate([PROMPTS[PROMPT[row]], TOKENS[row, : LENGTHS[row]]])[None])
            with in_double(MODEL):
                logits = MODEL(ids_read, use_cache=False).logits[0, -LENGTHS[row] - 1 : -1] / 0.6
            scores = torch.where(torch.as_tensor(keep[row, : LENGTHS[row]]), logits, -torch.inf)
            chosen = torch.log_softmax(scores, -1)[torch.arange(LENGTHS[row]), TOKENS[row, : LENGTHS[row]]]
            for kind in range(3):
                value = torch.as_tensor(COEFFICIENTS[kind, row, : LENGTHS[row]]) @ chosen
                gradient = torch.autograd.grad(value, block, retain_graph=True)
                expected[kind] += np.concatenate([each.flatten().numpy() for each in gradient])
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * np.max(np.abs(expected)))
    whole = dict(enumerate(each for _, each in together(MODEL, [slice(0, 1)], temperature=0.6)))
    np.testing.assert_array_equal(together(MODEL, [slice(0, 1)], kept=kept, temperature=0.6)[0][1], whole[0])
    with pytest.raises(ValueError, match=r"kept\.places has shape"):
        together(MODEL, [slice(0, 6)], kept=kept.take(slice(0, 3)))


def test_other_tokens_of_the_same_states_join_the_sums() -> None:
    """As if each had been written in its place; sets share an array, and one has none."""
    generator = np.random.default_rng(5)
    ids = np.where(MASK[..., None], generator.integers(VOCAB, size=(6, 5, 2)), 0)
    table = np.where(MASK[..., None], generator.normal(size=(6, 5, 2)), np.nan)
    factors = generator.normal(size=(2, 6))
    others = OtherTokens(ids, [(factors[0], table), None, (factors[1], table)])
    block = list(block_of(MODEL, ("*",)).values())
    plain_ = [found for _, found in together(MODEL, [slice(0, 4), slice(4, 6)])]
    for (rows, found), without in zip(together(MODEL, [slice(0, 4), slice(4, 6)], others=others), plain_, strict=True):
        expected = without.copy()
        for row in range(6)[rows]:
            read = torch.as_tensor(np.concatenate([PROMPTS[PROMPT[row]], TOKENS[row, : LENGTHS[row]]])[None])
            with in_double(MODEL):
                laws = torch.log_softmax(MODEL(read, use_cache=False).logits[0, -LENGTHS[row] - 1 : -1], -1)
            at = laws.gather(-1, torch.as_tensor(ids[row, : LENGTHS[row]]))
            value = (torch.as_tensor(table[row, : LENGTHS[row]]) * at).sum()
            gradient = np.concatenate([each.flatten().numpy() for each in torch.autograd.grad(value, block)])
            for kind, factor in ((0, factors[0]), (2, factors[1])):
                expected[kind] += factor[row] * gradient
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * np.max(np.abs(expected)))
        np.testing.assert_allclose(found[1], without[1], rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"others has 1 sets, coefficients has 3"):
        together(MODEL, [slice(0, 6)], others=OtherTokens(ids, [None]))
    with pytest.raises(ValueError, match=r"others\.ids has shape"):
        together(MODEL, [slice(0, 6)], others=OtherTokens(ids[:3], [None] * 3))
    with pytest.raises(ValueError, match=r"factor has shape"):
        OtherTokens(ids, [(factors[0][:2], table)])
