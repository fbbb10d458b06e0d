"""A batch as the objective sees it: the stored rollouts, and the policy's forward pass over them. Torch only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from jackpot_sim.core.backend import namespace
from jackpot_sim.core.checks import check_per_token, check_reals, check_rows, check_same_states, check_shape
from jackpot_sim.core.topk import TopK

if TYPE_CHECKING:
    from torch import Tensor


class Overlap(StrEnum):
    """The way to Z(λ) of every state, from log q and log p of the k tokens that were stored.

    Z_k is the sum of min(q, p/λ) over these; that of [J] §4.4.1 takes in the policy's likeliest tokens too, of which
    rollouts tell no q.
    """

    CALIBRATED = "calibrated"
    """The point between Z_k and its upper bound at which the mean is the mean acceptance probability of the batch."""
    TOPK = "topk"
    """Z_k, which is never more than Z."""
    KAPPA = "kappa"
    """κ·Z_k, with κ = (accepted / proposed) / mean Z_k over the batch ([J] §4.4.2): unbiased in the mean alone."""
    EXACT = "exact"
    """Z, from the actor's whole law."""


@dataclass(frozen=True, eq=False)
class Proposed:
    """The tokens of a batch as the rollout left them; (n, length) unless said.

    Attributes:
        actor_log_probs: log q of every token, nats.
        reference_log_probs: log p_ref, from before the update.
        mask: True on tokens.
        advantage: A, shape (n,), or (n, length) where tokens of a sequence differ in it.
        topk: the actor's likeliest tokens of every state, (n, length, k); None if none were stored.
        reference_on_topk: log p_ref of these, (n, length, k); None where no correction needs it.
        uniforms: in [0, 1), one for each token: it is kept iff its uniform is below its accept probability.
        overlap: the way to Z where a correction needs it.
        overlap_of_batch: without a top-k, Ẑ of every state is the mean acceptance probability of the batch.

    Raises:
        TypeError: the mask is not boolean, or another array holds no real floating numbers.
        ValueError: a shape differs.
    """

    actor_log_probs: Tensor
    reference_log_probs: Tensor
    mask: Tensor
    advantage: Tensor
    topk: TopK | None
    reference_on_topk: Tensor | None
    uniforms: Tensor
    overlap_of_batch: bool = False
    overlap: Overlap = Overlap.CALIBRATED

    def __post_init__(self) -> None:
        given = ("actor_log_probs", "reference_log_probs", "uniforms")
        check_per_token(self.mask, **{name: getattr(self, name) for name in given})
        of_tokens(self.advantage, self.mask, "mask")
        if self.topk is not None:
            check_same_states(self.mask[..., None], self.topk.ids, "mask[..., None]", "topk")
        if self.reference_on_topk is not None:
            if self.topk is None:
                raise ValueError("reference_on_topk is given without topk, whose tokens it is about")
            check_on_topk(self.reference_on_topk, self.topk, "reference_on_topk")

    def take(self, rows: Tensor | slice) -> Proposed:
        """Some of the sequences, by rows (m,) or a slice."""
        check_rows(rows)
        return Proposed(
            self.actor_log_probs[rows],
            self.reference_log_probs[rows],
            self.mask[rows],
            self.advantage[rows],
            None if self.topk is None else take_topk(self.topk, rows),
            None if self.reference_on_topk is None else self.reference_on_topk[rows],
            self.uniforms[rows],
            self.overlap_of_batch,
            self.overlap,
        )


def take_topk(topk: TopK, rows: Tensor | slice) -> TopK:
    """The stored tokens of some sequences, by rows (m,) or a slice."""
    check_rows(rows)
    return TopK(topk.ids[rows], topk.log_probs[rows])


def check_on_topk(log_probs: Tensor, topk: TopK, name: str) -> None:
    """Refuses log-probs of the stored tokens that are no real floating numbers, or of another shape."""
    namespace(log_probs, topk.ids)
    shape = tuple(topk.ids.shape)
    check_shape(check_reals(log_probs, name), shape, name, "one number per token of topk")


