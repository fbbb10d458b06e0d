"""log p on the actor's top-k out of TRL's own pass, against whole logits."""

from __future__ import annotations

import math
import warnings
from contextlib import nullcontext
from typing import Any

import pytest

from jackpot_sim.core.topk import TopK
from jackpot_sim.integrations.trl import states
from jackpot_sim.integrations.trl.states import FusedHead, OnTopK, bare

trl, torch, transformers = (pytest.importorskip(name) for name in ("trl", "torch", "transformers"))
fused = pytest.importorskip("trl.trainer.utils").add_fused_lm_head

ROWS, PROMPT, LENGTH, VOCAB, K = 5, 3, 4, 300, 7


def model_of(**fields: Any) -> Any:
    """A random model whose laws are far from uniform."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.Qwen3Config(
            vocab_size=VOCAB,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            initializer_range=0.5,
            **fields,
        )
        return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def expected(model: Any, ids: Any, topk: TopK, temperature: float, cap: float | None = None, scale: float = 1.0) -> Any:
    """The same from the logits of the whole vocabulary."""
    with torch.no_grad():
        logits = model(ids).logits[:, PROMPT - 1 : -1].float() * scale
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    return topk.gather((logits / temperature).log_softmax(-1))


def found(model: Any, ids: Any, topk: TopK, mask: Any, context: Any = None, chunk: int = ROWS) -> Any:
    """What two passes of TRL's fused head give, some rows at a time."""
    scoring = OnTopK(FusedHead.of(model), ids[:, PROMPT:], topk, mask)
    labels = ids.clone()
    labels[:, :PROMPT] = -100
    with scoring.seen(model), context or nullcontext():
        parts = zip(ids.split(chunk), labels.split(chunk), strict=True)
        passes = [model(part, labels=own, fused_lm_head=True) for part, own in parts]
    log_probs = torch.cat([each.log_probs[:, -LENGTH:] for each in passes])
    return scoring.log_probs(log_probs.detach()), log_probs


def batch() -> tuple[Any, TopK, Any]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(VOCAB, (ROWS, PROMPT + LENGTH), generator=generator)
    topk = TopK.of(torch.randn(ROWS, LENGTH, VOCAB, generator=generator).log_softmax(-1), K)
    mask = torch.arange(LENGTH)[None, :] < torch.tensor([4, 1, 3, 2, 4])[:, None]
    return ids, topk, mask


@pytest.mark.parametrize("tied", [False, True], ids=["own head", "tied"])
@pytest.mark.parametrize("chunk", [ROWS, 2])
def test_it_is_the_law_of_whole_logits(tied: bool, chunk: int) -> None:
    model, (ids, topk, mask) = model_of(tie_word_embeddings=tied), batch()
    whole = expected(model, ids, topk, 0.7)
    fused(model, temperature=0.7, outputs=("log_probs", "entropy"))
    on_topk, log_probs = found(model, ids, topk, mask, chunk=chunk)
    assert torch.allclose(on_topk[mask], whole[mask], atol=2e-5)
    assert not on_topk[~mask].any()
    assert not on_topk.requires_grad
    assert log_probs.requires_grad


def test_a_cap_and_a_scale_of_logits_and_a_bias_are_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (ids, topk, mask) = model_of(), batch()
    model.lm_head.bias = torch.nn.Parameter(torch.linspace(-3, 3, VOCAB))
    whole = expected(model, ids, topk, 1.3, cap=4.0, scale=0.5)
    model.config.final_logit_softcapping, model.config.logit_scale = 4.0, 0.5
    fused(model, temperature=1.3)
    monkeypatch.setitem(states.AT_ONCE, "cpu", 300)  # a few rows of the head at a time
    assert torch.allclose(found(model, ids, topk, mask)[0][mask], whole[mask], atol=2e-5)


@pytest.mark.parametrize("single", [False, True], ids=["half", "head in float32"])
def test_half_precision_is_met_to_its_rounding_and_no_law_exceeds_one(single: bool) -> None:
    model, (ids, topk, mask) = model_of(), batch()
    whole = expected(model, ids, topk, 1.0)
    fused(model, cast_lm_head_to_fp32=single)
    on_topk, _ = found(model, ids, topk, mask, torch.autocast("cpu", torch.bfloat16))
    assert (on_topk - whole)[mask].abs().max() < 0.3  # of logits up to 16 in size, and states in half themselves
    every = TopK.of(whole.new_zeros(ROWS, LENGTH, VOCAB).log_softmax(-1), VOCAB)
    law, _ = found(model, ids, every, mask, torch.autocast("cpu", torch.bfloat16))
    assert law[mask].exp().sum(-1).max() <= 1 + 1e-5


def test_a_law_that_rounding_would_lift_above_one_is_divided_by_its_own_sum() -> None:
    logits, sampled = torch.tensor([[2.0, 1.0, 0.0]]).expand(2, 3), torch.tensor([[1.0]]).expand(2, 1)
    exact = 1.0 - torch.tensor([2.0, 1.0, 0.0]).logsumexp(0)
    low, high = states._log_probs(torch.cat([logits, sampled], 1), torch.stack([exact - 1, exact + 0.1])).exp().sum(-1)
    assert float(low) == pytest.approx(math.exp(-1))
    assert float(high) == pytest.approx(1)


def test_a_models_adapter_and_its_checkpointing_of_activations_are_no_hindrance() -> None:
    peft, (ids, topk, mask) = pytest.importorskip("peft"), batch()
    model = model_of()
    fused(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transformers, about names that peft and older versions use
        model.gradient_checkpointing_enable()
        adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    adapted.train()
    assert bare(adapted) is model
    on_topk, log_probs = found(adapted, ids, topk, mask)
    whole = expected(adapted, ids, topk, 1.0)
    assert torch.allclose(on_topk[mask], whole[mask], atol=2e-5)
    torch.autograd.backward(log_probs.sum())
    assert any(each.grad is not None for each in adapted.parameters())


def test_another_head_and_a_pass_that_is_not_seen_are_refused() -> None:
    model, (ids, topk, mask) = model_of(), batch()
    with pytest.raises(ValueError, match="pass topk=0"):
        FusedHead.of(model)
    fused(model)
    with pytest.raises(ValueError, match="hides its last hidden states"):
        OnTopK(FusedHead.of(model), ids[:, PROMPT:], topk, mask).log_probs(torch.zeros(ROWS, LENGTH))
    model.lm_head.weight = torch.nn.Parameter(torch.zeros(0))
    with pytest.raises(ValueError, match="not whole on this device"):
        FusedHead.of(model).logits(torch.zeros(2, 16), torch.zeros(2, K, dtype=torch.long), model)
