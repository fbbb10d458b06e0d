"""What the environment of tiny language models refuses, all of it before anything is trained."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from jackpot_sim.environments.language_models.build import Checkpoint, TinyQwen3
from jackpot_sim.environments.sequences.reward import TokenShareReward
from jackpot_sim.environments.sequences.small_lm import SmallLM
from jackpot_sim.environments.sources.kinds import SeparateActor, TopKSource, WeightNoise
from jackpot_sim.requirements import RequirementError
from tests.environments.sequences.test_small_lm import QUICK, SAMPLED
from tests.packages import without


def save(model: Any, path: Path) -> Checkpoint:
    model.save_pretrained(path)
    return Checkpoint(path=path)


def qwen3(vocab: int = 4, positions: int = 64) -> Any:
    config = transformers.Qwen3Config(
        vocab_size=vocab, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=4, max_position_embeddings=positions,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.Qwen3ForCausalLM(config)


@pytest.mark.parametrize("role", ["model", "source"])
def test_models_that_do_not_fit_are_refused(role: str, tmp_path: Path) -> None:
    def environment(checkpoint: Checkpoint) -> SmallLM:
        given = checkpoint if role == "model" else SeparateActor(actor=checkpoint, share=0.5)
        return replace(QUICK, **{role: given}, pretrain_steps=10**9)  # all before any training

    broken = qwen3()
    with torch.no_grad():
        broken.lm_head.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"holds NaN or inf in its weight"):
        environment(save(broken, tmp_path / "nan")).build(0)
    with pytest.raises(ValueError, match=r"has a vocabulary of 6 .*one of 4: give vocab=6"):
        environment(save(qwen3(vocab=6), tmp_path / "vocab")).build(0)
    with pytest.raises(ValueError, match=r"at most 4 tokens: .* would be 5"):
        environment(save(qwen3(positions=4), tmp_path / "context")).build(0)


def test_tokenizers_that_differ_are_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    paths = []
    for name, words in (("policy", "abcd"), ("actor", "abdc")):
        paths.append(save(qwen3(), tmp_path / name))
        tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="a"))
        transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path / name)
    with pytest.raises(ValueError, match=r"the token 'c' has id 2 for the policy's tokenizer and 3 for the actor's"):
        replace(QUICK, model=paths[0], source=SeparateActor(actor=paths[1], share=0.5)).build(0)


@pytest.mark.parametrize("env", [QUICK, SAMPLED], ids=["enumerated", "sampled"])
def test_an_end_that_cannot_come_is_refused(env: SmallLM, tmp_path: Path) -> None:
    config = transformers.PhiConfig(
        vocab_size=4, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = transformers.PhiForCausalLM(config)
    with torch.no_grad():
        model.lm_head.bias[0] = -1e5
    with pytest.raises(ValueError, match="end token 0 is never reached: the policy gives it probability 0 everywhere"):
        replace(env, model=save(model, tmp_path)).build(0)


def test_an_end_outside_the_vocabulary_is_refused_when_configured() -> None:
    with pytest.raises(ValueError, match=r"^end_token=5 is never reached"):
        SmallLM(end_token=5)


def test_a_short_context_is_refused() -> None:
    with pytest.raises(ValueError, match=r"prompt and new tokens together are 5, and the context is 4"):
        replace(QUICK, model=TinyQwen3(context=4))
    assert replace(QUICK, model=TinyQwen3(context=5)).model == TinyQwen3(context=5)


@pytest.mark.parametrize("name", ["torch", "transformers"])
def test_missing_libraries_are_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, name)
    with pytest.raises(RequirementError, match=rf"^small-lm needs {name}, which is missing: pip install .*'\.\[hf\]'"):
        QUICK.build(0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"vocab": 1}, "vocab must be an integer from 2 to 64, got 1"),
        ({"vocab": 65}, "vocab must be"),
        ({"length": 0}, "length must be an integer from 1 to 12, got 0"),
        ({"end_token": 4}, "end_token=4 is never reached"),
        ({"prompts": 0}, "prompts must be"),
        ({"prompt_length": 0}, "prompt_length must be"),
        ({"pretrain_steps": -1}, "pretrain_steps must be"),
        ({"updates": 0.5}, "updates must be"),
        ({"learning_rate": 0.0}, "learning_rate must be"),
        ({"memory_limit_gib": 0}, "memory_limit_gib must be"),
        ({"space": "tokens"}, "space must be 'logits' or 'parameters', got 'tokens'"),
        ({"reward": TokenShareReward(token=4)}, "reward.token must be an integer from 0 to 3, got 4"),
        ({"source": TopKSource(k=5)}, "source.k must be an integer from 1 to 4, got 5"),
        ({"source": WeightNoise(target_kl=1e9)}, "target_kl=1e.09 is unattainable: kl_policy_actor of weight-noise"),
    ],
)
def test_bad_configurations_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        replace(QUICK, **changed).build(0)


def test_rollouts_are_counted() -> None:
    realised = QUICK.build(0)
    with pytest.raises(ValueError, match=r"^replicates must be"):
        realised.rollouts(0, 4, 0)
