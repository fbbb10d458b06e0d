"""Gradients of weighted log-probs of rollouts in the parameters of a model's final norm, from its states.

    Σ_i Σ_t c[k, i, t] · ∂ log p(y_t | s_t) / ∂θ_norm

Each log-prob depends on the norm at its own state alone. So one pass through the head and back gives the gradient of
every token, and any sum of them, for any coefficients, is a product of matrices. Terms of other tokens than those
written take a pass back for each set of coefficients.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from functools import cached_property

import numpy as np

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.core.checks import check_reals, check_shape
from jackpot_sim.core.support import SamplingMask
from jackpot_sim.environments.language_models.block_gradients import OtherTokens
from jackpot_sim.environments.language_models.library import Model, Tensor
from jackpot_sim.environments.language_models.reading import Reader
from jackpot_sim.environments.language_models.walking import on_device, scoring_mode


class NormGradients:
    """The gradients of the log-probs of n rollouts in the final norm.

    Args:
        reader: the reader of the policy, whose final norm is known.
        states: the policy's states at the tokens, (n, length, width).
        tokens: the rollouts, (n, length).
        mask: True on tokens, (n, length).
        kept: the tokens on which log p is renormalised; None: all.
        temperature: the divisor of the logits.
        rows: states at a time.
    """

    def __init__(
        self,
        reader: Reader,
        states: Tensor,
        tokens: Ints,
        mask: Flags,
        kept: SamplingMask | None,
        temperature: float,
        rows: int,
    ) -> None:
        check_reals(states, "states", "n", "length", "width")
        check_shape(states[..., 0], tokens.shape, "states", "some numbers for each token")
        self.temperature = temperature
        assert reader.norm is not None  # of a model without one no gradients are asked for here
        self._norm: Model = reader.norm
        self._reader, self._states, self._tokens, self._mask = reader, states, tokens, mask
        self._kept, self._rows = kept, rows
        self._done: Flags = np.zeros(len(tokens), dtype=np.bool_)
        self._own: Floats = np.zeros((*tokens.shape, sum(weight.numel() for weight in self._weights.values())))

    @staticmethod
    def bytes_of(norm: Model, tokens: int) -> int:
        """The bytes of the gradients of so many tokens: float64, for each parameter of the norm."""
        return 8 * tokens * sum(int(weight.numel()) for weight in norm.parameters())

    @property
    def names(self) -> frozenset[str]:
        """The names of the norm's parameters in the model."""
        weights = {id(weight) for weight in self._norm.parameters()}
        return frozenset(name for name, weight in self._reader.model.named_parameters() if id(weight) in weights)

    def of(
        self, coefficients: Floats, batches: Iterable[slice], others: OtherTokens | None = None
    ) -> Iterator[tuple[slice, Floats]]:
        """The gradient of every slice of rollouts, as `block_gradients.gradients` gives it for the norm's parameters.

        Args:
            coefficients: c, (kinds, n, length), of any value at padding.
            batches: the rollouts whose gradients are added up, one slice after the other.
            others: further tokens of the same states, with coefficients for each set; None: none.

        Raises:
            ValueError: a shape differs.
        """
        check_reals(coefficients, "coefficients", "kinds", "n", "length")
        check_shape(coefficients, (len(coefficients), *self._mask.shape), "coefficients", "one number per token")
        coefficients = np.where(self._mask, coefficients, 0.0)
        self._fill(np.flatnonzero(np.any(coefficients != 0, axis=(0, 2)) & ~self._done))
        if others is not None:
            check_shape(others.ids, (*self._mask.shape, others.ids.shape[-1]), "others.ids", "some tokens beside each")

        def gradient(rows: slice) -> Floats:
            own = coefficients[:, rows]
            finite: Flags = np.asarray(np.isfinite(own).all(axis=(1, 2)))
            out = np.einsum("kit,itp->kp", np.where(finite[:, None, None], own, 0.0), self._own[rows])
            if others is not None:
                beside = others.beside(np.zeros_like(own), rows, self._mask[rows])[..., 1:]
                finite &= np.isfinite(beside).all(axis=(1, 2, 3))
                out += self._of_others(rows, others.ids, np.where(finite[:, None, None, None], beside, 0.0))
            out[~finite] = np.nan
            return np.asarray(out)

        return ((rows, gradient(rows)) for rows in batches)

    @cached_property
    def _weights(self) -> dict[str, Tensor]:
        return {name: weight.detach() for name, weight in self._norm.named_parameters()}

    def _fill(self, rows: Ints) -> None:
        """Finds the gradients of the tokens written in these rollouts."""
        mask = np.zeros_like(self._mask)
        mask[rows] = self._mask[rows]
        for at in self._blocks(mask):
            hidden, log_probs = self._log_probs(at)
            chosen = log_probs.gather(-1, on_device(self._reader.model, self._tokens[at][:, None]))
            self._own[at] = self._in_norm(at, hidden, chosen.sum(), retain=False)
        self._done[rows] = True

    def _of_others(self, rows: slice, ids: Ints, coefficients: Floats) -> Floats:
        """The terms of other tokens of some rollouts, (kinds, parameters), from coefficients (kinds, m, length, j)."""
        model = self._reader.model
        out = np.zeros((len(coefficients), self._own.shape[-1]))
        start, _, _ = rows.indices(len(self._mask))
        mask = np.zeros_like(self._mask)
        mask[rows] = self._mask[rows] & coefficients.any(axis=(0, 3))
        for at in self._blocks(mask):
            hidden, log_probs = self._log_probs(at)
            picked = log_probs.gather(-1, on_device(model, ids[at]))
            for kind in np.flatnonzero(coefficients.any(axis=(1, 2, 3))):
                total = (picked * on_device(model, coefficients[kind, at[0] - start, at[1]]).to(picked.dtype)).sum()
                out[kind] += self._in_norm(at, hidden, total, retain=True).sum(axis=0)
        return out

    def _blocks(self, mask: Flags) -> Iterator[tuple[Ints, Ints]]:
        """The rows and steps of the tokens of a mask, some at a time."""
        row, step = np.nonzero(mask)
        for start in range(0, len(row), self._rows):
            yield row[start : start + self._rows], step[start : start + self._rows]

    def _log_probs(self, at: tuple[Ints, Ints]) -> tuple[Tensor, Tensor]:
        """The last hidden states at some tokens, (tokens, width), and log p there of them, (tokens, vocab)."""
        import torch

        model = self._reader.model
        with scoring_mode(model, differentiable=True):
            with torch.no_grad():
                hidden = self._reader.hidden(self._values(at))
            scores = self._reader.logits(hidden.requires_grad_())
            # Half precision has too few digits for a law over a large vocabulary.
            scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) / self.temperature
            if self._kept is not None:
                some = dataclasses.replace(self._kept, places=self._kept.places[at])
                scores = scores.masked_fill(~on_device(model, some.dense(scores.shape[-1])), -torch.inf)
            return hidden, torch.log_softmax(scores, dim=-1)

    def _in_norm(self, at: tuple[Ints, Ints], hidden: Tensor, total: Tensor, *, retain: bool) -> Floats:
        """The gradient of a sum over tokens in the norm's parameters, a row for each token, (tokens, parameters)."""
        import torch

        def weighed(weights: dict[str, Tensor], state: Tensor, along: Tensor) -> Tensor:
            normed: Tensor = torch.func.functional_call(self._norm, weights, (state[None],))
            return (normed[0] * along).sum()

        with scoring_mode(self._reader.model, differentiable=True):
            (along,) = torch.autograd.grad(total, hidden, retain_graph=retain)
            by_name = torch.func.vmap(torch.func.grad(weighed), in_dims=(None, 0, 0))(
                self._weights, self._values(at), along
            )
            flat = torch.cat([by_name[name].flatten(1) for name in self._weights], dim=-1)
        return np.asarray(flat.detach().double().cpu().numpy())

    def _values(self, at: tuple[Ints, Ints]) -> Tensor:
        row, step = (on_device(self._reader.model, each) for each in at)
        return self._states[row, step]
