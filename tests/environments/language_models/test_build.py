"""Models made from a seed or read from a folder, and what is refused at the door."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from jackpot_sim.environments.language_models.build import (  # noqa: E402
    Checkpoint,
    Model,
    TinyQwen3,
    build,
    check_model,
    check_same_vocabulary,
    load_tokenizer,
)
from jackpot_sim.environments.language_models.library import in_double  # noqa: E402
from jackpot_sim.environments.language_models.scoring import CausalLM  # noqa: E402
from jackpot_sim.environments.prefix_tree import PrefixTree  # noqa: E402

SMALL = TinyQwen3(hidden=16, context=12)
VOCAB = 5
PROMPTS, TREE = np.array([[0, 1, 2]]), PrefixTree(VOCAB, 2)


def made(seed: int = 0, config: TinyQwen3 = SMALL, vocab: int = VOCAB) -> Model:
    return build(config, vocab, np.random.default_rng(seed))


def save_tokenizer(path: Path, *words: str) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: at for at, word in enumerate(words)}, words[0]))
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(path)


class Listener(logging.Handler):
    def __init__(self, heard: list[str]) -> None:
        super().__init__()
        self.heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record.getMessage())


@pytest.fixture
def folder(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Path:
    made().save_pretrained(tmp_path)
    capfd.readouterr()
    return tmp_path


def test_equal_generators_give_equal_bits_and_others_do_not() -> None:
    first, again, other = made(0), made(0), made(1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)
    assert {weight.dtype for weight in first.parameters()} == {torch.float64}
    assert not first.training


def test_the_global_generators_stay_as_they_were(folder: Path) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    made()
    build(Checkpoint(path=folder), VOCAB, np.random.default_rng(0))
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # type: ignore[index]  # noqa: NPY002


@pytest.mark.parametrize("vocab", [4, 16, 64])
def test_a_random_model_is_neither_uniform_nor_certain(vocab: int) -> None:
    tree = PrefixTree(vocab, 2)
    laws = np.stack(
        [CausalLM(made(seed, TinyQwen3(), vocab)).log_probs(np.array([[1, 2]]), tree)[0] for seed in range(5)]
    )
    entropy = -np.mean(np.sum(np.exp(laws) * laws, axis=-1)) / np.log(vocab)
    assert 0.5 < entropy < 0.8
    assert np.mean(np.std(laws, axis=1)) > 0.3  # between prefixes


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"hidden": 0}, "hidden must be an integer of at least 1, got 0"),
        ({"hidden": 10, "heads": 2}, r"hidden=10 must be a multiple of 2 · heads, that is of 4"),
        ({"heads": 2, "kv_heads": 3}, "kv_heads=3 must divide heads=2"),
        ({"layers": 1.5}, "layers must be an integer"),
        ({"context": 1}, "context must be an integer of at least 2"),
        ({"initial_scale": float("nan")}, "initial_scale must be positive"),
    ],
)
def test_a_config_out_of_range_is_refused(given: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        TinyQwen3(**given)


def test_a_saved_model_comes_back_with_the_same_law(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = build(Checkpoint(path=folder), VOCAB, np.random.default_rng(1))
    assert np.array_equal(CausalLM(model).log_probs(PROMPTS, TREE), CausalLM(made()).log_probs(PROMPTS, TREE))
    assert not model.training
    assert "".join(capfd.readouterr()) == ""  # neither progress bars nor reports
    assert transformers.utils.logging.is_progress_bar_enabled()


def spoil_weights(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(path / "model.safetensors")
    change(weights)
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})


SPOILT: list[tuple[Callable[[Path], Any], str]] = [
    (lambda path: (path / "config.json").unlink(), "there is no config.json"),
    (lambda path: (path / "config.json").write_text("{"), "cannot read a causal language model"),
    (lambda path: (path / "model.safetensors").unlink(), "cannot read a causal language model"),
    (lambda path: (path / "model.safetensors").write_bytes(b"1234567890"), "cannot read a causal language model"),
    (lambda path: spoil_weights(path, lambda w: w.pop("model.norm.weight")), "1 weights are missing, .*model.norm"),
    (
        lambda path: spoil_weights(path, lambda w: w.update({"model.norm.weight": torch.ones(3)})),
        "cannot read a causal language model",
    ),
    (
        lambda path: spoil_weights(path, lambda w: w["model.layers.1.mlp.up_proj.weight"][0, 0].fill_(torch.inf)),
        r"NaN or inf in its weight model.layers.1.mlp.up_proj.weight",
    ),
]


@pytest.mark.parametrize(("spoil", "error"), SPOILT, ids=[error for _, error in SPOILT])
def test_a_checkpoint_that_cannot_be_used_says_so_in_one_sentence(
    folder: Path, spoil: Callable[[Path], Any], error: str
) -> None:
    spoil(folder)
    with pytest.raises(ValueError, match=error) as caught:
        build(Checkpoint(path=folder), VOCAB, np.random.default_rng(0))
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_refused_checkpoint_is_not_reported_twice(folder: Path) -> None:
    library, heard = transformers.utils.logging, list[str]()
    handler = Listener(heard)
    spoil_weights(folder, lambda weights: weights.pop("model.norm.weight"))
    library.add_handler(handler)
    try:
        library.get_logger("transformers.modeling_utils").warning("heard")
        with pytest.raises(ValueError, match="weights are missing"):
            build(Checkpoint(path=folder), VOCAB, np.random.default_rng(0))
        library.get_logger("transformers.modeling_utils").warning("heard again")
    finally:
        logging.getLogger("transformers").removeHandler(handler)
    assert heard == ["heard", "heard again"]


def test_a_checkpoint_with_another_vocabulary_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"has a vocabulary of 5 .*one of 6: give vocab=5"):
        build(Checkpoint(path=folder), 6, np.random.default_rng(0))


def test_check_model_names_the_model_and_what_is_wrong() -> None:
    model = made()
    check_model(model, "the actor", vocab=VOCAB, positions=12)
    with pytest.raises(ValueError, match=r"the actor reads at most 12 tokens: .* would be 13"):
        check_model(model, "the actor", positions=13)
    model.config.vocab_size = 7
    with pytest.raises(ValueError, match=r"the actor has a vocabulary of 5 \(rows of the output embedding\), .* 7:"):
        check_model(model, "the actor", vocab=7)
    with torch.no_grad():
        model.model.norm.weight[3] = torch.nan
    with pytest.raises(ValueError, match=r"the actor holds NaN or inf in its weight model.norm.weight"):
        check_model(model, "the actor")


def test_a_folder_without_a_tokenizer_has_none(folder: Path) -> None:
    assert load_tokenizer(folder) is None
    save_tokenizer(folder, "a", "b", "c", "d", "e")
    found = load_tokenizer(folder)
    assert found is not None
    assert found.get_vocab()["c"] == 2
    (folder / "tokenizer.json").write_text(json.dumps({"version": "none"}))
    with pytest.raises(ValueError, match="cannot read the tokenizer"):
        load_tokenizer(folder)


def test_two_models_must_speak_of_the_same_tokens(tmp_path: Path) -> None:
    for name, words in (("policy", "abcde"), ("actor", "abdce"), ("shorter", "abcd")):
        save_tokenizer(tmp_path / name, *words)
    policy, actor, shorter = (load_tokenizer(tmp_path / name) for name in ("policy", "actor", "shorter"))
    check_same_vocabulary(made(), made(1))
    check_same_vocabulary(made(), made(1), policy, policy)
    check_same_vocabulary(made(), made(1), policy, None)
    with pytest.raises(ValueError, match="'c' has id 2 for the policy's tokenizer and 3 for the actor's"):
        check_same_vocabulary(made(), made(1), policy, actor)
    with pytest.raises(ValueError, match="'e' has id 4 for the policy's tokenizer and None for the actor's"):
        check_same_vocabulary(made(), made(1), policy, shorter)
    with pytest.raises(ValueError, match="the policy has a vocabulary of 5 and the actor one of 4"):
        check_same_vocabulary(made(), made(vocab=4))


def test_in_double_leaves_no_step_of_a_float64_model_in_float32() -> None:
    model, seen = made(), []
    with in_double(model):
        one = torch.ones(3, dtype=torch.float64)
        seen = [one.float(), one.to(torch.float32), one.to(dtype=torch.float32), torch.softmax(one, 0, torch.float32)]
    assert {tensor.dtype for tensor in seen} == {torch.float64}
    with in_double(model.to(torch.float32)):
        assert one.float().dtype == torch.float32
