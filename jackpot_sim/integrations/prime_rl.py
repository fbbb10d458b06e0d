"""Corrections in prime-rl, as its custom loss.

    [trainer.loss]
    type = "custom"
    import_path = "jackpot_sim.integrations.prime_rl.corrected_loss"

    [trainer.loss.kwargs]
    correction = "{kind: jackpot, c1: 3}"

prime-rl has no log-probs from before the update: the correction leads from the engine to the policy under way, and a
token adds −SG(m·w) A log p to the loss. prime-rl calls the loss on one sequence, and divides the sum of all by the
tokens of the batch, rejected ones too. So Ẑ is the mean acceptance probability of the sequence, and what looks at a
batch is refused.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from jackpot_sim.core.checks import check_mask, check_reals, check_same_shape
from jackpot_sim.integrations.corrected import Loss, Settings, agreement, metrics, policy_loss, uniforms
from jackpot_sim.integrations.versions import warn_untested
from jackpot_sim.training.objective import Divisor, Proposed, TokenPass

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "jackpot_sim/"
"""Put before the names of figures in prime-rl's log."""


class LossInputs(Protocol):
    """The part of prime-rl's class of this name that is used: one sequence, (seq,)."""

    @property
    def trainer_logprobs(self) -> Tensor:
        """log p of each token with its graph, nats."""

    @property
    def inference_logprobs(self) -> Tensor:
        """log q of each token, nats."""

    @property
    def advantages(self) -> Tensor:
        """A of each token."""

    @property
    def loss_mask(self) -> Tensor:
        """True on the tokens that count."""

    @property
    def loss_weights(self) -> Tensor | None:
        """The weight of each token in the loss; None: 1."""


def corrected_loss(inputs: LossInputs, correction: object = "jackpot", **own: object) -> object:
    """prime-rl's loss of one sequence under a correction, as its `LossOutputs`: the sum over tokens, and figures.

    Args:
        inputs: the sequence.
        correction: a name, a preset, a mapping, or its text in YAML.
        **own: `seed`, as `Settings.of` has it.

    Raises:
        TypeError: the mask is not boolean, or another array holds no real floating numbers.
        ValueError: no such correction, one that needs more than the sequence, a shape that differs, or a negative
            loss weight.

    Warns:
        UntestedVersionWarning: prime-rl has another version than the one that was tested.
    """
    import torch

    settings = settings_of(correction, **own)
    warn_untested("prime-rl")
    _check(inputs)
    new, mask = inputs.trainer_logprobs[None], inputs.loss_mask[None]
    if bool(mask.any()):
        actor = inputs.inference_logprobs[None]
        drawn = uniforms(actor, mask, settings.seed, name="inference_logprobs")
        before = new.detach().to(actor.dtype)
        given = Proposed(actor, before, mask, inputs.advantages[None], None, None, drawn, overlap_of_batch=True)
        shares = _shares(inputs)[None]
        total, corrected = policy_loss(settings, given, TokenPass(new), Loss(clip=None), shares)
        loss, figures = total.to(new.dtype), metrics(corrected, given)
    else:
        loss, figures = 0.0 * new.sum(), agreement(settings)
    values = torch.tensor(list(figures.values()), dtype=torch.float32, device=new.device)
    logged = dict(zip((PREFIX + name for name in figures), values.unbind(), strict=True))
    return import_module("prime_rl.trainer.rl.loss").LossOutputs(loss=loss, metrics=logged)


def settings_of(correction: object, **own: object) -> Settings:
    """The correction that prime-rl's configuration names.

    Raises:
        ValueError: as `Settings.of`, or the correction looks at a batch, of which prime-rl's loss sees one sequence.
    """
    settings = Settings.of(correction, **own)  # type: ignore[arg-type]
    name = settings.correction.name
    if settings.divisor is not Divisor.PROPOSED or settings.correction.looks_at_batch:
        raise ValueError(f"prime-rl's loss sees one sequence, and {name} divides by a batch: set divisor: proposed")
    if settings.correction.subtracts_mean:
        raise ValueError(f"{name} needs the actor's likeliest tokens, which prime-rl's loss does not see")
    return settings


def _check(inputs: LossInputs) -> None:
    check_mask(inputs.loss_mask, inputs.trainer_logprobs, "trainer_logprobs", "loss_mask")
    for name in ("trainer_logprobs", "inference_logprobs", "advantages", "loss_weights"):
        values = getattr(inputs, name)
        if values is not None:
            check_same_shape(inputs.loss_mask, check_reals(values, name), "loss_mask", name)


def _shares(inputs: LossInputs) -> Tensor:
    """The weight of each token in the sum, (seq,)."""
    import torch

    if inputs.loss_weights is None:
        return torch.ones_like(inputs.trainer_logprobs.detach())
    if bool((inputs.loss_weights < 0).any()):
        raise ValueError("loss_weights must be at least 0: a negative weight turns the correction round")
    return inputs.loss_weights
