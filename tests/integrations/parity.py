"""One batch, and the project's own loss and gradient of it, with which every integration is compared.

The project's side goes through `objective.policy_loss` with whole logits. A test hands the same numbers to a trainer's
hook in the trainer's own form, and compares loss and gradient to 1e-5 in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from jackpot_sim.core.topk import TopK
from jackpot_sim.integrations.corrected import Loss, Settings, uniforms
from jackpot_sim.training import objective
from jackpot_sim.training.objective import ModelPass, Proposed

CORRECTIONS: Mapping[str, Mapping[str, object]] = {
    "tis": {"kind": "tis", "clip": 1.5},
    "icepop": {"kind": "icepop"},
    "sequence-mis": {"kind": "sequence-mis", "low": 0.3, "high": 3.0},
    "jackpot": {"kind": "jackpot", "seed": 3},
    "jackpot at p_new": {"kind": "jackpot", "target": "p_new"},
    "rao-blackwell jackpot": {"kind": "jackpot", "rao_blackwell": True},
}
"""The corrections compared: of tokens and sequences, masks fixed, drawn and averaged, both targets."""
CENTRED: Mapping[str, object] = {"kind": "tis", "clip": 1.5, "centred": True}
"""A correction that a factor on the loss cannot express: for hooks that make the whole loss."""
TOLERANCE = 1e-5
"""The largest relative difference in loss and gradient."""

ROWS, LENGTH, VOCAB = 6, 9, 40


@dataclass(frozen=True, eq=False)
class Case:
    """A batch of six rollouts, and a correction of it."""

    settings: Settings
    logits: Tensor
    """The policy's logits under way, a leaf of float32, (n, length, vocab)."""
    before: Tensor
    """log p_ref of the vocabulary, the same shape."""
    actor: Tensor
    """log q of the vocabulary, the same shape."""
    ids: Tensor
    """The tokens, (n, length)."""
    mask: Tensor
    """True on tokens, (n, length); padding is on the right."""
    advantage: Tensor
    """A, (n,)."""
    stored: bool
    """True where the actor's top-k was stored."""

    def of(self, law: Tensor) -> Tensor:
        """A law at the tokens, (n, length); 0 at padding, as trainers have it."""
        return torch.where(self.mask, law.gather(-1, self.ids[..., None])[..., 0], 0.0)

    @cached_property
    def topk(self) -> TopK | None:
        """The actor's likeliest tokens."""
        return TopK.of(self.actor, self.settings.topk) if self.stored else None

    @cached_property
    def given(self) -> Proposed:
        """The batch as the objective takes it."""
        actor = self.of(self.actor)
        return Proposed(
            actor_log_probs=actor,
            reference_log_probs=self.of(self.before),
            mask=self.mask,
            advantage=self.advantage,
            topk=self.topk,
            reference_on_topk=None if self.topk is None else torch.as_tensor(self.topk.gather(self.before)),
            uniforms=uniforms(actor, self.mask, self.settings.seed),
            overlap_of_batch=not self.stored,
        )

    def new_log_probs(self) -> Tensor:
        """log p_new of the tokens with its graph, (n, length)."""
        return self.of(self.logits.log_softmax(-1))

    def new_on_topk(self) -> Tensor | None:
        """log p_new of the actor's likeliest tokens with its graph."""
        return None if self.topk is None else torch.as_tensor(self.topk.gather(self.logits.log_softmax(-1)))

    def gradient(self, loss: Tensor) -> Tensor:
        """The gradient of a loss to the logits."""
        (found,) = torch.autograd.grad(loss, self.logits)
        return found

    def own(self, loss: Loss) -> tuple[float, Tensor]:
        """The project's loss, divided as the settings say, and its gradient to the logits."""
        normaliser = self.logits.logsumexp(-1)
        new = ModelPass(self.logits, normaliser, self.new_log_probs())
        found = objective.policy_loss(self.settings.correction, self.settings.target, self.given, new, loss)
        divisor = objective.divisor(
            self.settings.divisor, found.accepted, found.factor, self.mask, self.settings.correction.unit
        )
        total = found.loss / divisor
        return float(total.detach()), self.gradient(total)


def case(fields: Mapping[str, object], *, topk: bool, seed: int = 0, **own: object) -> Case:
    """A batch that a correction of `CORRECTIONS` is compared on.

    Args:
        fields: the correction.
        topk: whether the actor's likeliest tokens were stored.
        seed: the seed of the batch.
        **own: settings beside the correction: `divisor` for instance.
    """
    generator = np.random.default_rng(seed)

    def noise(scale: float) -> Tensor:
        return torch.as_tensor(scale * generator.normal(size=(ROWS, LENGTH, VOCAB)), dtype=torch.float32)

    actor = (2 * noise(1.0)).log_softmax(-1)
    before = (actor + noise(0.3)).log_softmax(-1)
    lengths = torch.as_tensor(generator.integers(2, LENGTH + 1, size=ROWS))
    lengths[0] = LENGTH
    cumulated = actor.exp().cumsum(-1)
    draws = torch.as_tensor(generator.random((ROWS, LENGTH, 1)), dtype=torch.float32)
    return Case(
        settings=Settings.of(fields, **({"topk": 8 if topk else 0} | own)),
        logits=(before + noise(0.2)).requires_grad_(),
        before=before,
        actor=actor,
        ids=(cumulated < draws).sum(-1).clamp(max=VOCAB - 1),
        mask=torch.arange(LENGTH)[None, :] < lengths[:, None],
        advantage=torch.as_tensor(generator.normal(size=ROWS), dtype=torch.float32),
        stored=topk,
    )


def assert_equal(found: tuple[Tensor, Tensor], expected: tuple[float, Tensor]) -> None:
    """Refuses a loss or a gradient, of a hook, that differs from the project's own."""
    loss, gradient = expected
    assert abs(float(found[0].detach()) - loss) <= TOLERANCE * abs(loss)
    scale = float(gradient.abs().max())
    assert scale > 0, "a gradient of zeros would agree with anything"
    assert float((found[1] - gradient).abs().max()) <= TOLERANCE * scale


class OnTheBatchsDevice(TorchFunctionMode):
    """Notes tensors that are made without a device: on a GPU they would lie apart from the batch.

    Attributes:
        apart: the functions that made them.
        on: the functions that made tensors on a device.
    """

    MAKERS = (torch.tensor, torch.zeros, torch.ones, torch.full, torch.empty, torch.arange, torch.linspace, torch.eye)

    def __init__(self) -> None:
        super().__init__()
        self.apart: list[str] = []
        self.on: list[str] = []

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        if function in self.MAKERS:
            (self.apart if named.get("device") is None else self.on).append(function.__name__)
        return function(*args, **named)
