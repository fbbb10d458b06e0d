"""A batch as the objective sees it: the stored rollouts, and the policy's forward pass over them. Torch only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from jackpot_sim.core.topk import TopK

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Proposed:
    """The tokens of a batch as the rollout left them; (n, length) unless said.

    Attributes:
        actor_log_probs: log q of every token, nats.
        reference_log_probs: log p_ref, from before the update.
        mask: True on tokens.
        advantage: A, shape (n,).
        topk: the actor's likeliest tokens of every state, (n, length, k); None if none were stored.
        reference_on_topk: log p_ref of these, (n, length, k); None where no correction needs it.
        uniforms: in [0, 1), one for each token: it is kept iff its uniform is below its accept probability.
    """

    actor_log_probs: Tensor
    reference_log_probs: Tensor
    mask: Tensor
    advantage: Tensor
    topk: TopK | None
    reference_on_topk: Tensor | None
    uniforms: Tensor

    def take(self, rows: Tensor | slice) -> Proposed:
        """Some of the sequences."""
        return Proposed(
            self.actor_log_probs[rows],
            self.reference_log_probs[rows],
            self.mask[rows],
            self.advantage[rows],
            None if self.topk is None else take_topk(self.topk, rows),
            None if self.reference_on_topk is None else self.reference_on_topk[rows],
            self.uniforms[rows],
        )


def take_topk(topk: TopK, rows: Tensor | slice) -> TopK:
    """The stored tokens of some sequences."""
    return TopK(topk.ids[rows], topk.log_probs[rows])


class ModelPass(NamedTuple):
    """The result of a forward pass over sequences, with its graph if it has one."""

    logits: Tensor
    """(n, length, vocab), divided by the temperature."""
    log_normaliser: Tensor
    """log Σ exp(logits), (n, length)."""
    log_probs: Tensor
    """log p of every token of the completions, (n, length), nats."""

    def on(self, topk: TopK) -> Tensor:
        """log p of other tokens of the same states, (n, length, k), nats, without a graph."""
        import torch

        return torch.as_tensor(topk.gather(self.logits.detach())) - self.log_normaliser.detach()[..., None]

    def law(self) -> Tensor:
        """log p of the whole vocabulary, (n, length, vocab), nats."""
        return self.logits - self.log_normaliser[..., None]
