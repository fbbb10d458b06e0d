"""SkyRL's policy loss, against a stand-in that calls it as SkyRL's worker does; the real file is for `real_files`."""

from __future__ import annotations

import inspect
import pickle
import sys
import types
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from jackpot_sim.integrations.corrected import Loss
from jackpot_sim.integrations.skyrl import corrected_policy_loss, register
from jackpot_sim.requirements import RequirementError
from jackpot_sim.training.objective import Aggregation, Divisor
from tests.cases import each
from tests.integrations.packed_batches import with_observations
from tests.integrations.parity import CENTRED, CORRECTIONS, Case, OnTheBatchsDevice, assert_equal, case

CONFIG = SimpleNamespace(eps_clip_low=0.2, eps_clip_high=0.28, off_policy_correction=SimpleNamespace())
REDUCTIONS = {"token_mean": Aggregation.TOKEN_MEAN, "sequence_mean": Aggregation.SEQUENCE_MEAN}


def scaled(batch: Case, reduction: str) -> Tensor:
    """Advantages as SkyRL hands them over: over the divisor of its reduction."""
    mask = batch.mask.float()
    advantages = batch.advantage[:, None] * torch.ones_like(mask)
    return advantages / (mask.sum() if reduction == "token_mean" else len(mask) * mask.sum(-1, keepdim=True))


def called(batch: Case, reduction: str = "token_mean", **own: Any) -> tuple[Tensor, dict[str, float]]:
    """SkyRL's call, on a mask of numbers as it has them."""
    given = batch.given
    arguments = {"config": CONFIG, "loss_mask": batch.mask.float(), "rollout_logprobs": given.actor_log_probs} | own
    loss = corrected_policy_loss(batch.settings)
    return loss(batch.new_log_probs(), given.reference_log_probs, scaled(batch, reduction), **arguments)


@each("reduction", REDUCTIONS)
@pytest.mark.parametrize("divisor", list(Divisor))
@each("name", CORRECTIONS)
def test_loss_and_gradient_are_the_projects_own(name: str, divisor: Divisor, reduction: str) -> None:
    batch = case(CORRECTIONS[name], topk=False, divisor=divisor)
    loss, _ = called(batch, reduction)
    expected = batch.own(Loss(REDUCTIONS[reduction], clip=CONFIG.eps_clip_low, clip_high=CONFIG.eps_clip_high))
    assert_equal((loss, batch.gradient(loss)), expected)


@each("name", CORRECTIONS)
def test_tokens_that_no_policy_wrote_have_no_part(name: str) -> None:
    """Their log-probs are 0 at SkyRL's engines, and numbers at its policy."""
    batch = with_observations(case(CORRECTIONS[name], topk=False))
    whole = batch.logits.log_softmax(-1).gather(-1, batch.ids[..., None])[..., 0]
    given = batch.given
    old = torch.where(batch.mask, given.reference_log_probs, -3.0)
    loss, _ = corrected_policy_loss(batch.settings)(
        whole, old, scaled(batch, "token_mean"), CONFIG, batch.mask.float(), given.actor_log_probs
    )
    assert_equal((loss, batch.gradient(loss)), batch.own(Loss(clip=0.2, clip_high=0.28)))


def test_the_signature_is_the_registrys() -> None:
    names = ["log_probs", "old_log_probs", "advantages", "config", "loss_mask", "rollout_logprobs"]
    assert list(inspect.signature(corrected_policy_loss("tis")).parameters) == names


def test_figures_are_numbers_by_names_that_say_how_they_are_reduced() -> None:
    _, figures = called(case(CORRECTIONS["jackpot"], topk=False))
    assert {type(each) for each in figures.values()} == {float}
    assert {"clip_ratio", "jackpot_sim/ratio_max", "jackpot_sim/ratio_min", "jackpot_sim/overlap_p05"} <= set(figures)
    assert not any(name.endswith("_loss") for name in figures)  # these SkyRL would sum


