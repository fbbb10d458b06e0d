"""Training in bf16 and fp16: coarse passes, fine weights, and the scale of the loss."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest

from jackpot_sim.environments.language_models.checkpoints import Precision
from jackpot_sim.training import objective
from jackpot_sim.training.errors import DivergedError
from jackpot_sim.training.loop.passes import model_pass
from tests.training.tiny import MODES, equal, run_of, trainer_of, weights

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

HALF = [
    {"precision": precision, "mixed_precision": mixed}
    for precision in ("bf16", "fp16")
    for mixed in ("autocast", "param_dtype")
]
"""Every way to compute in 16 bits beside weights of 32."""


def test_in_bf16_the_model_multiplies_coarsely_and_its_weights_stay_fine(models: Path) -> None:
    fine, coarse = (trainer_of(run_of({"precision": each}), models) for each in ("fp32", "bf16"))
    assert equal(weights(fine), weights(coarse)), "both begin with the same weights"
    sequences = fine._rolled_out(next(fine._minibatches()))[0]
    read = [each._pass(each.policy, sequences).log_probs.detach()[sequences.mask] for each in (fine, coarse)]
    assert 1e-4 < float((read[0] - read[1]).abs().max()) < 0.5, "bf16 keeps 8 bits: a few thousandths, not nothing"
    went = [trainer.advance() for trainer in (fine, coarse)]
    assert went[0]["loss"] != went[1]["loss"]
    assert {weight.dtype for weight in coarse.policy.parameters()} == {torch.float32}
    states = coarse._optimizer.state.values()
    assert {each.dtype for state in states for name, each in state.items() if name != "step"} == {torch.float32}
    assert went[1]["log_ratio_max"] < 0.5, "how far rollout and pass differ by rounding depends on the processor"
    assert math.isfinite(coarse.evaluate().accuracy)
    small = [weight.clone() for weight in weights(coarse)]
    for group in coarse._optimizer.param_groups:
        group["lr"] = 1e-7  # far below what bf16 resolves
    coarse.advance()
    assert not equal(small, weights(coarse))


@pytest.mark.parametrize("changes", HALF)
@pytest.mark.parametrize("mode", ["on-policy", "stale", "joint"])
def test_passes_and_rollouts_are_in_16_bits_and_what_is_trained_is_in_32(
    models: Path, mode: str, changes: dict[str, Any]
) -> None:
    trainer = trainer_of(run_of(MODES[mode], changes), models)
    half = Precision(changes["precision"]).dtype
    writers = trainer._server.models
    products, residuals = set[Any](), set[Any]()
    for model in {id(each): each for each in (trainer.policy, *writers)}.values():
        model.model.layers[0].mlp.down_proj.register_forward_hook(lambda *given: products.add(given[-1].dtype))
        model.model.layers[0].register_forward_hook(lambda *given: residuals.add(given[-1].dtype))
    trainer.advance()
    trainer.evaluate()
    assert products == {half}
    assert residuals == ({half} if changes["mixed_precision"] == "param_dtype" else {torch.float32})
    for model in (trainer.policy, *writers):
        assert {weight.dtype for weight in model.parameters()} == {torch.float32}
        assert all(isinstance(weight, torch.nn.Parameter) for weight in model.parameters())
    states = trainer._optimizer.state.values()
    assert {each.dtype for state in states for name, each in state.items() if name != "step"} == {torch.float32}


def test_gradients_through_rounded_weights_are_those_of_a_model_of_16_bits(models: Path) -> None:
    """A second model that is bf16 throughout has the same loss and, rounded, the same gradients."""
    trainer = trainer_of(run_of({"precision": "bf16", "mixed_precision": "param_dtype"}), models)
    sequences = trainer._rolled_out(next(trainer._minibatches()))[0]
    other = copy.deepcopy(trainer.policy)
    for weight in other.parameters():  # and no buffer: angles of positions stay in float32, as where a model is loaded
        weight.data = weight.data.to(torch.bfloat16)
    expected, found = model_pass(other, sequences).log_probs, trainer._pass(trainer.policy, sequences).log_probs
    assert torch.equal(expected, found)
    for each in (expected, found):
        each[sequences.mask].sum().backward()
    for theirs, mine in zip(other.parameters(), trainer.policy.parameters(), strict=True):
        assert mine.grad.dtype == torch.float32
        assert torch.equal(theirs.grad.float(), mine.grad)


def test_steps_far_below_16_bits_move_the_weights(models: Path) -> None:
    for changes in HALF:
        trainer = trainer_of(run_of(changes), models)
        before = weights(trainer)
        for group in trainer._optimizer.param_groups:
            group["lr"] = 1e-7
        trainer.advance()
        assert not equal(before, weights(trainer)), changes
        assert max(float((a - b).abs().max()) for a, b in zip(before, weights(trainer), strict=True)) < 1e-6


def set_scale(trainer: Any, scale: float) -> None:
    trainer._scaler.load_state_dict(trainer._scaler.state_dict() | {"scale": scale})


def test_an_overflow_skips_the_update_and_halves_the_scale(models: Path) -> None:
    trainer = trainer_of(run_of({"precision": "fp16", "update": {"minibatches": 2}}), models)
    trainer.advance()
    rows, scale = [], 2.0**100  # no float16 holds gradients times this
    set_scale(trainer, scale)
    before, moments = weights(trainer), copy.deepcopy(trainer._optimizer.state_dict()["state"])
    rows.append(trainer.advance())
    assert equal(weights(trainer), before)
    torch.testing.assert_close(trainer._optimizer.state_dict()["state"], moments, rtol=0, atol=0)
    assert rows[0]["skipped_updates"] == 1
    assert rows[0]["loss_scale"] == pytest.approx((scale + scale / 2) / 2)
    assert trainer._scaler.get_scale() == scale / 4, "halved by each of the two updates"
    assert "grad_norm" not in rows[0], "there is none to be told"
    set_scale(trainer, 16.0)
    row = trainer.advance()
    assert (row["skipped_updates"], row["loss_scale"]) == (0, 16)
    assert not equal(weights(trainer), before)


def test_a_scale_leaves_no_trace_in_gradients(models: Path) -> None:
    norms = []
    for scale in (1.0, 2.0**7):
        trainer = trainer_of(run_of({"precision": "fp16"}), models)
        set_scale(trainer, scale)
        norms.append(trainer.advance()["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-2)


def test_an_overflow_without_any_scale_ends_the_run(models: Path) -> None:
    trainer = trainer_of(run_of({"precision": "fp16"}), models)
    set_scale(trainer, 1.0)
    inner = trainer._scaler.unscale_

    def spoilt(optimizer: Any) -> None:
        inner(optimizer)
        optimizer.param_groups[0]["params"][0].grad.fill_(math.inf)

    trainer._scaler.unscale_ = spoilt
    with pytest.raises(DivergedError, match="gradient norm"):
        trainer.advance()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_gradient_that_the_divisor_makes_infinite_ends_the_run_before_the_update(
    models: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A smaller scale of the loss would not help, and the scaler, which looks before, would not skip the update."""
    trainer = trainer_of(run_of({"precision": precision}), models)
    before = weights(trainer)
    monkeypatch.setattr(objective, "divisor", lambda *_: 1e-50)
    with pytest.raises(DivergedError, match="gradient norm"):
        trainer.advance()
    assert equal(weights(trainer), before)


def test_a_device_without_a_scale_is_refused_in_a_sentence(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.amp.GradScaler, "is_enabled", lambda self: False)
    with pytest.raises(ValueError, match="precision fp16 needs torch's GradScaler, which cpu has not: give bf16"):
        trainer_of(run_of({"precision": "fp16"}), models)
