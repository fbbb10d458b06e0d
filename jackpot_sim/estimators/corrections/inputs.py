"""The tokens that a correction weighs, and the pair that it gives each of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Generic, NamedTuple, cast

import numpy as np
from typing_extensions import TypeVar

from jackpot_sim.core.arrays import Array, Floats, Namespace
from jackpot_sim.core.backend import (
    as_array,
    floating,
    is_differentiated,
    namespace,
    overflow_to_inf,
    read_only,
    stop_gradient,
)
from jackpot_sim.core.checks import check_beside, check_mask, check_same_shape

HOW_TO_GIVE = {
    "overlap": "pass Z(lam), for instance obrs.overlap(policy, actor, lam)[..., None] beside log-ratios of whole laws",
    "policy_log_probs": "pass log p of each token, or log q as actor_log_probs",
    "actor_log_probs": "pass log q of each token, or log p as policy_log_probs",
    "advantages": "pass one per sequence, shape (..., 1), or one per token",
}
"""The advice in the error for a missing input, by the field of `Tokens`."""

A = TypeVar("A", bound=Array, default=Array)


class TokenWeights(NamedTuple, Generic[A]):
    """The accept probability and the weight of each token, both of the log-ratio's shape."""

    accept: A
    """a, in [0, 1]: the probability that the token stays in the update."""
    weight: A
    """w ≥ 0, by which a token that stays is multiplied."""

    def expected(self) -> A:
        """a·w, and 0 where a is 0: a token that is never accepted weighs nothing, even if its weight is infinite."""
        xp = namespace(self.accept)
        return cast("A", self.accept * xp.where(self.accept > 0, self.weight, 0.0))


