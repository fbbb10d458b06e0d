"""Log-probs of a missing side, recomputed by a real checkpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jackpot_sim.environments.language_models.checkpoints import Precision
from jackpot_sim.environments.language_models.sampling_law import SamplingLaw
from jackpot_sim.readers.errors import DumpError
from jackpot_sim.readers.sequence import DumpedSequence
from tests.environments.tiny_checkpoints import save_checkpoint
from tests.readers.formats.one_sided import openai_text, vllm
from tests.readers.formats.reading import read
from tests.readers.formats.rollouts import Rollout
from tests.readers.formats.rollouts import rollouts as rollouts
from tests.readers.formats.trainers import slime_train

pytest.importorskip("torch")
pytest.importorskip("transformers")

from jackpot_sim.diagnose.recompute import Recompute, TokenizerMismatchError, with_policy

EXACT: dict[str, Any] = {"precision": Precision.FP64, "device": "cpu"}


@pytest.fixture
def one_sided(rollouts: list[Rollout], tmp_path: Path) -> list[DumpedSequence]:
    return read("vllm", vllm(tmp_path, rollouts))


@pytest.mark.parametrize("tokens", [1, 24, 1 << 13])
def test_the_policy_is_that_of_the_rollouts_in_batches_of_any_size(
    one_sided: list[DumpedSequence], rollouts: list[Rollout], checkpoints: Path, tokens: int
) -> None:
    found = list(with_policy(one_sided, checkpoints / "policy", tokens=tokens, **EXACT))
    assert [each.name for each in found] == [each.name for each in one_sided]
    for sequence, rollout in zip(found, rollouts, strict=True):
        np.testing.assert_allclose(sequence.policy_log_probs, rollout.policy_log_probs, rtol=1e-6)
        np.testing.assert_allclose(sequence.entropy, rollout.entropy, rtol=1e-6)
        np.testing.assert_array_equal(sequence.actor_log_probs, rollout.actor_log_probs)
        assert sequence.policy_topk is not None
        np.testing.assert_array_equal(sequence.policy_topk.ids, rollout.policy_topk.ids)
        np.testing.assert_allclose(sequence.policy_topk.log_probs, rollout.policy_topk.log_probs, rtol=1e-6)


def test_the_actor_can_be_recomputed_and_the_temperature_counts(
    one_sided: list[DumpedSequence], rollouts: list[Rollout], checkpoints: Path
) -> None:
    bare = [dataclasses.replace(each, actor_log_probs=None, actor_topk=None) for each in one_sided]
    actor = Recompute(checkpoints / "actor", side="actor", **EXACT)
    for sequence, rollout in zip(actor.sequences(bare), rollouts, strict=True):
        np.testing.assert_allclose(sequence.actor_log_probs, rollout.actor_log_probs, rtol=1e-6)
        assert sequence.policy_log_probs is None
    hot = dataclasses.replace(actor, sampling=SamplingLaw(temperature=2.0))
    first = next(hot.sequences(bare))
    assert first.actor_log_probs is not None
    assert np.abs(first.actor_log_probs - rollouts[0].actor_log_probs).max() > 0.01


def test_a_side_that_is_there_stays_unless_it_is_asked_for(
    rollouts: list[Rollout], checkpoints: Path, tmp_path: Path
) -> None:
    whole = read("slime", slime_train(tmp_path, rollouts))
    kept = list(with_policy(whole, checkpoints / "actor", **EXACT))
    assert all(found is given for found, given in zip(kept, whole, strict=True))
    anew = list(with_policy(whole, checkpoints / "actor", anew=True, **EXACT))
    for sequence, rollout in zip(anew, rollouts, strict=True):
        np.testing.assert_allclose(sequence.policy_log_probs, rollout.actor_log_probs, rtol=1e-6)


def test_one_checkpoint_for_several_steps_is_said_once(
    one_sided: list[DumpedSequence], checkpoints: Path, caplog: pytest.LogCaptureFixture
) -> None:
    steps = [dataclasses.replace(each, step=at // 2) for at, each in enumerate(one_sided)]
    for given, times in ((steps, 1), (steps[:2], 0)):
        caplog.clear()
        list(with_policy(given, checkpoints / "policy", tokens=1, **EXACT))
        assert sum("several training steps" in each.message for each in caplog.records) == times


LETTERS = ("<end>", *"abcd")


@pytest.fixture(scope="module")
def lettered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The policy's checkpoint with a tokenizer that makes a token of every letter."""
    import tokenizers
    import transformers

    path = save_checkpoint(tmp_path_factory.mktemp("lettered"), 0)
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: at for at, word in enumerate(LETTERS)}, unk_token="<end>")
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("<end>|."), "isolated")
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>").save_pretrained(path)
    return path