def of_tokens(advantage: Tensor, tokens: Tensor, tokens_name: str) -> Tensor:
    """The advantage of every token, (n, length) or (n, 1), from one of each sequence, (n,), or of each token.

    Raises:
        TypeError: advantages are no real floating numbers.
        ValueError: they have neither shape.
    """
    namespace(advantage, tokens)
    each = tuple(tokens.shape) if advantage.ndim == 2 else tuple(tokens.shape[:1])
    named = "token" if advantage.ndim == 2 else "row"
    check_shape(check_reals(advantage, "advantage"), each, "advantage", f"one number for each {named} of {tokens_name}")
    return advantage if advantage.ndim == 2 else advantage[:, None]


class Scored(Protocol):
    """The policy's view of sequences, as far as a loss needs it; `ModelPass` and `TokenPass` are such views."""

    @property
    def log_probs(self) -> Tensor:
        """log p of every token of the completions, (n, length), nats, with its graph if it has one."""

    def on(self, topk: TopK, *, graph: bool = False) -> Tensor:
        """log p of other tokens of the same states, (n, length, k), nats, with the graph only where it is asked for."""

    def check(self, mask: Tensor) -> None:
        """Refuses a view of other sequences than those of a mask (n, length)."""


class TokenPass(NamedTuple):
    """The policy's log-probs of a batch without its logits, as trainers hold them."""

    log_probs: Tensor
    """log p of every token of the completions, (n, length), nats, with its graph if it has one."""
    on_topk: Tensor | None = None
    """log p of the actor's stored top-k, (n, length, k), nats, likewise; None where nothing needs them."""

    def on(self, topk: TopK, *, graph: bool = False) -> Tensor:
        """log p of the stored tokens, (n, length, k), nats, with the graph only where it is asked for.

        Raises:
            ValueError: they were not given, or are of another shape.
        """
        if self.on_topk is None:
            raise ValueError("the policy's log-probs of the actor's top-k are missing: give on_topk")
        check_on_topk(self.on_topk, topk, "on_topk")
        return self.on_topk if graph else self.on_topk.detach()

    def check(self, mask: Tensor) -> None:
        """Refuses log-probs of other sequences than those of a mask (n, length)."""
        check_per_token(mask, log_probs=self.log_probs)


class ModelPass(NamedTuple):
    """The result of a forward pass over sequences, with its graph if it has one."""

    logits: Tensor
    """(n, length, vocab), divided by the temperature; −inf on tokens outside a recorded support."""
    log_normaliser: Tensor
    """log Σ exp(logits), (n, length)."""
    log_probs: Tensor
    """log p of every token of the completions, (n, length), nats."""

    def on(self, topk: TopK, *, graph: bool = False) -> Tensor:
        """log p of other tokens of the same states, (n, length, k), nats, with the graph only where it is asked for."""
        import torch

        self._check_states()
        logits, normaliser = (each if graph else each.detach() for each in (self.logits, self.log_normaliser))
        return torch.as_tensor(topk.gather(logits)) - normaliser[..., None]

    def law(self) -> Tensor:
        """log p of the whole vocabulary, (n, length, vocab), nats."""
        self._check_states()
        return self.logits - self.log_normaliser[..., None]

    def check(self, mask: Tensor) -> None:
        """Refuses a pass over other sequences than those of a mask (n, length)."""
        check_per_token(mask, log_normaliser=self.log_normaliser, log_probs=self.log_probs)
        self._check_states()

    def _check_states(self) -> None:
        namespace(self.logits, self.log_normaliser)
        check_reals(self.logits, "logits", "n", "length", "vocab")
        check_shape(
            check_reals(self.log_normaliser, "log_normaliser"),
            tuple(self.logits.shape[:-1]),
            "log_normaliser",
            "one number per state of logits",
        )