def in_numpy(pair: TokenWeights) -> TokenWeights[Floats]:
    """A pair that was computed from numpy arrays, typed as numpy arrays; shapes stay."""
    return TokenWeights(np.asarray(pair.accept), np.asarray(pair.weight))


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens that a correction weighs, with everything that any correction looks at.

    Every field but the first is optional; a correction raises an error if a field that it `needs` is missing.
    Policy and actor log-probs are those of the token itself; each follows from the other and ℓ.

    >>> import numpy as np
    >>> from jackpot_sim import estimators
    >>> tokens = Tokens(np.log([[0.5, 4.0]]), mask=np.array([[True, False]]))
    >>> estimators.get("is").weights(tokens).weight
    array([[0.5, 0. ]])

    Attributes:
        log_ratio: ℓ = policy_log_probs − actor_log_probs, any shape, nats. For corrections of sequences
            the last axis is time, shape (..., length).
        policy_log_probs: log p of each token, the shape of `log_ratio`, nats.
        actor_log_probs: log q of each token, the same shape, nats.
        overlap: Z(λ) at the correction's `overlap_lam`; a number or the axes of `log_ratio`, each as long or 1,
            so that one per state or sequence has shape (..., 1).
        log_reference_ratio: log p_ref − log p_new of each token, the same shape, where the target is p_new;
            None: the target is p_ref.
        mask: True on tokens that count, boolean, the shape of `log_ratio`; None: all tokens count. The other
            tokens may hold anything, NaN included; their a and w are 0.
        advantages: A of each token; a number or the axes of `log_ratio`, each as long or 1, so that one per
            sequence has shape (..., 1).

    Raises:
        ValueError: `log_ratio` holds NaN at a token that counts, or a shape does not fit.
        TypeError: `mask` is not boolean, or another field holds no real floating numbers.
    """

    log_ratio: Array
    _: KW_ONLY
    policy_log_probs: Array | None = None
    actor_log_probs: Array | None = None
    overlap: Array | None = None
    log_reference_ratio: Array | None = None
    mask: Array | None = None
    advantages: Array | None = None

    def __post_init__(self) -> None:
        log_ratio = floating(self.log_ratio, "log_ratio")
        xp = namespace(log_ratio)
        if self.mask is not None:
            check_mask(self.mask, log_ratio, "log_ratio")
            log_ratio = namespace(log_ratio, self.mask).where(self.mask, log_ratio, 0.0)
        if bool(xp.any(xp.isnan(log_ratio))):
            raise ValueError("log_ratio holds NaN: no correction can weigh it")
        for name in ("policy_log_probs", "actor_log_probs", "log_reference_ratio"):
            given = getattr(self, name)
            if given is not None:
                check_same_shape(log_ratio, floating(given, name), "log_ratio", name)
        for name in ("overlap", "advantages"):
            given = getattr(self, name)
            if given is not None:
                namespace(log_ratio, given)
                check_beside(given, log_ratio, name, "log_ratio")
        object.__setattr__(self, "log_ratio", log_ratio)
        # Shared by copies, which differ in the overlap alone unless there is a mask.
        object.__setattr__(self, "_known", {})
        object.__setattr__(self, "_without_nans", set())

    @property
    def live(self) -> Array:
        """The mask, the shape of `log_ratio`; all True where none was given."""
        xp = namespace(self.log_ratio)
        return xp.ones_like(self.log_ratio, dtype=xp.bool) if self.mask is None else self.mask

    @property
    def xp(self) -> Namespace:
        """The functions of the tokens' array library: `xp.exp`, `xp.where`, `xp.minimum`."""
        return namespace(self.log_ratio)

    def once(self, name: str, compute: Callable[[], Array]) -> Array:
        """The result of `compute`, from log-ratios and log-probs, kept under a name for other corrections.

        It is computed anew for tokens with a mask, whose fields are changed, and where a gradient flows through them.
        """
        known: dict[str, Array] = vars(self)["_known"]
        if self.mask is not None or is_differentiated(self.log_ratio):
            return compute()
        if name not in known:
            known[name] = compute()
        return known[name]

    @property
    def ratio(self) -> Array:
        """r = e^ℓ of each token, the shape of `log_ratio`."""
        with overflow_to_inf():
            return self.once("ratio", lambda: namespace(self.log_ratio).exp(self.log_ratio))

    @property
    def ratio_less_one(self) -> Array:
        """r − 1 of each token, likewise, with the digits of a small difference."""
        with overflow_to_inf():
            return self.once("ratio_less_one", lambda: namespace(self.log_ratio).expm1(self.log_ratio))

    def with_overlap(self, overlap: Array) -> Tokens:
        """The same tokens with another overlap, and with what is known of them.

        Raises:
            TypeError: the overlap is of another library.
            ValueError: its shape does not fit.
        """
        namespace(self.log_ratio, overlap)
        check_beside(overlap, self.log_ratio, "overlap", "log_ratio")
        return self._replaced({"overlap": overlap})

    def ones(self) -> Array:
        """1 for each token, the shape of `log_ratio`: the accept probability or weight without effect."""
        return namespace(self.log_ratio).ones_like(self.log_ratio)

    def with_needed(self, needs: frozenset[str], owner: str) -> Tokens:
        """The tokens, in which the fields that a correction needs are checked, and are 0 at masked tokens.

        Args:
            needs: the names of these fields.
            owner: the correction's name, for errors.

        Raises:
            ValueError: a field is missing, has a wrong shape, or holds NaN at a token that counts.
        """
        fields = {name: self._needed(name, owner) for name in needs}
        if self.log_reference_ratio is not None:
            fields["log_reference_ratio"] = self._without_nan("log_reference_ratio", self.log_reference_ratio, owner)
        return self._replaced(fields) if fields else self

    def only(self, fields: frozenset[str]) -> Tokens:
        """The tokens, in which all optional fields but these and the mask are None."""
        return self._replaced(dict.fromkeys({*HOW_TO_GIVE, "log_reference_ratio"} - fields))

    def read_only(self) -> Tokens:
        """The tokens for code that might write into what other corrections read; numpy refuses that."""
        given = {name: getattr(self, name) for name in ("log_ratio", "mask", "log_reference_ratio", *HOW_TO_GIVE)}
        tokens = self._replaced({name: read_only(each) for name, each in given.items() if each is not None})
        known = {name: read_only(each) for name, each in vars(self)["_known"].items()}
        object.__setattr__(tokens, "_known", known)
        return tokens

    def _replaced(self, fields: Mapping[str, Array | None]) -> Tokens:
        """The tokens with other values in some fields, which are not checked again."""
        tokens = copy.copy(self)
        for name, value in fields.items():
            object.__setattr__(tokens, name, value)
        return tokens

    def _needed(self, name: str, owner: str) -> Array:
        value: Array | None = getattr(self, name)
        if value is None and name == "policy_log_probs" and self.actor_log_probs is not None:
            value = self.actor_log_probs + self.log_ratio
        elif value is None and name == "actor_log_probs" and self.policy_log_probs is not None:
            value = self.policy_log_probs - self.log_ratio
        if value is None:
            raise ValueError(f"{owner} needs {name}: {HOW_TO_GIVE[name]}")
        if name == "overlap":
            if not bool(namespace(self.log_ratio).all(as_array(stop_gradient(value), self.log_ratio) >= 0)):
                raise ValueError(f"{owner}: overlap holds NaN or a negative number")
            return value
        if name == "advantages":
            value = namespace(self.log_ratio).broadcast_to(as_array(value, self.log_ratio), self.log_ratio.shape)
        return self._without_nan(name, value, owner)

    def _without_nan(self, name: str, value: Array, owner: str) -> Array:
        xp, without_nans = namespace(value), vars(self)["_without_nans"]
        if self.mask is not None:
            value = xp.where(self.mask, value, 0.0)
        if self.mask is not None or name not in without_nans:
            if bool(xp.any(xp.isnan(value))):
                raise ValueError(f"{name} holds NaN: {owner} cannot weigh it")
            without_nans.add(name)
        return value


V = TypeVar("V")


def given(value: V | None) -> V:
    """`value`, which is not None because the correction `needs` it."""
    assert value is not None
    return value


def only_live(pair: TokenWeights, live: Array) -> TokenWeights:
    """The pair, broadcast to the mask's shape, with a and w 0 at masked tokens."""
    xp = namespace(live)
    return TokenWeights(*(xp.where(live, field, 0.0) for field in pair))


def of_all(pair: TokenWeights, shape: tuple[int, ...]) -> TokenWeights:
    """The pair, broadcast to the tokens' shape."""
    return TokenWeights(*(x if x.shape == shape else namespace(x).broadcast_to(x, shape) for x in pair))