def test_text_becomes_the_very_tokens(rollouts: list[Rollout], lettered: Path, tmp_path: Path) -> None:
    given = read("openai", openai_text(tmp_path, rollouts))
    for sequence, rollout in zip(with_policy(given, lettered, **EXACT), rollouts, strict=True):
        np.testing.assert_array_equal(sequence.token, rollout.token)
        np.testing.assert_allclose(sequence.policy_log_probs, rollout.policy_log_probs, rtol=1e-6)


def test_a_prompt_may_be_text(rollouts: list[Rollout], lettered: Path, tmp_path: Path) -> None:
    given = read("openai", openai_text(tmp_path, rollouts))
    spelt = [
        dataclasses.replace(each, prompt=None, prompt_text="".join(LETTERS[token] for token in rollout.prompt))
        for each, rollout in zip(given, rollouts, strict=True)
    ]
    for sequence, rollout in zip(with_policy(spelt, lettered, **EXACT), rollouts, strict=True):
        np.testing.assert_array_equal(sequence.prompt, rollout.prompt)
        np.testing.assert_allclose(sequence.policy_log_probs, rollout.policy_log_probs, rtol=1e-6)


def test_another_tokenizer_is_told(rollouts: list[Rollout], lettered: Path, tmp_path: Path) -> None:
    given = read("openai", openai_text(tmp_path, rollouts))
    other = [dataclasses.replace(each, text=("ab", *each.text[1:])) for each in given if each.text]
    with pytest.raises(TokenizerMismatchError, match=r"token 0 is 'ab' in the dump and 'a' by the tokenizer of"):
        list(with_policy(other, lettered, **EXACT))
    large = dataclasses.replace(given[0], token=np.array([1, 99]), actor_log_probs=np.zeros(2))
    with pytest.raises(TokenizerMismatchError, match="token 99 is none of the 5 tokens"):
        list(with_policy([large], lettered, **EXACT))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"prompt": None}, r"the prompt is missing, .* add prompt_token_ids"),
        ({"prompt": np.array([], dtype=np.int64)}, "the prompt is empty"),
        ({"token": None}, "the tokens are missing"),
        ({"prompt": np.ones(40, dtype=np.int64)}, "reads at most 32 tokens"),
        ({"position": np.array([3, 4])}, "tokens between those of the dump are missing"),
    ],
)
def test_what_cannot_be_recomputed_is_refused_and_the_rest_goes_on(
    one_sided: list[DumpedSequence], checkpoints: Path, changes: dict[str, Any], says: str
) -> None:
    if "position" in changes:
        changes = {"position": np.arange(len(one_sided[0].token)) + 1}  # type: ignore[arg-type]
    given = [dataclasses.replace(one_sided[0], **changes), *one_sided[1:]]
    with pytest.raises(DumpError, match=says):
        list(with_policy(given, checkpoints / "policy", **EXACT))
    errors: list[DumpError] = []
    found = list(with_policy(given, checkpoints / "policy", refuse=errors.append, **EXACT))
    assert [each.name for each in found] == [each.name for each in one_sided[1:]]
    assert len(errors) == 1


def test_text_without_a_tokenizer_is_refused(rollouts: list[Rollout], checkpoints: Path, tmp_path: Path) -> None:
    given = read("openai", openai_text(tmp_path / "answers", rollouts))
    bare = save_checkpoint(tmp_path / "bare", 0)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (bare / name).unlink()
    with pytest.raises(DumpError, match="prompt or tokens are text, and there is no tokenizer"):
        list(with_policy(given, bare, **EXACT))
