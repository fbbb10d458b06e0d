"""Actors of real models: another temperature of the sampler, fewer layers, and a window for Llama."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from jackpot_sim.environments.language_models.altered import with_sliding_window, without_last_layers  # noqa: E402
from jackpot_sim.environments.language_models.library import (  # noqa: E402
    hidden_states,
    logits,
    logits_of_states,
)
from jackpot_sim.environments.randomness import keyed_generator  # noqa: E402
from jackpot_sim.environments.sources.actor_source import Setting  # noqa: E402
from jackpot_sim.environments.sources.kinds import REAL_SOURCES  # noqa: E402
from jackpot_sim.environments.sources.real_models import FewerLayers, OtherTemperature  # noqa: E402
from jackpot_sim.environments.targets import Target  # noqa: E402
from tests.environments.language_models.real_models import CONTEXT, SIZES, made  # noqa: E402
from tests.environments.rollouts.test_hf import built, kl_of  # noqa: E402

IDS = torch.tensor([[5, 1, 7, 2, 9, 4, 4, 0], [3, 3, 8, 1, 4, 9, 2, 6]])


def test_the_sampler_alone_has_another_temperature(checkpoints: Path) -> None:
    found = built(checkpoints, actor={"kind": "temperature", "temperature": 2.0}, temperature=0.5)
    assert found.knob == 2.0
    assert found.setup.policy_law.temperature == 0.5
    written = found.write("actor", 0, 6, 1)
    for pair in found.pairs(written):
        at = pair.sequence, pair.step
        hot = pair.policy_log_probs / 4  # of a law at 1/2, that at 2
        torch.testing.assert_close(pair.actor_log_probs, torch.log_softmax(hot, -1))
        drawn = torch.as_tensor(written.tokens[at])[:, None]
        np.testing.assert_allclose(pair.actor_log_probs.gather(1, drawn)[:, 0], written.log_probs[at])
    assert kl_of(found) == pytest.approx(found.achieved, rel=0.5)


def test_raw_log_probs_know_nothing_of_the_samplers_temperature(checkpoints: Path) -> None:
    found = built(checkpoints, actor={"kind": "temperature", "temperature": 2.0}, log_probs="raw", top_k=3)
    for pair in found.pairs(found.write("actor", 0, 4, 1)):
        torch.testing.assert_close(pair.believed_log_probs, pair.policy_log_probs)
        assert ((pair.actor_log_probs > -np.inf).sum(-1) == 3).all()


@pytest.mark.parametrize("colder", [False, True])
def test_either_side_of_the_policys_temperature_meets_a_target(checkpoints: Path, colder: bool) -> None:
    actor = {"kind": "temperature", "target_kl": 0.02, "colder": colder}
    found = built(checkpoints, actor=actor, temperature=0.5)
    assert found.achieved == pytest.approx(0.02, rel=0.01)
    assert (found.knob < 0.5) == colder
    with pytest.raises(ValueError, match="colder picks the side of a target_kl"):
        OtherTemperature(temperature=1.1, colder=True)


@pytest.mark.parametrize(
    "name", ["llama", "qwen3", "gpt2", "gemma2, capped logits, windows", "lfm2, a recurrent state"]
)
def test_the_head_reads_an_earlier_layer(name: str) -> None:
    model = made(name)
    whole, half = without_last_layers(model, 0), without_last_layers(model, 1)
    assert torch.equal(logits(whole, IDS), logits(model, IDS))
    assert not {w.data_ptr() for w in half.parameters()} & {w.data_ptr() for w in model.parameters()}
    reached: list[Any] = []
    layers = next(each for each in model.base_model.children() if isinstance(each, torch.nn.ModuleList))
    layers[0].register_forward_hook(lambda _, __, out: reached.append(out[0] if isinstance(out, tuple) else out))
    norm = [each for each in model.base_model.children() if hasattr(each, "weight")][-1]
    with torch.no_grad():
        hidden_states(model, IDS)
        expected = torch.stack([logits_of_states(model, norm(states)) for states in reached[0]])
        torch.testing.assert_close(logits(half, IDS), expected, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="layers must be an integer from 0 to 1, got 2"):
        without_last_layers(model, 2)


def test_layers_are_counted_and_solved_for(checkpoints: Path) -> None:
    model, kls = made("llama"), {0: 0.0, 1: 0.3}
    target = Target("KL", 0.3, lambda layers: kls[int(layers)])
    assert FewerLayers(target_kl=0.3).solve(target, Setting(model, keyed_generator)) == 1
    with pytest.raises(ValueError, match="layers must be an integer of at least 0"):
        FewerLayers(layers=-1)
    with pytest.raises(ValueError, match="layers must be an integer from 0 to 0, got 1"):
        built(checkpoints, actor={"kind": "fewer-layers", "layers": 1})
    same = built(checkpoints, actor={"kind": "fewer-layers", "layers": 0})
    assert same.achieved == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"head_dim": 4, "tie_word_embeddings": True},
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ],
    ids=["plain", "head of its own, tied", "llama3's angles"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_window_as_long_as_the_context_leaves_llama_as_it_is(changes: dict[str, Any], dtype: Any) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.LlamaConfig(**SIZES | changes)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    ids = torch.arange(CONTEXT)[None] * 7 % 50
    with torch.no_grad():
        whole = logits(model, ids)
        assert torch.equal(logits(with_sliding_window(model, CONTEXT), ids), whole)
        near = logits(with_sliding_window(model, 4), ids)
    assert torch.equal(near[:, :4], whole[:, :4])
    assert (near[:, 4:] != whole[:, 4:]).any(-1).all()


@pytest.mark.parametrize("bias", ["attention_bias", "mlp_bias"])
def test_a_llama_with_biases_has_no_window(bias: str) -> None:
    model = transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**SIZES, **{bias: True}))
    with pytest.raises(ValueError, match="llama models with biases have no sliding window"):
        with_sliding_window(model, 3)


def test_every_real_source_names_its_kind_once() -> None:
    kinds = [vars(each)["kind"] for each in REAL_SOURCES]
    assert len(set(kinds)) == len(kinds)
