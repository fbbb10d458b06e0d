"""One GRPO step on given rollouts, with the part that corrects the mismatch timed inside it.

The step is that of a trainer: forward pass of the policy, PPO's clipped loss with GRPO advantages, backward
pass, AdamW ([J] §4.2 and Algorithm 1). A correction enters at one place: between the forward pass and the
loss it makes one factor m·w for each token, of which no gradient is taken. The forward pass has already computed
all that a correction needs of the policy, the log-normaliser included.

The step is shorter than a real one, and so a correction's share of it larger: it has no prompt, no padding, no
gradient clipping, no reference model, no forward pass for p_ref, and no float32 master copy where the weights are
bfloat16.

The formulas are those of `training.objective`; the weights and the loss are called apart, so that the weights can be
timed. The inputs of the weights differ from the training loop's: they have no mask, since every token counts; they stay
in the model's precision; and Z is computed in one of several ways.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from jackpot_sim.bench.shapes import Model
from jackpot_sim.core import normalizer, obrs
from jackpot_sim.core.arrays import Array
from jackpot_sim.core.topk import TopK
from jackpot_sim.environments.language_models.library import logits
from jackpot_sim.estimators import Correction, Tokens
from jackpot_sim.training.config import Update
from jackpot_sim.training.objective import ModelPass, advantages, draw, ppo_loss, token_shares, weights_of

if TYPE_CHECKING:
    from torch import Tensor

UPDATE = Update()
"""PPO's clipping, and the mean over tokens."""
LEARNING_RATE = 1e-6
ACTOR_NOISE = 0.1
"""The standard deviation of the difference between the actor's logits and the policy's."""


class WayToZ(StrEnum):
    """The ways to compute the overlap Z of a token's state."""

    BRACKET = "bracket"
    """Ends on the actor's stored top-k, O(k) per token, and `normalizer.calibrated` between them."""
    KAPPA = "kappa"
    """κ·Z_k on TopK(q) ∪ TopK(p) ([J] §4.4). The actor on TopK(p) comes from its full laws: no rollout has it."""
    EXACT = "exact"
    """Σ min(q, p/λ) from both full laws."""

    @property
    def needs_laws(self) -> bool:
        """True where the actor's log-probs of the whole vocabulary have to be stored."""
        return self is not WayToZ.BRACKET


@dataclass(frozen=True, eq=False)
class Rollouts:
    """The tensors that are stored when sequences are written, all but `laws` small.

    Attributes:
        ids: one token to begin with and then the sequence, int64 of shape (batch, length + 1).
        rewards: shape (batch,): one group.
        reference_log_probs: log p_ref of each token, from before the update; float32 of shape (batch, length), nats.
        actor_log_probs: log p_inf of each token, the same shape and dtype.
        topk: the actor's likeliest tokens at each position, shape (batch, length, k).
        laws: the actor's log-probs in full, float32 of shape (batch, length, vocab); None where nothing needs them.
    """

    ids: Tensor
    rewards: Tensor
    reference_log_probs: Tensor
    actor_log_probs: Tensor
    topk: TopK
    laws: Tensor | None

    def stored_bytes(self, correction: Correction | None, way: WayToZ | None) -> int:
        """The bytes that are kept from the rollout to the update for this correction."""
        tensors = [self.ids, self.rewards, self.reference_log_probs]
        tensors += [self.actor_log_probs] if correction is not None else []
        tensors += [self.laws] if way is not None and way.needs_laws and self.laws is not None else []
        topk = self.topk.nbytes if way in (WayToZ.BRACKET, WayToZ.KAPPA) else 0
        return sum(tensor.nbytes for tensor in tensors) + topk


Weigh: TypeAlias = "Callable[[Rollouts, ModelPass, Tensor], Tensor]"
"""A function of rollouts, the policy's pass and uniforms in [0, 1), (batch, length), to m·w, (batch, length)."""


