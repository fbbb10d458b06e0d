"""log p_ref at the tokens of a batch: read by the policy before the update, or told by a rollout that p_ref wrote.

An on-policy actor samples from p_ref itself, so that the log-probs with which the tokens were drawn are p_ref's, but
for the rounding of a forward pass that goes token by token. They are taken where three things hold: the sampler's law
is the one that the update's pass computes, the precision leaves nothing but float32's rounding between the two passes,
and the rows of the first update, which are read in any case, show no more than that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from jackpot_sim.core.checks import check_per_token, check_same_states
from jackpot_sim.core.topk import TopK
from jackpot_sim.environments.language_models.sampling_law import SamplingLaw
from jackpot_sim.training.actors import OnPolicy
from jackpot_sim.training.config import Sampling, Training
from jackpot_sim.training.loop.passes import PaddedSequences
from jackpot_sim.training.objective import ModelPass, take_topk

if TYPE_CHECKING:
    from torch import Tensor, dtype

Read: TypeAlias = Callable[[PaddedSequences], ModelPass]
"""The policy's pass over some sequences."""

_ROUNDING = 1e-4
"""The largest difference of log-probs between the rollout and a pass that counts as float32's rounding, nats.

That of SmolLM2-135M is 2e-5 among 200 tokens, and 3e-6 in the mean.
"""


class Reference(NamedTuple):
    """log p_ref of a batch."""

    log_probs: Tensor
    """Of every token, (n, length), nats."""
    on_topk: Tensor | None
    """Of the actor's stored top-k, (n, length, k), nats; None if none was stored."""
    read: ModelPass | None
    """The pass over the rows of the first update, with its graph; None where that update reads them in parts."""


def sampling_law(rollout: Sampling) -> SamplingLaw:
    """The law that the actor samples from."""
    return SamplingLaw(temperature=rollout.temperature, top_k=rollout.top_k, top_p=rollout.top_p)


def samples_from_p_ref(config: Training) -> bool:
    """True where the actor is the policy and samples from the law that the update's pass computes.

    A sampler that cuts does so where the pass is renormalised on the recorded support. In 16 bits two passes over the
    same tokens differ in the third digit, which is a mismatch to be measured and not to be overlooked.
    """
    rollout = config.rollout
    same_law = not sampling_law(rollout).cuts or rollout.log_probs == "support"
    return isinstance(config.actor, OnPolicy) and not config.is_half and same_law


def reference(
    read: Read,
    sequences: PaddedSequences,
    written: Tensor,
    topk: TopK | None,
    first: Tensor,
    *,
    dtype: dtype,
    at_once: bool,
    batch_size: int,
    told: bool,
) -> Reference:
    """log p_ref of a batch.

    In the first update of a step p_new is still p_ref. So its rows are read with a graph, for the update to use.

    Args:
        read: the policy's pass before the update.
        sequences: the batch, n sequences.
        written: log q of every token, (n, length), nats.
        topk: the actor's stored top-k, (n, length, k).
        first: the rows of the first update, (m,).
        dtype: the dtype of the log-probs, that of a pass.
        at_once: whether the first update reads its rows at once.
        batch_size: sequences that are read at a time without a graph.
        told: whether the actor `samples_from_p_ref`: then the other rows are read only if the first ones differ by more
            than rounding.

    Raises:
        TypeError: log-probs are no real floating numbers, or rows no integers.
        ValueError: a shape differs.
    """
    import torch

    check_per_token(sequences.mask, written=written)
    if topk is not None:
        check_same_states(sequences.mask[..., None], topk.ids, "mask[..., None]", "topk")
    log_probs = torch.zeros(sequences.mask.shape, dtype=dtype, device=sequences.mask.device)
    on_topk = None if topk is None else log_probs.new_zeros(topk.ids.shape)

    def filled(rows: Tensor) -> ModelPass:
        made = read(sequences.take(rows, whole_groups=len(rows) % sequences.samples == 0))
        log_probs[rows] = made.log_probs.detach()
        if topk is not None and on_topk is not None:
            on_topk[rows] = made.on(take_topk(topk, rows))
        return made

    def filled_in_parts(rows: Tensor) -> None:
        with torch.no_grad():
            for part in torch.split(rows, sequences.part_size(batch_size)):
                if len(part):
                    filled(part)

    every = torch.arange(len(sequences), device=first.device)
    others = every[~torch.isin(every, first)]
    told = told and (topk is None or topk.log_probs.dtype == dtype)
    if not told:  # the graph of the first pass is made last, beside no other pass
        filled_in_parts(others if at_once else every)
    elif not at_once:
        filled_in_parts(first)
    made = filled(first) if at_once else None
    if told and _rounded(log_probs[first], written[first], sequences.mask[first]):
        log_probs[others] = written[others].to(dtype)
        if topk is not None and on_topk is not None:
            on_topk[others] = torch.as_tensor(topk.log_probs)[others]
    elif told:
        filled_in_parts(others)
    return Reference(log_probs, on_topk, made)


def _rounded(read: Tensor, written: Tensor, mask: Tensor) -> bool:
    return bool(((read - written)[mask].abs() <= _ROUNDING).all())
