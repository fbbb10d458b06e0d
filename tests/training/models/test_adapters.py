"""LoRA: adapters alone are trained, kept and merged; runs with them are resumed bit for bit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jackpot_sim.environments.language_models.build import TinyQwen3, build
from jackpot_sim.environments.language_models.checkpoints import Precision, load
from jackpot_sim.requirements import RequirementError
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.training.actors import OnPolicy, Served
from jackpot_sim.training.loop import checkpoints
from jackpot_sim.training.loop.run import POLICY, train
from jackpot_sim.training.models.adapters import Lora, Merged, adapted, is_adapted, restore, trained_weights
from jackpot_sim.training.models.serving import Server
from jackpot_sim.training.study import Run
from tests.packages import without
from tests.training.tiny import assert_same, rewards_of_length, run_of, study_of, trainer_of

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

IDS = torch.arange(9)[None]
LORA = {"rank": 2, "alpha": 8, "targets": ["q_proj", "down_proj"]}


def fresh() -> Any:
    return build(TinyQwen3(hidden=16, layers=2, heads=2, kv_heads=1), 12, np.random.default_rng(0))


def moved(model: Any) -> Any:
    """The model with adapters that do something."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in trained_weights(model).values():
            weight.add_(torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
    return model


def lora_run(models: Path, **changes: Any) -> Run:
    """A tiny run whose policy is a checkpoint with adapters."""
    from jackpot_sim.training.models.preparation import pairs

    (pair,) = pairs([run_of()])
    policy = {"kind": "checkpoint", "path": str(models / pair.key / "policy"), "lora": LORA}
    return run_of({"policy": policy}, changes)


def test_adapters_begin_as_nothing_and_alone_are_trained_and_named() -> None:
    plain, model = fresh(), fresh()
    before = plain(IDS).logits
    adapted(model, Lora(rank=3, targets=("q_proj", "down_proj")), np.random.default_rng(0))
    assert torch.equal(model(IDS).logits, before)
    names = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert sorted(trained_weights(model)) == sorted(names)
    assert len(names) == 2 * 2 * 2, "A and B of two layers of each of two blocks"
    assert all("lora_" in name and ("q_proj" in name or "down_proj" in name) for name in names)
    assert not is_adapted(plain)
    assert trained_weights(plain).keys() == plain.state_dict().keys()
    every = adapted(fresh(), Lora(), np.random.default_rng(0))
    assert len(trained_weights(every)) == 2 * 7 * 2, "A and B of the seven linear layers of a block, without the head"


def test_the_seed_alone_decides_the_adapters() -> None:
    first, again, other = (trained_weights(adapted(fresh(), Lora(), np.random.default_rng(seed))) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_merged_weights_are_those_of_peft_and_follow_the_adapters() -> None:
    model = adapted(fresh(), Lora(rank=3), np.random.default_rng(0))
    merged = Merged(model)
    for _ in range(2):  # the second time the weights have changed
        moved(model)
        wanted = copy.deepcopy(model)
        for module in wanted.modules():
            if hasattr(module, "merge"):
                module.merge()
        torch.testing.assert_close(merged.current()(IDS).logits, wanted(IDS).logits, rtol=0, atol=1e-12)
    assert merged.current().state_dict().keys() == fresh().state_dict().keys()
    assert type(merged.model) is type(fresh())


def test_weights_of_other_adapters_are_refused() -> None:
    one, other = (adapted(fresh(), Lora(targets=(name,)), np.random.default_rng(0)) for name in ("q_proj", "v_proj"))
    with pytest.raises(StudyError, match=r"which the model lacks: policy\.lora has changed"):
        restore(one, trained_weights(other))
    both = adapted(fresh(), Lora(targets=("q_proj", "v_proj")), np.random.default_rng(0))
    with pytest.raises(StudyError, match=r"lacks .*v_proj.*, which is trained: policy\.lora has changed"):
        restore(both, trained_weights(one))


def test_a_served_actor_sees_merged_weights_and_the_policy_itself_writes_on_policy() -> None:
    model = adapted(fresh(), Lora(rank=3), np.random.default_rng(0))
    served = Served.model_validate({"source": {"kind": "weight-noise", "sigma": 0.0}})
    server = Server(served, model, None, 0)
    moved(model)
    actor = server.actor().scorer.model
    assert not is_adapted(actor)
    torch.testing.assert_close(actor(IDS).logits, model(IDS).logits, rtol=0, atol=1e-12)
    assert Server(OnPolicy(), model, None, 0).actor().scorer.model is model


@pytest.mark.parametrize("actor", [{"kind": "on-policy"}, {"kind": "stale", "lag": 2}, {"kind": "served"}])
def test_a_run_with_adapters_that_is_killed_is_the_same_and_leaves_a_plain_policy(
    tmp_path: Path, models: Path, actor: dict[str, Any]
) -> None:
    run = lora_run(models, actor=actor, steps=3)

    class Killed(BaseException):
        pass

    def killed(row: Any) -> None:
        if row["step"] == 1:
            raise Killed

    train(run, tmp_path / "whole", models, reward=rewards_of_length)
    with pytest.raises(Killed):
        train(run, tmp_path / "cut", models, reward=rewards_of_length, watch=killed)
    state = checkpoints.newest(tmp_path / "cut")
    assert state is not None
    assert all("lora_" in name for name in state["trainer"]["policy"]), "a checkpoint holds the adapters alone"
    train(run, tmp_path / "cut", models, reward=rewards_of_length)
    assert_same(tmp_path / "cut", tmp_path / "whole")
    trainer = trainer_of(run, models)
    for _ in range(3):
        trainer.advance()
    plain = load(tmp_path / "whole" / POLICY, precision=Precision.FP32, device="cpu").model
    torch.testing.assert_close(plain(IDS).logits, trainer.policy(IDS).logits, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_adapted_is_refused_in_a_sentence(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StudyError, match=r"policy\.lora: Target modules .* not found"):
        adapted(fresh(), Lora(targets=("nowhere",)), np.random.default_rng(0))
    with pytest.raises(StudyError, match="rank"):
        study_of({"policy": {"kind": "checkpoint", "path": "x", "lora": {"rank": 0}}})
    without(monkeypatch, "peft")
    with pytest.raises(RequirementError, match=r"policy\.lora needs peft, which is missing"):
        adapted(fresh(), Lora(), np.random.default_rng(0))