def weigh(
    correction: Correction, way: WayToZ | None, rollouts: Rollouts, policy: ModelPass, uniforms: Tensor
) -> Tensor:
    """m·w of every token, shape (batch, length).

    The target is p_new for a correction with a factor p_ref/p_new, and p_ref for others.

    Args:
        correction: one that weighs each token by itself.
        way: the way to Z; None where the correction needs no Z.
        rollouts: the stored rollouts.
        policy: the forward pass, cut from the graph.
        uniforms: one in [0, 1) for each token; they decide the masks.

    Raises:
        ValueError: the correction needs Z and no way is given, or the laws that the way needs are not stored.
    """
    to_new = correction.carries_reference_ratio
    target = policy.log_probs if to_new else rollouts.reference_log_probs
    log_ratio = target - rollouts.actor_log_probs
    overlap = None
    if correction.overlap_lam is not None and way is not None:
        overlap = _overlap(way, float(correction.overlap_lam), rollouts, policy, log_ratio, uniforms)
    back = rollouts.reference_log_probs - target if to_new else None
    weights = weights_of(correction, Tokens(log_ratio, overlap=overlap, log_reference_ratio=back))
    return draw(weights, uniforms)[1]


def _overlap(
    way: WayToZ, lam: float, rollouts: Rollouts, policy: ModelPass, log_ratio: Tensor, uniforms: Tensor
) -> Array:
    """Ẑ, shape (batch, length)."""
    accept = obrs.acceptance_probability(log_ratio, lam)
    if way is WayToZ.BRACKET:
        return normalizer.calibrated_on_topk(policy.on(rollouts.topk), rollouts.topk.log_probs, accept, lam)
    if rollouts.laws is None:
        raise ValueError(f"rollouts hold no laws of the actor: the way {way} needs them")
    if way is WayToZ.EXACT:
        return obrs.overlap(policy.logits - policy.log_normaliser[..., None], rollouts.laws, lam)
    return normalizer.bias_correction(_on_union(lam, rollouts.topk, rollouts.laws, policy), uniforms < accept)


def _on_union(lam: float, actor: TopK, laws: Tensor, policy: ModelPass) -> Tensor:
    """Z_k on TopK(q) ∪ TopK(p), shape (batch, length), with one pass over the vocabulary: the top-k of p."""
    import torch

    logits, ids = policy.logits.topk(actor.k, dim=-1)
    twice = (ids[..., :, None] == torch.as_tensor(actor.ids)[..., None, :]).any(-1)
    added = torch.where(twice, -math.inf, logits - policy.log_normaliser[..., None])
    p = torch.cat([policy.on(actor), added], dim=-1)
    q = torch.cat([torch.as_tensor(actor.log_probs), laws.gather(-1, ids)], dim=-1)
    return torch.as_tensor(obrs.log_overlap_terms(p, q, lam)).exp().sum(-1)


class Seconds(NamedTuple):
    """The seconds of a whole step, and of the correction's part."""

    step: float
    weights: float


class Trainer:
    """A model, its optimiser and one batch of rollouts; every `step` is a real one."""

    def __init__(self, model: Model, rollouts: Rollouts, seed: int = 0) -> None:
        import torch

        self.model, self.rollouts = model, rollouts
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
        self.generator = torch.Generator(rollouts.ids.device).manual_seed(seed)

    def step(self, weights: Weigh | None) -> Seconds:
        """One update with these weights; None corrects nothing."""
        import torch

        started = self._now()
        policy, log_probs = forward(self.model, self.rollouts.ids)
        before = self._now()
        factor = self._factor(weights, policy)
        after = self._now()
        del policy
        torch.autograd.backward(loss(log_probs, self.rollouts, factor))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return Seconds(self._now() - started, after - before if weights else 0.0)

    def held_bytes(self) -> int:
        """The bytes of the weights and of the optimiser after a step; gradients come and go."""
        states = [value for each in self.optimizer.state.values() for value in each.values()]
        return sum(math.prod(each.shape) * each.element_size() for each in [*self.model.parameters(), *states])

    def _factor(self, weights: Weigh | None, policy: ModelPass) -> Tensor | None:
        import torch

        if weights is None:
            return None
        shape, device = self.rollouts.actor_log_probs.shape, self.rollouts.ids.device
        with torch.no_grad():
            return weights(self.rollouts, policy, torch.rand(shape, generator=self.generator, device=device))

    def _now(self) -> float:
        return now(self.rollouts.ids.device.type)


