"""Scores of a whole tree against reading every prefix by itself, for every kind of cache and window."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from jackpot_sim.core.arrays import Floats, Ints  # noqa: E402
from jackpot_sim.core.numerics import log_softmax  # noqa: E402
from jackpot_sim.environments.language_models.altered import with_sliding_window  # noqa: E402
from jackpot_sim.environments.language_models.build import Checkpoint, Model, build  # noqa: E402
from jackpot_sim.environments.language_models.derivatives import log_prob_features, parameter_gradient  # noqa: E402
from jackpot_sim.environments.language_models.library import in_double, logits, rounding_cache  # noqa: E402
from jackpot_sim.environments.language_models.scoring import CausalLM  # noqa: E402
from jackpot_sim.environments.prefix_tree import PrefixTree  # noqa: E402
from tests.environments.language_models.tiny_models import (  # noqa: E402
    ARCHITECTURES,
    CONTEXT,
    MODEL,
    PROMPTS,
    TREES,
    VOCAB,
    check_gradient_in_features,
    gpt2,
    in_blocks_of,
)


def quarters(x: Any) -> Any:
    return torch.round(4 * x) / 4


def colder(log_probs: Floats) -> Floats:
    return np.asarray(log_softmax(log_probs / 0.5))


def policies() -> dict[str, CausalLM]:
    windowed = with_sliding_window(MODEL, 3)
    return {
        "plain": CausalLM(MODEL),
        "rounding cache": CausalLM(MODEL, lambda: rounding_cache(MODEL.config, quarters)),
        "float32 cache": CausalLM(MODEL, lambda: rounding_cache(MODEL.config, lambda x: x.float().double())),
        "window": CausalLM(windowed),
        "window and rounding": CausalLM(windowed, lambda: rounding_cache(windowed.config, quarters)),
        "colder": CausalLM(MODEL, transform=colder),
    }


POLICIES = policies()
each_policy = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
each_tree = pytest.mark.parametrize("tree", TREES, ids=["all of one length", "with an end token"])


def prefix_tokens(tree: PrefixTree, row: int) -> list[int]:
    tokens: list[int] = []
    while tree.parent[row] >= 0:
        tokens, row = [int(tree.last_token[row]), *tokens], tree.parent[row]
    return tokens


def brute_force(policy: CausalLM, prompts: Ints, tree: PrefixTree) -> Floats:
    """Every prefix read whole and alone."""
    out = np.empty((len(prompts), tree.prefixes, tree.vocab))
    with torch.inference_mode(), in_double(policy.model):
        for number, prompt in enumerate(prompts):
            for row in range(tree.prefixes):
                read = torch.tensor([[*prompt.tolist(), *prefix_tokens(tree, row)]])
                cache = None if policy.new_cache is None else policy.new_cache()
                out[number, row] = torch.log_softmax(logits(policy.model, read, cache=cache)[0, -1], -1).numpy()
    return out if policy.transform is None else policy.transform(out)


class Reads:
    """The shapes of what a model was given to read while this lasted."""

    def __init__(self, model: Model) -> None:
        self.model, self.shapes = model, list[tuple[int, int]]()

    def __enter__(self) -> list[tuple[int, int]]:
        self.hook = self.model.register_forward_pre_hook(lambda _, given: self.shapes.append(tuple(given[0].shape)))
        return self.shapes

    def __exit__(self, *_: object) -> None:
        self.hook.remove()


@each_policy
@each_tree
def test_the_tree_is_scored_as_each_prefix_alone_and_as_whole_sequences(policy: CausalLM, tree: PrefixTree) -> None:
    scores = policy.log_probs(PROMPTS, tree)
    np.testing.assert_allclose(scores, brute_force(policy, PROMPTS, tree), rtol=0, atol=1e-10)
    sequences = tree.sequences
    for prompt, table in zip(PROMPTS, scores, strict=True):
        along = policy.log_probs_along(prompt, sequences.token)
        assert np.max(np.abs(table[sequences.prefix] - along)[sequences.mask]) < 1e-10
        assert np.sum(np.exp(sequences.log_probs(table))) == pytest.approx(1, abs=1e-12)


def test_a_rounding_cache_keeps_and_gives_rounded_keys_and_values() -> None:
    cache, generator = rounding_cache(MODEL.config, quarters), torch.Generator().manual_seed(0)
    for new in (3, 1):
        keys, values = torch.randn(2, 1, 1, new, 8, generator=generator, dtype=torch.float64)
        given = cache.update(keys, values, 0)
        for rounded, exact in zip(given, (keys, values), strict=True):
            assert torch.equal(rounded[..., -new:, :], quarters(exact))
    assert torch.equal(given[0], cache.layers[0].keys)
    assert torch.equal(given[1], cache.layers[0].values)


def test_the_policies_differ() -> None:
    tables = [policy.log_probs(PROMPTS, TREES[0]) for policy in POLICIES.values()]
    apart = [np.max(np.abs(a - b)) for i, a in enumerate(tables) for b in tables[:i]]
    assert min(apart) > 1e-9  # float32 keys are that close


@pytest.mark.parametrize(("name", "rows"), [*zip(POLICIES, [1, 3, 5, 3, 5, 1], strict=True), ("window", 5)])
def test_small_blocks_change_nothing(name: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, tree = POLICIES[name], TREES[1]
    whole = policy.log_probs(PROMPTS, tree), policy.log_probs_along(PROMPTS[0], tree.sequences.token)
    uniforms = np.random.default_rng(0).random((20, tree.length))
    drawn = policy.draw(PROMPTS[0], uniforms, tree.end_token)
    in_blocks_of(rows, monkeypatch, tree)
    np.testing.assert_allclose(policy.log_probs(PROMPTS, tree), whole[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(policy.log_probs_along(PROMPTS[0], tree.sequences.token), whole[1], rtol=0, atol=1e-12)
    assert all(map(np.array_equal, policy.draw(PROMPTS[0], uniforms, tree.end_token), drawn))


@pytest.mark.parametrize("rows", [2, 1000])
def test_each_prefix_is_one_new_token_and_no_block_is_larger(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = TREES[0]
    in_blocks_of(rows, monkeypatch, tree)
    with Reads(MODEL) as shapes:
        CausalLM(MODEL).log_probs(PROMPTS, tree)
    prompts = [shape for shape in shapes if shape[1] > 1]
    assert sum(count for count, _ in prompts) == len(PROMPTS)
    assert sum(count for count, new in shapes if new == 1) == len(PROMPTS) * (tree.prefixes - 1)
    assert max(count for count, _ in shapes) <= rows
    assert rows == 2 or len(shapes) == tree.length  # a level at a time, all prompts together


@each_policy
@each_tree
def test_draw_takes_the_tokens_that_the_table_gives(policy: CausalLM, tree: PrefixTree) -> None:
    uniforms = np.random.default_rng(1).random((300, tree.length))
    with Reads(policy.model) as shapes:
        tokens, mask = policy.draw(PROMPTS[1], uniforms, tree.end_token)
    expected = tree.draw(policy.log_probs(PROMPTS[1:2], tree)[0], uniforms)
    assert np.array_equal(tokens, expected.token)
    assert np.array_equal(mask, expected.mask)
    assert tokens.dtype == np.int64
    assert sum(count for count, new in shapes if new == 1) == np.sum(mask[:, 1:])  # what has ended is not read


def test_drawing_ends_when_all_have_ended() -> None:
    always = CausalLM(MODEL, transform=lambda laws: np.broadcast_to(np.log([0.0, 1.0, 0.0, 0.0]), laws.shape))
    with np.errstate(divide="ignore"), Reads(MODEL) as shapes:
        tokens, mask = always.draw(PROMPTS[0], np.full((3, 4), 0.5), 1)
    assert len(shapes) == 1
    assert mask.tolist() == [[True, False, False, False]] * 3
    assert tokens.tolist() == [[1, 0, 0, 0]] * 3


def test_a_window_counts_its_own_token() -> None:
    windowed = CausalLM(with_sliding_window(MODEL, 3))
    reach = 2 * (3 - 1)  # layers · (window − 1)
    prompt = np.array([0, 1, 2, 1, 3, 0, 2, 2])
    law = windowed.log_probs_along(prompt, [[0]])[0, 0]
    for back in range(len(prompt)):
        changed = prompt.copy()
        changed[-1 - back] = 3 - changed[-1 - back]
        other = windowed.log_probs_along(changed, [[0]])[0, 0]
        assert np.array_equal(law, other) == (back > reach)
        whole = CausalLM(MODEL).log_probs_along
        assert not np.array_equal(whole(changed, [[0]]), whole(prompt, [[0]]))


def test_a_window_is_a_copy() -> None:
    windowed = with_sliding_window(MODEL, 3)
    assert all(torch.equal(a, b) for a, b in zip(windowed.parameters(), MODEL.parameters(), strict=True))
    assert not {w.data_ptr() for w in windowed.parameters()} & {w.data_ptr() for w in MODEL.parameters()}
    assert MODEL.config.layer_types == ["full_attention"] * 2
    before = torch.get_rng_state()
    with_sliding_window(MODEL, 4)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_a_checkpoint_of_any_architecture(config: Callable[[], Any], tmp_path: Path, monkeypatch: Any) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.AutoModelForCausalLM.from_config(config()).save_pretrained(tmp_path)
    model, tree = build(Checkpoint(path=tmp_path), VOCAB, np.random.default_rng(0)), TREES[1]
    policy = CausalLM(model)
    in_blocks_of(7, monkeypatch, tree)
    np.testing.assert_allclose(policy.log_probs(PROMPTS, tree), brute_force(policy, PROMPTS, tree), rtol=0, atol=1e-10)
    check_gradient_in_features(model, PrefixTree(VOCAB, 2))


def test_a_float32_model_is_scored_as_it_is() -> None:
    narrow = with_sliding_window(MODEL, CONTEXT).to(torch.float32)
    scores = CausalLM(narrow).log_probs(PROMPTS, TREES[0])
    assert scores.dtype == np.float64
    assert 1e-9 < np.max(np.abs(scores - CausalLM(MODEL).log_probs(PROMPTS, TREES[0]))) < 1e-4


PLAIN, TREE = CausalLM(MODEL), TREES[0]
BAD: dict[str, Callable[[], Any]] = {
    "prompts must hold token ids on 2 axes": lambda: PLAIN.log_probs(PROMPTS[0], TREE),
    "prompts must hold token ids .* float64": lambda: PLAIN.log_probs(PROMPTS * 1.0, TREE),
    r"prompts must hold .* shape \(1, 0\)": lambda: PLAIN.log_probs(np.zeros((1, 0), dtype=int), TREE),
    "prompts holds tokens from 0 to 4: the vocabulary is 0 to 3": lambda: PLAIN.log_probs([[0, 4]], TREE),
    "the model has a vocabulary of 4 .* 5: give vocab=4": lambda: PLAIN.log_probs(PROMPTS, PrefixTree(5, 2)),
    "the model reads at most 12 tokens: .* would be 13": lambda: PLAIN.log_probs(PROMPTS, PrefixTree(VOCAB, 8)),
    "tokens holds tokens from -1": lambda: PLAIN.log_probs_along(PROMPTS[0], [[0, -1]]),
    "at most 12 tokens": lambda: PLAIN.log_probs_along(PROMPTS[0], np.zeros((1, 8), dtype=int)),
    "prompt must hold token ids on 1 axes": lambda: PLAIN.draw(PROMPTS, np.zeros((2, 3)), None),
    "12 tokens: .* would be 14": lambda: PLAIN.draw(PROMPTS[0], np.zeros((2, 9)), None),
    r"transform made log-probs of shape \(3, 2\) from \(3, 4\)": lambda: CausalLM(
        MODEL, transform=lambda laws: laws[:, :2]
    ).log_probs(PROMPTS, TREE),
    r"table has shape \(3, 2, 4\): .* make \(3, 21, 4\)": lambda: parameter_gradient(
        MODEL, PROMPTS, TREE, np.zeros((3, 2, 4))
    ),
    "parameters are .* GiB and the limit is 0.000931 GiB": lambda: log_prob_features(MODEL, PROMPTS, TREE, 10**6),
    "window must be an integer of at least 2": lambda: with_sliding_window(MODEL, 1),
    "gpt2 models have no sliding window": lambda: with_sliding_window(
        transformers.AutoModelForCausalLM.from_config(gpt2()), 3
    ),
    "lfm2 models have no sliding window": lambda: with_sliding_window(
        transformers.AutoModelForCausalLM.from_config(ARCHITECTURES["lfm2, a recurrent state in one layer"]()), 3
    ),
    "the model is in training mode": lambda: CausalLM(with_sliding_window(MODEL, 3).train()).log_probs(PROMPTS, TREE),
}


@pytest.mark.parametrize(("error", "call"), BAD.items(), ids=BAD)
def test_what_cannot_be_scored_is_refused(error: str, call: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=error):
        call()