def test_the_clip_ratio_is_the_share_of_clipped_tokens() -> None:
    batch = case(CORRECTIONS["tis"], topk=False)
    ratio = (batch.new_log_probs() - batch.given.reference_log_probs).exp().detach()
    gain = batch.advantage[:, None].expand(ratio.shape)
    clipped = ((ratio > 1.28) & (gain > 0)) | ((ratio < 0.8) & (gain < 0))
    share = float(clipped[batch.mask].double().mean())
    assert share > 0
    assert called(batch)[1]["clip_ratio"] == share


@each("name", ["tis", "jackpot"])
def test_a_microbatch_of_padding_has_a_loss_of_zero_and_the_same_figures(name: str) -> None:
    batch = case(CORRECTIONS[name], topk=False)
    loss, figures = called(batch, loss_mask=torch.zeros(batch.mask.shape))
    assert float(loss.detach()) == 0
    assert not batch.gradient(loss).any()
    assert list(figures) == list(called(batch)[1])
    assert figures["jackpot_sim/ratio_min"] == 1


def test_without_a_mask_every_token_counts() -> None:
    batch = case(CORRECTIONS["tis"], topk=False)
    loss, _ = called(batch, loss_mask=None)
    assert torch.equal(loss, called(batch, loss_mask=torch.ones(batch.mask.shape))[0])


def test_a_mask_of_weights_weighs_each_token() -> None:
    batch = case(CORRECTIONS["tis"], topk=False)
    assert torch.equal(called(batch, loss_mask=batch.mask / 2)[0], called(batch)[0] / 2)


def test_precision_is_kept() -> None:
    batch = case(CORRECTIONS["jackpot"], topk=False)
    given = batch.given
    new = batch.new_log_probs().bfloat16()
    loss, _ = corrected_policy_loss("jackpot")(
        new, given.reference_log_probs, scaled(batch, "token_mean"), CONFIG, batch.mask, given.actor_log_probs
    )
    assert loss.dtype == torch.bfloat16


def test_missing_log_probs_are_named_with_the_way_to_get_them() -> None:
    with pytest.raises(ValueError, match=r"rollout_logprobs: set generator\.sampling_params\.logprobs=1"):
        called(case(CORRECTIONS["tis"], topk=False), rollout_logprobs=None)


def test_skyrls_own_correction_beside_it_is_refused() -> None:
    twice = SimpleNamespace(
        eps_clip_low=0.2, eps_clip_high=0.2, off_policy_correction=SimpleNamespace(tis_ratio_type="token")
    )
    with pytest.raises(ValueError, match=r"off_policy_correction\.tis_ratio_type would correct beside"):
        called(case(CORRECTIONS["tis"], topk=False), config=twice)


def test_a_centred_correction_is_refused_when_it_is_named() -> None:
    with pytest.raises(ValueError, match="needs the actor's likeliest tokens"):
        corrected_policy_loss(CENTRED)


def test_register_puts_a_loss_that_can_be_sent_into_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    held: dict[str, Any] = {}
    module = types.ModuleType("skyrl.backends.skyrl_train.utils.ppo_utils")
    module.PolicyLossRegistry = SimpleNamespace(register=held.__setitem__)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    register("jackpot3", "{kind: jackpot, c1: 3}")
    assert pickle.loads(pickle.dumps(held["jackpot3"])) == corrected_policy_loss({"kind": "jackpot", "c1": 3})


def test_nothing_is_made_apart_from_the_batchs_device() -> None:
    batch = case(CORRECTIONS["jackpot"], topk=False)
    arguments = batch.new_log_probs(), batch.given.reference_log_probs, scaled(batch, "token_mean"), CONFIG
    loss, actor = corrected_policy_loss("jackpot"), batch.given.actor_log_probs
    with OnTheBatchsDevice() as made:
        loss(*arguments, batch.mask, actor)
    assert made.on
    assert made.apart == []


def test_without_skyrl_it_says_what_to_install() -> None:
    with pytest.raises(RequirementError, match=r"pip install skyrl, on Python 3\.12"):
        register()