def now(device: str) -> float:
    """The time in seconds: on CUDA by the wall clock after a synchronisation, on a CPU by the clock of this process.

    One thread computes on a CPU, so that both clocks agree on an idle machine. On a busy machine the wall clock would
    favour short parts: they fit between two interruptions, and a whole step does not.
    """
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def forward(model: Model, ids: Tensor) -> tuple[ModelPass, Tensor]:
    """The policy's pass over all but the last token, cut from the graph, and log p of the next tokens with its graph.

    Unlike `passes.model_pass` it makes no float32 copy of the logits, which would be the largest thing in memory.
    """
    import torch

    scores = logits(model, ids[:, :-1])
    log_normaliser = torch.logsumexp(scores.float(), dim=-1)
    log_probs = scores.gather(-1, ids[:, 1:, None]).squeeze(-1) - log_normaliser
    return ModelPass(scores.detach(), log_normaliser.detach(), log_probs.detach()), log_probs


def loss(log_probs: Tensor, rollouts: Rollouts, factor: Tensor | None) -> Tensor:
    """−mean over tokens of m·w · min(r A, clip(r, 1 − ε, 1 + ε) A) with r = p_new/p_ref ([J] §4.2)."""
    import torch

    reference = rollouts.reference_log_probs
    advantage, mask = advantages(rollouts.rewards, len(rollouts.rewards)), torch.ones_like(reference, dtype=torch.bool)
    shares = token_shares(mask, UPDATE.aggregation)
    return ppo_loss(shares if factor is None else factor * shares, log_probs, reference, advantage, mask, UPDATE)


def rollouts(model: Model, batch: int, length: int, k: int, *, laws: bool, device: str, seed: int = 0) -> Rollouts:
    """One group of sequences of random tokens, by an actor whose logits are the policy's with a little noise.

    The laws of random weights are nearly flat, and the tokens arbitrary: only time and memory are measured on them.

    Args:
        model: the policy before the update.
        batch: sequences in the group.
        length: tokens of each.
        k: the number of the actor's likeliest tokens that are stored.
        laws: whether to store the actor's laws in full.
        device: the device of the model.
        seed: the seed of tokens, rewards and noise.
    """
    import torch

    generator = torch.Generator(device).manual_seed(seed)
    vocab = model.config.vocab_size
    ids = torch.randint(vocab, (batch, length + 1), generator=generator, device=device)
    parts: list[tuple[Tensor, ...]] = []
    with torch.no_grad():
        for row in ids:  # one sequence at a time: all laws at once would be the largest thing in memory
            policy, log_probs = forward(model, row[None])
            noise = ACTOR_NOISE * torch.randn(policy.logits.shape, generator=generator, device=device)
            law = torch.log_softmax(policy.logits.float() + noise, dim=-1)
            top = TopK.of(law, k)
            token = law.gather(-1, row[None, 1:, None]).squeeze(-1)
            parts.append((log_probs, token, *map(torch.as_tensor, (top.ids, top.log_probs)), *([law] if laws else [])))
        reference, token, top_ids, top_log_probs, *full = (torch.cat(each) for each in zip(*parts, strict=True))
    rewards = torch.rand(batch, generator=generator, device=device)
    return Rollouts(ids, rewards, reference, token, TopK(top_ids, top_log_probs), full[0] if full else None)
