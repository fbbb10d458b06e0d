"""prime-rl's custom loss, against stand-ins of its classes and of its sum; the real file is for `real_files`."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
from typing import Any

import pytest
import torch
from torch import Tensor

from jackpot_sim.integrations.corrected import Loss
from jackpot_sim.integrations.prime_rl import corrected_loss
from tests.cases import each
from tests.integrations.parity import CENTRED, CORRECTIONS, Case, OnTheBatchsDevice, assert_equal, case


@dataclasses.dataclass
class LossInputs:
    trainer_logprobs: Tensor
    inference_logprobs: Tensor
    ref_logprobs: Tensor | None
    advantages: Tensor
    loss_mask: Tensor
    loss_weights: Tensor | None = None


@dataclasses.dataclass
class LossOutputs:
    loss: Tensor
    metrics: dict[str, Tensor]


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("prime_rl.trainer.rl.loss")
    module.LossOutputs = LossOutputs  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)


def rows(batch: Case) -> list[Case]:
    """Each sequence of a batch as a batch of its own: what prime-rl's loss sees at once."""
    return [
        dataclasses.replace(
            batch,
            logits=batch.logits[at : at + 1].detach().requires_grad_(),
            **{name: getattr(batch, name)[at : at + 1] for name in ("before", "actor", "ids", "mask", "advantage")},
        )
        for at in range(len(batch.mask))
    ]


def inputs_of(row: Case, **own: Any) -> LossInputs:
    (actor,), (new,), (mask,) = row.of(row.actor), row.new_log_probs(), row.mask
    return LossInputs(
        **{
            "trainer_logprobs": new,
            "inference_logprobs": actor,
            "ref_logprobs": None,
            "advantages": row.advantage.expand(len(new)),
            "loss_mask": mask,
        }
        | own
    )


def own(row: Case) -> tuple[float, Tensor]:
    """The project's sum over a sequence's tokens, with its gradient."""
    loss, gradient = row.own(Loss(clip=None, bypass=True))
    tokens = int(row.mask.sum())
    return loss * tokens, gradient * tokens


@each("name", CORRECTIONS)
def test_loss_and_gradient_are_the_projects_own_over_the_tokens_of_the_batch(name: str) -> None:
    batch = rows(case(CORRECTIONS[name], topk=False))
    scale = sum(int(row.mask.sum()) for row in batch)
    correction = CORRECTIONS[name]
    losses = [corrected_loss(inputs_of(row), correction).loss / scale for row in batch]
    gradients = torch.cat([row.gradient(loss) for row, loss in zip(batch, losses, strict=True)])
    expected = [own(row) for row in batch]
    assert_equal(
        (torch.stack(losses).sum(), gradients),
        (sum(loss for loss, _ in expected) / scale, torch.cat([gradient for _, gradient in expected]) / scale),
    )


def test_the_signature_is_prime_rls() -> None:
    parameters = list(inspect.signature(corrected_loss).parameters.values())
    assert [each.name for each in parameters[:2]] == ["inputs", "correction"]
    assert all(each.default is not each.empty or each.kind is each.VAR_KEYWORD for each in parameters[1:])


@each("name", ["tis", "jackpot"])
def test_figures_are_numbers_that_prime_rl_stacks_in_the_same_order_for_each_sequence(name: str) -> None:
    row = rows(case(CORRECTIONS[name], topk=False))[0]
    full = corrected_loss(inputs_of(row), CORRECTIONS[name]).metrics
    empty = corrected_loss(inputs_of(row, loss_mask=torch.zeros(row.mask.shape[1]) > 0), CORRECTIONS[name]).metrics
    assert list(full) == list(empty)
    assert all(each.shape == () and each.dtype == torch.float32 and not each.requires_grad for each in full.values())
    assert ("jackpot_sim/overlap/mean" in full) is (name == "jackpot")


def test_a_sequence_without_tokens_has_a_loss_of_zero_that_goes_backward() -> None:
    row = rows(case(CORRECTIONS["jackpot"], topk=False))[0]
    found = corrected_loss(inputs_of(row, loss_mask=torch.zeros(row.mask.shape[1]) > 0))
    assert float(found.loss.detach()) == 0
    assert not row.gradient(found.loss).any()


def test_loss_weights_multiply_each_tokens_term_and_not_its_correction() -> None:
    row = rows(case(CORRECTIONS["jackpot"], topk=False))[0]
    weights = torch.linspace(0.0, 2.0, row.mask.shape[1])
    loss = corrected_loss(inputs_of(row, loss_weights=weights, loss_mask=row.mask[0] & (weights != 0))).loss
    alone = [
        corrected_loss(inputs_of(row, loss_weights=torch.where(torch.arange(len(weights)) == at, 1.0, 0.0))).loss
        for at in range(len(weights))
    ]
    assert len(alone) == len(weights)
    with_all = corrected_loss(inputs_of(row, loss_weights=weights)).loss
    parts = sum(float(weight) * float(each.detach()) for weight, each in zip(weights, alone, strict=True))
    assert abs(float(with_all.detach()) - parts) < 1e-5 * abs(parts)
    assert float(loss.detach()) != parts  # prime-rl takes tokens of weight 0 out of the mask, and so out of Ẑ
    with pytest.raises(ValueError, match="loss_weights must be at least 0"):
        corrected_loss(inputs_of(row, loss_weights=weights - 0.01))


@pytest.mark.parametrize(
    ("correction", "sentence"),
    [
        (CENTRED, "needs the actor's likeliest tokens"),
        ({"kind": "tis", "divisor": "accepted"}, "sees one sequence, and .* set divisor: proposed"),
        ("m2po", "sees one sequence, and m2po divides by a batch"),
        ("jackpott", "did you mean 'jackpot'"),
    ],
)
def test_what_one_sequence_cannot_tell_is_refused(correction: Any, sentence: str) -> None:
    row = rows(case(CORRECTIONS["tis"], topk=False))[0]
    with pytest.raises(ValueError, match=sentence):
        corrected_loss(inputs_of(row), correction)


def test_precision_is_kept_and_keyword_arguments_are_settings() -> None:
    row = rows(case(CORRECTIONS["jackpot"], topk=False))[0]
    inputs = inputs_of(row)
    losses = [corrected_loss(inputs, "jackpot", seed=seed).loss for seed in (0, 0, *range(1, 10))]
    assert {each.dtype for each in losses} == {torch.float32}
    assert torch.equal(losses[0], losses[1])
    assert len({float(each.detach()) for each in losses}) > 1
    low = corrected_loss(dataclasses.replace(inputs, trainer_logprobs=inputs.trainer_logprobs.bfloat16()))
    assert low.loss.dtype == torch.bfloat16


def test_nothing_is_made_apart_from_the_sequences_device() -> None:
    inputs = inputs_of(rows(case(CORRECTIONS["jackpot"], topk=False))[0])
    with OnTheBatchsDevice() as made:
        corrected_loss(inputs)
    assert made.on
    assert made.apart == []
