"""Corrected trainings of TRL on the CPU: a tiny checkpoint, rollouts of the model, of a function, and as vLLM's."""

from __future__ import annotations

import functools
import logging
import warnings
from collections import defaultdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jackpot_sim.integrations import trl as corrected_trl
from jackpot_sim.integrations.trl import CorrectedGRPOTrainer, CorrectsRollouts, batches
from jackpot_sim.integrations.trl.processes import FIGURES
from jackpot_sim.requirements import RequirementError, UntestedVersionWarning
from tests.cases import each
from tests.environments.tiny_checkpoints import save_checkpoint
from tests.record.test_trl import table_of, trained

trl, torch, transformers = (pytest.importorskip(name) for name in ("trl", "torch", "transformers"))

WORDS = ("<end>", *"abcdefghijk")
LENGTH = 6


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("trl") / "policy", 3, WORDS)


@pytest.fixture(scope="module")
def another(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An actor that is another model."""
    return save_checkpoint(tmp_path_factory.mktemp("trl") / "actor", 4, WORDS)


def corrected(correction: object = "jackpot", base: Any = None, **own: Any) -> Any:
    """A kind of trainer, for `trained`."""
    return functools.partial(base or CorrectedGRPOTrainer, correction=correction, **own)


def logs(trainer: Any, name: str) -> list[float]:
    return [line[name] for line in trainer.state.log_history if name in line]


def same_weights(first: Any, second: Any) -> bool:
    pairs = zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


class Noting(CorrectsRollouts):
    """Notes the factor of each token of trained completions, and where it may be other than 0, by the completion."""

    def _weigh(self, batch: Any, new: Any, on_topk: Any) -> None:
        if not hasattr(self, "factors"):
            self.factors: Any = defaultdict(list)
        alone = {**batch, "advantages": torch.ones_like(batch["advantages"])}
        super()._weigh(alone, new, on_topk)
        for row, ids in enumerate(batch["completion_ids"]):
            own = alone["advantages"][row], batches.trained(batch)[row]
            self.factors[(float(batch["correction_uniforms"][row, 0]), tuple(ids.tolist()))].append(own)
        super()._weigh(batch, new, on_topk)


class NotingTrainer(Noting, trl.GRPOTrainer):
    """A trainer as a user writes it with the mixin."""


# ------------------------------------------------------------------ the model itself


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_iterations": 2, "loss_type": "bnpo", "beta": 0.1},
        {"gradient_accumulation_steps": 2, "importance_sampling_level": "sequence", "loss_type": "grpo"},
        {"off_policy_mask_threshold": 1e-9, "top_entropy_quantile": 0.5, "loss_type": "dr_grpo"},
    ],
    ids=str,
)
def test_no_correction_trains_the_weights_of_plain_trl_bit_for_bit(
    options: dict[str, Any], checkpoint: Path, tmp_path: Path
) -> None:
    found = trained(corrected("none"), checkpoint, tmp_path, **options)
    assert same_weights(found, trained(trl.GRPOTrainer, checkpoint, tmp_path, **options))
    assert logs(found, "train_loss")


@pytest.mark.parametrize("iterations", [1, 2])
def test_a_correction_makes_no_pass_that_trl_does_not_and_moves_no_random_state(
    iterations: int, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    forward = transformers.Qwen3Model.forward
    monkeypatch.setattr(
        transformers.Qwen3Model, "forward", lambda self, *a, **kw: calls.append("") or forward(self, *a, **kw)
    )
    states, counts = [], []
    for kind in (trl.GRPOTrainer, corrected("{kind: jackpot, target: p_new}"), corrected("jackpot")):
        trained(kind, checkpoint, tmp_path, num_iterations=iterations, learning_rate=0.0, top_k=3)
        states.append(torch.get_rng_state())
        counts.append(len(calls))
        calls.clear()
    assert counts[0] == counts[1] == counts[2] > 0
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0], states[2])


@pytest.mark.parametrize("adapted", [False, True], ids=["whole", "adapter, earlier p_ref, KL"])
def test_a_truncated_sampler_is_seen_in_the_logs_and_corrected(adapted: bool, checkpoint: Path, tmp_path: Path) -> None:
    """With top-k 3 the actor is p over the mass S of three words: ratio, acceptance and overlap are all S."""
    own: dict[str, Any] = {}
    options: dict[str, Any] = {"top_k": 3, "logging_steps": 1}
    if adapted:
        own["peft_config"] = pytest.importorskip("peft").LoraConfig(target_modules=["q_proj", "down_proj"])
        # In the second generation the policy has left the reference of the KL, which is scored after it.
        options |= {"num_iterations": 2, "beta": 0.1, "gradient_checkpointing": True, "max_steps": 4}
    found = trained(corrected(**own), checkpoint, tmp_path, **options)
    for name in ("acceptance_rate", "overlap/mean"):
        assert np.allclose(logs(found, f"correction/{name}"), logs(found, "correction/ratio/mean"), atol=1e-5), name
    assert max(logs(found, "correction/overlap/mean")) < 0.99
    assert logs(found, "correction/missing_share") == [0.0] * (4 if adapted else 2)
    names = {name for line in found.state.log_history for name in line if name.startswith("correction/")}
    assert names == {f"correction/{name}" for name in FIGURES}
    if not adapted:
        assert not same_weights(found, trained(trl.GRPOTrainer, checkpoint, tmp_path, top_k=3))


@pytest.mark.parametrize("options", [{"num_iterations": 2}, {"steps_per_generation": 2, "num_iterations": 2}], ids=str)
def test_the_masks_of_a_rollout_are_the_same_in_each_epoch(
    options: dict[str, Any], checkpoint: Path, another: Path, tmp_path: Path
) -> None:
    kind = corrected(base=NotingTrainer, rollout_func=Engine(another).rollout)
    found = quietly(kind, checkpoint, tmp_path, max_steps=4, **options)
    assert all(len(epochs) == 2 for epochs in found.factors.values())
    for epochs in found.factors.values():
        for first, second in zip(*epochs, strict=True):
            assert torch.equal(first, second)
    assert any((mask & (factor == 0)).any() for (factor, mask), _ in found.factors.values()), "no mask to see"


def test_evaluation_is_corrected_and_logged_beside_training(checkpoint: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    kind = corrected(eval_dataset=datasets.Dataset.from_list([{"prompt": "a"}, {"prompt": "b c"}]))
    found = trained(kind, checkpoint, tmp_path, top_k=3, eval_strategy="steps", eval_steps=1, logging_steps=1)
    assert len(logs(found, "eval_correction/overlap/mean")) == 2
    assert len(logs(found, "correction/overlap/mean")) == 2


def test_a_run_that_is_resumed_ends_as_one_that_was_not_stopped(
    checkpoint: Path, another: Path, tmp_path: Path
) -> None:
    options = {"save_strategy": "steps", "save_steps": 1, "save_only_model": False, "top_k": 3}
    whole = trained(corrected(), checkpoint, tmp_path / "whole", **options)

    class Resuming(CorrectedGRPOTrainer):  # type: ignore[misc, valid-type]
        def train(self) -> Any:
            return super().train(resume_from_checkpoint=str(tmp_path / "whole" / "out" / "checkpoint-1"))

    resumed = trained(corrected(base=Resuming), checkpoint, tmp_path / "resumed", **options)
    assert same_weights(resumed, whole)


def test_the_rollouts_are_recorded_with_one_flag_and_no_pass(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    forward = transformers.Qwen3Model.forward
    monkeypatch.setattr(
        transformers.Qwen3Model, "forward", lambda self, *a, **kw: calls.append("") or forward(self, *a, **kw)
    )
    options = {"top_k": 3, "steps_per_generation": 2, "num_iterations": 2, "max_steps": 4}
    found = trained(corrected(record=tmp_path / "rollouts"), checkpoint, tmp_path, **options)
    recorded = len(calls)
    assert same_weights(found, trained(corrected(), checkpoint, tmp_path, **options))
    assert len(calls) == 2 * recorded
    table = table_of(tmp_path / "rollouts")
    assert table.sequences == 8, "one epoch of one batch of two minibatches"
    assert table.step is not None
    assert table.step.tolist() == [0] * 4 + [1] * 4
    assert table.policy_log_probs is not None
    assert table.actor_log_probs is not None
    assert (table.policy_log_probs - table.actor_log_probs).max() < 1e-5
    assert table.reward is not None
    assert table.advantages is not None


# ------------------------------------------------------------------ engines of their own


class Engine:
    """TRL's client of vLLM by its documented calls, or a rollout function: another model writes the completions."""

    def __init__(self, actor: Path, *, missing: bool = False, **_: Any) -> None:
        self.model = transformers.AutoModelForCausalLM.from_pretrained(actor, dtype=torch.float32)
        self.logprobs: int | None = 0
        self.missing, self.laws, self.synced = missing, [], 0
        self.generator = torch.Generator().manual_seed(0)

    def sync_weights(self) -> None:
        self.synced += 1

    def generate(self, prompts: Any, images: Any, num_generations: int, profiler: Any = None) -> tuple[Any, ...]:
        """vLLM's: of each token the likeliest ones, and the sampled one among them or behind them."""
        ids, laws = self.written(prompts)
        log_probs, tokens = [], []
        for own, law in zip(ids, laws, strict=True):
            ranked = [row.topk(max(1, int(self.logprobs or 0))) for row in law]
            found = [
                list(dict.fromkeys([*(top.indices.tolist() if self.logprobs else []), token]))
                for token, top in zip(own, ranked, strict=True)
            ]
            tokens.append(found)
            log_probs.append([row[each].tolist() for row, each in zip(law, found, strict=True)])
        if self.missing:
            at = tokens[0][1].index(ids[0][1])
            log_probs[0][1][at] = None
        return prompts, ids, log_probs, tokens

    def rollout(self, prompts: list[str], trainer: Any) -> dict[str, Any]:
        asked = trainer.processing_class(prompts)["input_ids"]
        ids, laws = self.written(asked)
        sampled = [law.gather(1, torch.tensor(own)[:, None])[:, 0].tolist() for own, law in zip(ids, laws, strict=True)]
        return {"prompt_ids": asked, "completion_ids": ids, "logprobs": sampled}

    def written(self, prompts: Any) -> tuple[list[list[int]], list[Any]]:
        """Completions of 2 to 6 tokens, and the law at each."""
        ids, laws = [], []
        for number, prompt in enumerate(prompts):
            sequence, own = list(prompt), []
            for _ in range(2 + number % 5):
                with torch.no_grad():
                    own.append(self.model(torch.tensor([sequence])).logits[0, -1].log_softmax(-1))
                sequence.append(int(torch.multinomial(own[-1].exp(), 1, generator=self.generator)))
            ids.append(sequence[len(prompt) :])
            laws.append(torch.stack(own))
        self.laws.append((ids, laws))
        return ids, laws


def quietly(kind: Any, checkpoint: Path, folder: Path, **options: Any) -> Any:
    """`trained`, without TRL's word on its experiments."""

    def silent(**kwargs: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return kind(**kwargs)

    return trained(silent, checkpoint, folder, **options)


def overlaps(engine: Engine, policy: Any) -> list[float]:
    """Σ min(p, q) of each state of the engine's first batch, from whole laws."""
    ids, laws = engine.laws[0]
    prompts = engine.prompts
    found = []
    for prompt, own, law in zip(prompts, ids, laws, strict=True):
        with torch.no_grad():
            logits = policy(torch.tensor([[*prompt, *own]])).logits[0, len(prompt) - 1 : -1]
        found += torch.minimum(logits.log_softmax(-1), law).exp().sum(-1).tolist()
    return found


@pytest.fixture
def vllm(another: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """TRL's client made a stand-in; the one in use is under "engine"."""
    made: dict[str, Any] = {"missing": False}

    def make(**_: Any) -> Engine:
        made["engine"] = Engine(another, missing=made["missing"])
        made["engine"].vllm_client = made["engine"]
        return made["engine"]

    monkeypatch.setattr("trl.trainer.grpo_trainer.VLLMGeneration", make)
    return made


VLLM = {"use_vllm": True, "vllm_mode": "colocate"}


def test_vllms_likeliest_tokens_give_the_overlap_of_every_state(
    vllm: dict[str, Any], checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With every word asked for Ẑ is Σ min(p, q) itself; and TRL gets the sampled token's log-prob, not the first."""
    policy = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    with caplog.at_level(logging.WARNING):
        found = trained(
            corrected(topk=len(WORDS), record=tmp_path / "rollouts"), checkpoint, tmp_path, logging_steps=1, **VLLM
        )
    engine = vllm["engine"]
    assert engine.logprobs == 0
    assert engine.synced == 2
    assert not logs(found, "sampling/importance_sampling_ratio/mean"), "TRL corrects too"
    assert len([each for each in caplog.messages if "vllm_importance_sampling_correction is switched off" in each]) == 1
    table = table_of(tmp_path / "rollouts")
    ids, laws = engine.laws[0]
    first = [float(law[at, token]) for own, law in zip(ids, laws, strict=True) for at, token in enumerate(own)]
    assert table.actor_log_probs is not None
    assert np.allclose(sorted(first), sorted(table.actor_log_probs[: len(first)]), atol=1e-6)
    prompts = [found.processing_class(text)["input_ids"] for text in ("a b", "c", "d a", "b")]
    exact = {
        round(float(torch.minimum(p, q).exp().sum()), 4)
        for prompt in prompts
        for own, law in zip(ids, laws, strict=True)
        for p, q in zip(laws_of(policy, prompt, own), law, strict=True)
    }
    spread = logs(found, "correction/overlap/p05")[0]
    assert round(spread, 4) in exact
    assert spread < 0.9


def laws_of(policy: Any, prompt: list[int], own: list[int]) -> Any:
    with torch.no_grad():
        return policy(torch.tensor([[*prompt, *own]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)


def test_vllms_missing_log_probs_are_told_and_masked(
    vllm: dict[str, Any], checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vllm["missing"] = True
    kind = corrected("tis", base=NotingTrainer)
    with caplog.at_level(logging.WARNING):
        found = trained(kind, checkpoint, tmp_path, logging_steps=1, **VLLM)
    assert [each for each in caplog.messages if "no log-prob for 1 of" in each and "masked" in each]
    assert logs(found, "correction/missing_share") == pytest.approx([1 / 14] * 2)
    ids = vllm["engine"].laws[0][0][0]
    ((factor, mask),) = [each for (_, own), (each,) in found.factors.items() if list(own[: len(ids)]) == ids][:1]
    assert factor[1] == 0
    assert mask[1]
    assert factor[0] > 0
    assert all(torch.isfinite(each).all() for each in found.model.state_dict().values())


def test_without_a_topk_the_overlap_is_the_batchs_and_that_is_said_once(
    checkpoint: Path, another: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = quietly(corrected(rollout_func=Engine(another).rollout), checkpoint, tmp_path, logging_steps=1)
    assert len([each for each in caplog.messages if "mean acceptance probability of its micro-batch" in each]) == 1
    assert np.allclose(logs(found, "correction/overlap/p05"), logs(found, "correction/acceptance_rate"))


def test_a_rollout_function_may_give_the_topk_and_mark_tokens_of_an_environment(
    checkpoint: Path, another: Path, tmp_path: Path
) -> None:
    engine = Engine(another)

    def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
        found = engine.rollout(prompts, trainer)
        top = [law.topk(4) for law in engine.laws[-1][1]]
        found["topk_ids"] = [each.indices.tolist() for each in top]
        found["topk_logprobs"] = [each.values.tolist() for each in top]
        found["env_mask"] = [[0, *[1] * (len(own) - 1)] for own in found["completion_ids"]]
        found["logprobs"] = [[0.0, *own[1:]] for own in found["logprobs"]]
        return found

    found = quietly(corrected(base=NotingTrainer, rollout_func=rollout), checkpoint, tmp_path, logging_steps=1)
    assert logs(found, "correction/overlap/p05") != logs(found, "correction/overlap/p50")
    every = [each for epochs in found.factors.values() for each in epochs]
    assert all(factor[0] == 0 and not mask[0] for factor, mask in every)
    assert any((factor[1:] > 0).any() for factor, _ in every)


# ------------------------------------------------------------------ refusals


@each(
    "correction, sentence",
    [("{kind: tis, centred: true}", "subtracts a mean"), ("nothing of that name", "nothing of that name")],
)
def test_a_correction_that_trl_has_no_place_for_is_refused(correction: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        CorrectedGRPOTrainer(correction=correction)


def test_a_trainer_without_log_probs_is_told_how_to_get_them(checkpoint: Path, another: Path, tmp_path: Path) -> None:
    def without(prompts: list[str], trainer: Any) -> dict[str, Any]:
        return {**Engine(another).rollout(prompts, trainer), "logprobs": None}

    def shorter(prompts: list[str], trainer: Any) -> dict[str, Any]:
        found = Engine(another).rollout(prompts, trainer)
        return {**found, "logprobs": [own[1:] for own in found["logprobs"]]}

    with pytest.raises(ValueError, match="return logprobs from a rollout_func"):
        quietly(corrected(rollout_func=without), checkpoint, tmp_path)
    with pytest.raises(ValueError, match="completion 0 has 2 tokens and 1 logprobs"):
        quietly(corrected(rollout_func=shorter), checkpoint, tmp_path)


def test_a_rollout_function_that_gives_other_numbers_than_it_says_is_refused(
    checkpoint: Path, another: Path, tmp_path: Path
) -> None:
    def but(**changed: Any) -> Any:
        def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
            found = Engine(another).rollout(prompts, trainer)
            return found | {
                name: [[each(own) for own in row] for row in found["logprobs"]] for name, each in changed.items()
            }

        return corrected(rollout_func=rollout)

    with pytest.raises(ValueError, match=r"^logprobs holds .* at token 0 of row 0: log-probs are logarithms"):
        quietly(but(logprobs=lambda own: -own), checkpoint, tmp_path)
    with pytest.raises(ValueError, match=r"^topk_ids holds 99, and the policy's tokens are 0 to 11"):
        quietly(but(topk_ids=lambda _: [99], topk_logprobs=lambda _: [-1.0]), checkpoint, tmp_path)
    with pytest.raises(ValueError, match="topk_ids and topk_logprobs, or neither"):
        quietly(but(topk_ids=lambda _: [1]), checkpoint, tmp_path)


def test_a_record_that_is_a_file_is_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot be recorded in .*file is a file, not a folder"):
        CorrectedGRPOTrainer(correction="tis", record=tmp_path / "file")
    with pytest.raises(TypeError, match=r"^the correction is None: give a name"):
        CorrectedGRPOTrainer(correction=None)


def test_a_trainer_with_a_loss_of_its_own_has_to_say_that_it_is_linear(checkpoint: Path, tmp_path: Path) -> None:
    class Own(trl.GRPOTrainer):  # type: ignore[misc, name-defined]
        def _compute_loss(self, model: Any, inputs: Any) -> Any:
            return super()._compute_loss(model, inputs)

    class Corrected(CorrectsRollouts, Own):
        """As a user writes it."""

    with pytest.raises(ValueError, match="Own has a loss of its own"):
        trained(Corrected, checkpoint, tmp_path)

    class Linear(Corrected):
        linear_loss = True

    assert logs(trained(Linear, checkpoint, tmp_path), "train_loss")


def test_a_trl_newer_than_tested_is_told_of_with_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    of = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "99.0" if name == "trl" else of(name))
    corrected_trl._corrected_grpo_trainer.cache_clear()
    monkeypatch.setattr("jackpot_sim.requirements._WARNED", set())
    with pytest.warns(UntestedVersionWarning, match=r"CorrectedGRPOTrainer was tested with trl.*99\.0 is installed"):
        _ = corrected_trl.CorrectedGRPOTrainer


def test_a_missing_trl_is_named_with_its_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    corrected_trl._corrected_grpo_trainer.cache_clear()
    with pytest.raises(RequirementError, match=r"CorrectedGRPOTrainer needs trl, which is missing: pip install"):
        _ = corrected_trl.CorrectedGRPOTrainer
