"""Bias, variance and MSE of a correction from gradients in a real model's parameters.

An update X_r is the gradient that a trainer would take from n_samples sequences of the actor after each of the
prompts, divided by their number N. Y_r is the same from the policy's own sequences; its mean is the true gradient

    g = E[Y] = mean over prompts of E_{y~p}[A(y) Σ_t ∇ log p(y_t|s_t)].

Prompts are fixed and sequences random, so that the variance is that within prompts. All figures follow from inner
products of independent updates, as in `sequences.sampled`. There the gradients of prompts are separate vectors; here
they are added up, because prompts share the model's parameters. With one prompt the two are the same.

Where ‖g‖² is not well above its own standard error, all figures in units of ‖g‖² are unreliable.
"""

from __future__ import annotations

import math
from enum import StrEnum

import numpy as np

from jackpot_sim.core.arrays import Flags, Floats
from jackpot_sim.core.checks import check_floats
from jackpot_sim.estimators.replicates import Gram, gradient_figures, jackknife


class Spread(StrEnum):
    """The units from whose spread the variance of an update is estimated.

    REPLICATES: the spread of the updates, mean ‖X_r‖² − mean ⟨X_r, X_r'⟩. Right for every correction and
        denominator, with replicates − 1 degrees of freedom.
    SEQUENCES: the spread of the sequences x of each prompt, Σ_prompts n_samples · s², s² being their variance
        (Σ‖x‖² − ‖Σx‖²/n)/(n − 1) over the n = replicates · n_samples of them. Much less noisy, and right only
        where sequences are independent: with the `proposed` denominator and without corrections that look at
        the batch.
    """

    REPLICATES = "replicates"
    SEQUENCES = "sequences"


class Updates:
    """Independent updates, accumulated as their gradients come in.

    Args:
        replicates: the number of updates, at least 3.
        parameters: the length of a gradient.
        prompts: the number of prompts of an update.
        limit: the most bytes that may be held; the updates take half of them, the sums of a prompt the rest.

    Raises:
        ValueError: there are fewer than 3 replicates, no prompt, or more bytes than the limit.
    """

    def __init__(self, replicates: int, parameters: int, prompts: int = 1, *, limit: int = 8 << 30) -> None:
        if replicates < 3:
            raise ValueError(f"replicates must be at least 3, got {replicates}")
        if prompts < 1:
            raise ValueError(f"prompts must be at least 1, got {prompts}")
        if (needed := 2 * replicates * parameters * 8) > limit:
            raise ValueError(
                f"{replicates} updates of {parameters:,} parameters take {needed / 2**30:.3g} GiB and the limit is "
                f"{limit / 2**30:.3g} GiB: take a smaller block of parameters, or fewer replicates or estimators"
            )
        self.total: Floats = np.zeros((replicates, parameters))
        """X_r, (replicates, parameters)."""
        self.prompts = prompts
        self.filled: Flags = np.zeros(replicates, dtype=np.bool_)
        """True for replicates to which a gradient was added, (replicates,)."""
        self._in_parts = False
        self._strata: dict[int, _Stratum] = {}
        """The sums of each prompt whose sequences were added; sequences may still be added to the last."""
        self._open: int | None = None
        self._sums: Floats = np.zeros((0, parameters))
        """Σ x of the open prompt, by replicate."""

    def add(self, replicate: int, gradient: Floats) -> None:
        """Adds a part of an update, (parameters,), already divided by the divisor of the update.

        Raises:
            TypeError: the gradient is not a numpy array of real floating numbers.
            ValueError: the gradient has another shape, or there is no such replicate.
        """
        self._check(replicate, gradient)
        self._add(replicate, gradient)
        self._in_parts = True

    def add_sequence(self, replicate: int, prompt: int, gradient: Floats) -> None:
        """Adds the gradient of one sequence, (parameters,), already divided by the divisor, even if it is 0.

        The sequences of a prompt must come one after the other, in any order of replicates, so that only the sums
        of one prompt are held.

        Raises:
            TypeError: the gradient is not a numpy array of real floating numbers.
            ValueError: a prompt comes back after another, there are more prompts than announced, the gradient has
                another shape, or there is no such replicate.
        """
        self._check(replicate, gradient)
        if prompt != self._open:
            self._begin(prompt)
        stratum = self._strata[prompt]
        self._add(replicate, gradient)
        self._sums[replicate] += gradient
        stratum.count[replicate] += 1
        stratum.square[replicate] += gradient @ gradient

    def _check(self, replicate: int, gradient: Floats) -> None:
        if not 0 <= replicate < len(self.total):
            raise ValueError(f"replicate must lie from 0 to {len(self.total) - 1}, got {replicate}")
        check_floats(gradient, self.total.shape[1:], "gradient", "one number per parameter")

    def _add(self, replicate: int, gradient: Floats) -> None:
        self.total[replicate] += gradient
        self.filled[replicate] = True

    def _begin(self, prompt: int) -> None:
        if prompt in self._strata:
            raise ValueError(f"prompt {prompt} comes back after another: add the sequences of a prompt together")
        if len(self._strata) == self.prompts:
            raise ValueError(f"prompt {prompt} is one more than the {self.prompts} announced")
        self._close()
        self._open, self._sums = prompt, np.zeros(self.total.shape)
        self._strata[prompt] = _Stratum(len(self.total))

    def _close(self) -> None:
        if self._open is not None:
            self._strata[self._open].close(self._sums)

    def variance(self, n_samples: int) -> Floats:
        """The variance of an update from its sequences, with all replicates and with each left out; (1 + replicates,).

        Raises:
            ValueError: sequences were not added one by one, or not n_samples of each prompt and replicate.
        """
        if self._in_parts or len(self._strata) != self.prompts:
            raise ValueError(
                "the variance cannot come from sequences: all of them, of every prompt, must be added by "
                "add_sequence; take it from replicates"
            )
        self._close()
        for prompt, stratum in self._strata.items():
            if np.any(stratum.count != n_samples):
                raise ValueError(
                    f"prompt {prompt} has {int(stratum.count.min())} to {int(stratum.count.max())} sequences in a "
                    f"replicate, and n_samples is {n_samples}"
                )
        return np.asarray(n_samples * sum(stratum.variances() for stratum in self._strata.values()))


