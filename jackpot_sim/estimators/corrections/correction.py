"""A correction is a pair (accept probability a, weight w) for each token of the actor.

Tokens come from the actor q; the policy p is trained. A correction maps the log-ratio ℓ = log p − log q
(and, for some, the overlap Z, the advantage, or p and q themselves) to a and w, and the update sees m·w·f(x)
with m ~ Bernoulli(a). Masks are part of a, so that acceptance rates and denominators are right for them too.

Most corrections weigh each token by itself. Some look at the whole sequence, whose tokens lie along the last axis.
A few look at the whole batch; they have no moments per sample, and `in_the_limit` gives the correction that they
become in an infinitely large batch.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from typing_extensions import override

from jackpot_sim.core.arrays import Array, Floats
from jackpot_sim.core.backend import namespace, overflow_to_inf
from jackpot_sim.core.checks import check_beside
from jackpot_sim.estimators.corrections.foreign import checked_pair, in_range
from jackpot_sim.estimators.corrections.inputs import Tokens, TokenWeights, of_all, only_live
from jackpot_sim.estimators.corrections.parameters import Parameter, log_of
from jackpot_sim.estimators.corrections.pieces import Piece


class Level(StrEnum):
    """The context from which a correction weighs a token."""

    TOKEN = "token"
    """The token alone: the weight is a function of (state, token), and perhaps of the sign of the advantage."""
    SEQUENCE = "sequence"
    """The token with the rest of its sequence, or of the batch."""


@dataclass(frozen=True)
class Correction(ABC):
    """The base class of corrections, which are frozen dataclasses whose fields are the parameters.

    A subclass defines `accept` and `weight`, and names in `_looks_at` the fields of `Tokens` that they read
    besides `log_ratio` and `mask`; in `_threshold` it names the parameter, if any, that `optimum.best` is to choose. A
    parameter may be an array that broadcasts against the log-ratio: a threshold
    for each state, shape (states, 1), or a path of thresholds for `path.exact`.

    A subclass that may aim at p_new has a field `c2`, the cap on p_ref/p_new: where the tokens carry
    `log_reference_ratio`, its weight has the factor min(p_ref/p_new, c2).
    """

    name: ClassVar[str]
    _looks_at: ClassVar[frozenset[str]] = frozenset()
    _threshold: ClassVar[str | None] = None

    @property
    @abstractmethod
    def level(self) -> Level:
        """The context from which a token is weighed."""

    @property
    def unit(self) -> Level:
        """The unit over which self-normalised weights are averaged."""
        return self.level

    @property
    def looks_at_batch(self) -> bool:
        """True where a sequence's weights depend on the other sequences of the batch."""
        return False

    @property
    def is_per_token(self) -> bool:
        """True where the weights of a token depend on its state, its id and its advantage alone."""
        return self.level is Level.TOKEN and not self.looks_at_batch

    @property
    def fits_a_table(self) -> bool:
        """True where the weights of a token depend on its state and its id alone, not on any advantage."""
        return self.is_per_token and "advantages" not in self.needs

    @property
    def draws_mask(self) -> bool:
        """True where tokens are kept by chance, so that `rao_blackwell` has noise to remove."""
        return False

    @property
    def weighs(self) -> bool:
        """True where it has weights besides 1: a correction without any only masks."""
        return type(self).weight is not Correction.weight

    @property
    def rejects(self) -> bool:
        """True where it may keep less than every token: False for one that only weighs."""
        return (type(self).accept, type(self).pair) != (Correction.accept, Correction.pair)

    @property
    def subtracts_mean(self) -> bool:
        """True where a token's term loses its mean over the actor's law: the correction is `centred`."""
        return False

    @property
    def carries_reference_ratio(self) -> bool:
        """True where the weight has the factor p_ref/p_new if the target is p_new."""
        return getattr(self, "c2", None) is not None

    @property
    def overlap_lam(self) -> Parameter | None:
        """The λ whose overlap Z(λ) the weights need; None where they need no overlap."""
        return None

    @property
    def threshold_parameter(self) -> str | None:
        """The parameter that trades bias for variance, of which `optimum.best` finds the best value."""
        return self._threshold

    @property
    def needs(self) -> frozenset[str]:
        """The fields of `Tokens` that the pair depends on, besides `log_ratio` and `mask`."""
        return self._looks_at if self.overlap_lam is None else self._looks_at | {"overlap"}

    def outside(self, tokens: Tokens) -> tuple[Array, Array] | None:
        """The tokens whose ratio lies below, and above, the bounds within which the correction leaves it alone.

        Both are boolean, of the shape of log_ratio or (..., 1) for the ratio of a sequence, before masking; None for a
        correction without bounds on a ratio.

        Args:
            tokens: checked, as in `accept`.
        """
        return None

    def weights(
        self,
        tokens: Tokens | Array,
        overlap: Array | None = None,
        *,
        policy_log_probs: Array | None = None,
        actor_log_probs: Array | None = None,
        log_reference_ratio: Array | None = None,
        mask: Array | None = None,
        advantages: Array | None = None,
    ) -> TokenWeights:
        """The accept probability and the weight of each token, both of the shape of log_ratio; 0 at masked ones.

        Args:
            tokens: the tokens, or their log-ratios alone; the other arguments are then the fields of `Tokens`.
            overlap: as in `Tokens`.
            policy_log_probs: as in `Tokens`.
            actor_log_probs: as in `Tokens`.
            log_reference_ratio: as in `Tokens`.
            mask: as in `Tokens`.
            advantages: as in `Tokens`.

        Raises:
            ValueError: a field that the correction needs is missing or holds NaN where it counts, a parameter
                does not fit the tokens' shape, or as `Tokens`; a correction that is not ours fails, or gives no
                probabilities and weights.
            TypeError: other arguments are given beside a `Tokens`, or as `Tokens`.
        """
        fields = {
            "overlap": overlap,
            "policy_log_probs": policy_log_probs,
            "actor_log_probs": actor_log_probs,
            "log_reference_ratio": log_reference_ratio,
            "mask": mask,
            "advantages": advantages,
        }
        if not isinstance(tokens, Tokens):
            tokens = Tokens(tokens, **fields)
        elif any(value is not None for value in fields.values()):
            raise TypeError("tokens is a Tokens: give the other arguments as its fields")
        tokens = self.checked(tokens)
        with overflow_to_inf():
            pair = self.pair(tokens)
        if not is_ours(type(self)) and type(self).pair is not Correction.pair:
            pair = in_range(self.name, pair, tokens)
        for field, value in zip(TokenWeights._fields, pair, strict=True):
            check_beside(value, tokens.log_ratio, f"{self.name}: {field}", "log_ratio")
        if tokens.mask is None:
            return of_all(pair, tokens.log_ratio.shape)
        return only_live(pair, tokens.mask)

    def checked(self, tokens: Tokens) -> Tokens:
        """The tokens, in which the fields that the correction needs are present and checked.

        Raises:
            ValueError: as `weights`.
        """
        if self.level is Level.SEQUENCE and tokens.log_ratio.ndim == 0:
            raise ValueError(f"{self.name} needs log_ratio of shape (..., length), tokens along the last axis, got ()")
        for name, value in self.parameters().items():
            if getattr(value, "ndim", 0):
                check_beside(value, tokens.log_ratio, f"{self.name}: {name}", "log_ratio")
        return tokens.with_needed(self.needs, self.name)

    def pair(self, tokens: Tokens) -> TokenWeights:
        """The pair of checked tokens, before masking: masked tokens may have any values."""
        if is_ours(type(self)):
            accept, weight = self.accept(tokens), self.weight(tokens)
        else:
            accept, weight = checked_pair(self.name, self.accept, self.weight, tokens.only(self.needs).read_only())
        cap: Parameter | None = getattr(self, "c2", None)
        if cap is None or tokens.log_reference_ratio is None:
            return TokenWeights(accept, weight)
        xp = namespace(tokens.log_reference_ratio)
        capped = xp.minimum(tokens.log_reference_ratio, log_of(cap, tokens.log_reference_ratio))
        return TokenWeights(accept, weight * xp.exp(capped))

    def accept(self, tokens: Tokens) -> Array:
        """a in [0, 1] of each token, the shape of log_ratio; or (..., 1), one for all tokens of a sequence.

        Args:
            tokens: checked: log-ratios, advantages and log-probs are 0 at masked tokens.
        """
        return tokens.ones()

    def weight(self, tokens: Tokens) -> Array:
        """w ≥ 0, without p_ref/p_new; arguments and shapes as in `accept`."""
        return tokens.ones()

    def kept_from(self, tokens: Tokens) -> Array | None:
        """The least threshold at which each token is kept, the shape of log_ratio; inf for one that never is.

        It is for masks that are 1 or 0, keep more tokens the larger the threshold is, and have weights that do not
        depend on it: the MSE is then constant between two such numbers, and the best threshold exact. None for others.
        """
        return None

    def in_the_limit(self, tokens: Tokens, probability: Array) -> Correction:
        """The correction that this one becomes in an infinitely large batch drawn from a known law.

        A correction that does not look at the batch is its own limit.

        Args:
            tokens: the tokens of every possible sequence, shape (n, length).
            probability: the probability of each sequence in the batch, shape (n,).

        Raises:
            ValueError: as `weights`, or `probability` is no law over the n sequences.
        """
        return self

    def pieces(self, overlap: Floats | None = None, sign: int = 0) -> tuple[Piece, ...]:
        """The pair as monomials of r on stretches of r, for `path`.

        Args:
            overlap: Z(overlap_lam) of the state, a number or shape (thresholds,), where the correction needs it.
            sign: the sign of the tokens' advantage, −1, 0 or 1, for corrections that look at it.

        Raises:
            TypeError: the correction is not piecewise monomial in r, given Z and the sign of A.
        """
        raise TypeError(f"{self.name} is not piecewise monomial in the importance ratio: it has no path")

    def parameters(self) -> dict[str, Any]:
        """The parameters by name, as records store them."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def at(self, rows: slice) -> Correction:
        """The correction of a block of states: parameters of shape (states, 1) are cut to `rows`."""
        arrays: dict[str, Array] = {k: v for k, v in self.parameters().items() if getattr(v, "ndim", 0) == 2}
        cut = {name: value[rows, ...] for name, value in arrays.items() if value.shape[0] > 1}
        return dataclasses.replace(self, **cut) if cut else self


def is_ours(correction: type[Correction]) -> bool:
    """True for a correction of this package, False for one that a user or another package adds."""
    return correction.__module__.partition(".")[0] == __name__.partition(".")[0]


@dataclass(frozen=True)
class TokenCorrection(Correction):
    """A correction of each token by itself. A subclass defines a and w."""

    @property
    @override
    def level(self) -> Level:
        return Level.TOKEN
