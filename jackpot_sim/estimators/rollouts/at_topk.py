"""Figures at the states that rollouts visit where the actor shows its likeliest tokens alone, as a server does.

The policy's law is known in full. So the overlap Z(λ) lies in a bracket that is exact at each state, whatever the rest
of the actor's law; and what a token was accepted with is an unbiased sample of it. KL(q‖p) and the total variation are
sampled at the tokens drawn. Nothing of the size of states × vocabulary is kept.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from jackpot_sim.core import log_ratios, normalizer, obrs
from jackpot_sim.core.arrays import Array, Flags, Floats, Ints
from jackpot_sim.core.backend import namespace, row_blocks, to_numpy
from jackpot_sim.core.checks import (
    check_axes,
    check_floats,
    check_ids,
    check_integers,
    check_mask,
    check_numpy,
    check_reals,
    check_same_states,
    check_shape,
)
from jackpot_sim.core.topk import TopK


class VisitedTopK:
    """The policy at every token of n rollouts, and the brackets of Z there; arrays of shape (n, length).

    They are 0 where there is no token.

    Attributes:
        policy_log_probs: log p of the tokens that were written, nats.
        policy_on_topk: log p of the actor's likeliest tokens, float32 (n, length, k); None without any.
        low: the lower end of Z's bracket, by λ.
        high: its upper end, by λ.

    Args:
        tokens: the ids of the tokens that were written, (n, length).
        topk: the likeliest tokens of the law that was sampled from, (n, length, k); None: no bracket can be had.
        lams: each λ at which Z is wanted.

    Raises:
        TypeError: ids are no numpy array of integers.
        ValueError: a shape does not fit.
    """

    def __init__(self, tokens: Ints, topk: TopK | None, lams: Iterable[float]) -> None:
        check_numpy(tokens=tokens)
        check_axes(check_integers(tokens, "tokens"), "tokens", "n", "length")
        self._tokens, self._topk = tokens, topk
        self.policy_log_probs = np.zeros(tokens.shape)
        self.policy_on_topk: Floats | None = None
        self.low: dict[float, Floats] = {}
        self.high: dict[float, Floats] = {}
        if topk is not None:
            check_same_states(tokens[..., None], topk.ids, "tokens[..., None]", "topk")
            self.policy_on_topk = np.zeros(topk.ids.shape, dtype=np.float32)
            self.low, self.high = ({lam: np.zeros(tokens.shape) for lam in lams} for _ in range(2))

    def add(self, sequence: Ints, step: Ints, policy: Array) -> None:
        """Adds the states of a few tokens, at places (rows,), from the policy's laws, (rows, vocab), nats.

        Raises:
            TypeError: the laws hold no real floating numbers, or places are no numpy arrays of integers.
            ValueError: a shape does not fit, a place lies outside the rollouts, or an id outside the vocabulary.
        """
        check_axes(check_reals(policy, "policy"), "policy", "rows", "vocab")
        check_numpy(sequence=sequence, step=step)
        for place, below, name in zip((sequence, step), self._tokens.shape, ("sequence", "step"), strict=True):
            check_shape(check_ids(place, below, name), tuple(policy.shape[:1]), name, "one place per row of the laws")
        chosen = self._tokens[sequence, step]
        check_ids(chosen, policy.shape[1], "tokens")
        xp = namespace(policy)
        for few in row_blocks(*policy.shape):
            rows, law = (sequence[few], step[few]), policy[few, :]
            ids = xp.asarray(chosen[few][:, None], device=law.device)
            self.policy_log_probs[rows] = to_numpy(xp.take_along_axis(law, ids, axis=-1)[:, 0])
            if self._topk is not None:
                self._bracket(rows, law, self._topk)

    def _bracket(self, rows: tuple[Ints, Ints], law: Array, topk: TopK) -> None:
        """Adds the brackets at some states."""
        xp = namespace(law)
        here = TopK(*(xp.asarray(each[rows], device=law.device) for each in (topk.ids, topk.log_probs)))
        assert self.policy_on_topk is not None
        self.policy_on_topk[rows] = to_numpy(here.gather(law))
        for lam in self.low:
            low, high = normalizer.actor_topk_bracket(law, here.ids, here.log_probs, lam)
            self.low[lam][rows], self.high[lam][rows] = to_numpy(low), to_numpy(high)

    def calibrated(self, lam: float, log_ratio: Floats, mask: Flags, replicate: Ints) -> Floats:
        """Ẑ(λ) at every state, (n, length): the point of each bracket that the tokens of its update point to.

        It is `normalizer.calibrated`, over the tokens of each replicate.

        Args:
            lam: a λ of the brackets.
            log_ratio: log p − log q at the tokens, (n, length), nats.
            mask: True on tokens, (n, length).
            replicate: the update of each sequence, (n,).

        Raises:
            TypeError: the mask is not boolean, log-ratios are no real floating numbers, or replicates no integers.
            ValueError: a shape differs.
        """
        check_numpy(mask=mask, replicate=replicate)
        check_mask(mask, self._tokens, "tokens")
        check_floats(log_ratio, self._tokens.shape, "log_ratio", "one number per token")
        check_shape(check_integers(replicate, "replicate"), self._tokens.shape[:1], "replicate", "one per sequence")
        out = np.zeros(self._tokens.shape)
        for each in np.unique(replicate):
            live = mask & (replicate == each)[:, None]
            accept = np.asarray(obrs.acceptance_probability(log_ratio[live], lam))
            out[live] = normalizer.calibrated(self.low[lam][live], self.high[lam][live], accept)
        return out


def sampled_divergences(log_ratio: Floats, mask: Flags, *, cuts: bool) -> dict[str, Floats]:
    """Samples of KL(q‖p) and of the total variation at the tokens that the actor drew, (n, length), 0 at padding.

    kl_actor_policy is k3 = r − 1 − ℓ, nats, whose mean is KL(q‖p) where the actor may draw every token of the policy.
    Where its sampler cuts some, k3 would be biased, and it is the noisier k1 = −ℓ. total_variation is 1 − min(1, r).

    Args:
        log_ratio: ℓ = log p − log q of the law that was sampled from, (n, length), nats.
        mask: True on tokens, (n, length).
        cuts: whether the sampler cuts tokens.

    Raises:
        TypeError: the mask is not boolean, or log-ratios are no real floating numbers.
        ValueError: a shape differs.
    """
    check_mask(mask, check_reals(log_ratio, "log_ratio"), "log_ratio")
    log_ratio = np.where(mask, log_ratio, 0.0)
    kl = log_ratios.k1(log_ratio) if cuts else log_ratios.k3(log_ratio)
    accept = np.asarray(obrs.acceptance_probability(log_ratio, 1.0))
    return {"kl_actor_policy": np.asarray(kl), "total_variation": 1 - accept}