class _Stratum:
    """Sums over the sequences of one prompt, for each replicate."""

    def __init__(self, replicates: int) -> None:
        self.count, self.square, self.own, self.along = (np.zeros(replicates) for _ in range(4))
        """Counts, Σ‖x‖², ‖S_r‖² and ⟨S_r, S⟩, where S_r is the sum of the replicate and S the sum of all."""

    def close(self, sums: Floats) -> None:
        self.own = np.einsum("rp,rp->r", sums, sums)
        self.along = sums @ sums.sum(axis=0)

    def variances(self) -> Floats:
        """The variance s² with all replicates and with each left out, shape (1 + replicates,)."""

        def all_and_without(each: Floats) -> Floats:
            return np.asarray(each.sum() - np.concatenate([[0.0], each]))

        count, square = all_and_without(self.count), all_and_without(self.square)
        sum_sq = self.along.sum() - np.concatenate([[0.0], 2 * self.along - self.own])
        return np.asarray((square - sum_sq / count) / (count - 1))


def figures(
    actor: Updates,
    policy: Updates,
    *,
    n_samples: int,
    actor_spread: Spread | str = Spread.REPLICATES,
    policy_spread: Spread | str = Spread.REPLICATES,
) -> tuple[dict[str, float], dict[str, float]]:
    """The figures of `replicates.gradient_figures` and three more, with the standard error of each.

    grad_norm_sq is ‖g‖², on_policy_variance the variance of one sequence of the policy (N times that of Y), and
    noise_to_signal their ratio. variance is in units of on_policy_variance, all else in units of ‖g‖². Standard
    errors are delete-one jackknives over replicates; that of bias_sq is too large, by up to a half, where the bias
    is negligible. If the estimate of ‖g‖² is not positive, figures in units of it are nan. If `bias_sq` comes out
    negative, `bias` is nan.

    Only ⟨X_r, Y_r'⟩ of different r are used, so that the r-th updates of both may share their random numbers.

    Args:
        actor: updates from the actor's sequences under a correction, with any denominator.
        policy: as many updates from the policy's own sequences, with all weights 1.
        n_samples: sequences of each prompt in an update.
        actor_spread: the `Spread` that gives the variance of the actor's updates.
        policy_spread: the same for the policy's updates, whose sequences are always independent.

    Raises:
        ValueError: the two differ in shape or prompts, a replicate holds no gradient, n_samples < 1, or as
            `Updates.variance`.
    """
    if n_samples < 1:
        raise ValueError(f"n_samples must be at least 1, got {n_samples}")
    if actor.total.shape != policy.total.shape or actor.prompts != policy.prompts:
        raise ValueError(
            f"actor holds {_size(actor)} and policy {_size(policy)}: both need the same replicates, "
            "parameters and prompts"
        )
    for name, updates in (("actor", actor), ("policy", policy)):
        if not updates.filled.all():
            raise ValueError(
                f"{name} holds no gradient of replicate {int(np.argmin(updates.filled))}: add one to every replicate, "
                "even if it is 0"
            )
    draws = _Draws(actor, policy, n_samples, Spread(actor_spread), Spread(policy_spread))
    value = draws.figures(None)
    left_out = [draws.figures(without) for without in range(len(actor.total))]
    return value, {name: jackknife([each[name] for each in left_out]) for name in value}


def _size(updates: Updates) -> str:
    replicates, parameters = updates.total.shape
    return f"{replicates} x {parameters} ({updates.prompts} prompts)"


class _Draws:
    """Inner products of all updates, and the variances that are estimated from sequences."""

    def __init__(self, actor: Updates, policy: Updates, n_samples: int, *spreads: Spread) -> None:
        self._sequences = n_samples * actor.prompts
        """N, the number of proposals in an update."""
        self._grams = {}
        pairs = {"own": (actor, actor), "cross": (actor, policy), "wanted": (policy, policy)}
        for name, (first, second) in pairs.items():
            self._grams[name] = Gram(len(actor.total))
            self._grams[name].products += first.total @ second.total.T
        self._variances = [
            updates.variance(n_samples) if spread is Spread.SEQUENCES else None
            for updates, spread in zip((actor, policy), spreads, strict=True)
        ]

    def figures(self, without: int | None) -> dict[str, float]:
        """The figures by name, from all replicates or all but one."""
        (own, others), (_, dot), (wanted, signal) = (gram.means(without) for gram in self._grams.values())
        variance, noise = (
            spread - mean if known is None else float(known[0 if without is None else 1 + without])
            for spread, mean, known in zip((own, wanted), (others, signal), self._variances, strict=True)
        )
        on_policy_variance = self._sequences * noise
        unit = np.float64(signal if signal > 0 else math.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            return gradient_figures(
                own=others + variance,
                others=others,
                dot=dot,
                signal=unit,
                on_policy_variance=on_policy_variance,
                n_samples=self._sequences,
            ) | {
                "grad_norm_sq": float(signal),
                "on_policy_variance": float(on_policy_variance),
                "noise_to_signal": float(on_policy_variance / unit),
            }
