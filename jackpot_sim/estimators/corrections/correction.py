"""A correction is a pair (accept probability a, weight w), and there is one registry of them.

Tokens come from the actor q; the policy p is what is trained. A correction maps the log-ratio
ℓ = log p − log q (and, for some, the overlap Z) to a and w, and the update sees m·w·f(x) with
m ~ Bernoulli(a). Masks live in a, so that acceptance and denominators are right for them too.

Most corrections weigh each token by itself. Some look at the whole sequence, whose tokens lie along the
last axis, and a few at the whole batch; those have no moments per sample, and `in_the_limit` says what
they become when the batch is infinitely large.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, NamedTuple, TypeVar

from jackpot_sim.core.backend import Array, as_array, floating, namespace, stop_gradient, to_numpy
from jackpot_sim.core.numerics import check_same_shape, overflow_to_inf


class Level(StrEnum):
    """What a correction looks at to weigh a token."""

    TOKEN = "token"
    """Each token weighed by itself: a function of (state, token)."""
    SEQUENCE = "sequence"
    """The rest of its sequence too, or of the batch."""


class TokenWeights(NamedTuple):
    """What a correction does to each token, both of the log-ratio's shape."""

    accept: Array
    """a, in [0, 1]: the probability that the token stays in the update."""
    weight: Array
    """w ≥ 0: what multiplies it if it stays."""

    def expected(self) -> Array:
        """a·w, 0 where a is: a token that is never accepted weighs nothing, though its weight may be infinite."""
        xp = namespace(self.accept)
        return self.accept * xp.where(self.accept > 0, self.weight, 0.0)


class Monomial(NamedTuple):
    """coefficient · r^power."""

    coefficient: Any
    power: int


@dataclass(frozen=True)
class Piece:
    """One stretch of r on which both accept and weight are monomials of r."""

    upper: Any
    """log r at which it ends; the last piece ends at inf."""
    closed: bool
    """Whether its end belongs to it."""
    accept: Monomial
    weight: Monomial


ONE = Monomial(1.0, 0)
RATIO = Monomial(1.0, 1)


class Correction(ABC):
    """A frozen dataclass whose fields are its parameters.

    A parameter may be an array that broadcasts against the log-ratio: a threshold for each state,
    shape (states, 1), or a path of thresholds for `path.exact`.
    """

    name: ClassVar[str]

    @property
    @abstractmethod
    def level(self) -> Level:
        """What it looks at to weigh a token."""

    @property
    def unit(self) -> Level:
        """What its weights are averaged over, where they are: tokens or sequences."""
        return self.level

    @property
    def looks_at_batch(self) -> bool:
        """Whether a sequence's weights depend on the other sequences of the batch."""
        return False

    @property
    def is_per_token(self) -> bool:
        """Whether a token's weights are a function of (state, token) alone."""
        return self.level is Level.TOKEN and not self.looks_at_batch

    @property
    def draws_mask(self) -> bool:
        """Whether a token is kept by chance, so that there is noise for `rao_blackwell` to remove."""
        return False

    @property
    def carries_reference_ratio(self) -> bool:
        """Whether its weight has p_ref/p_new as a factor where the target is p_new."""
        return False

    @property
    def overlap_lam(self) -> Any | None:
        """The λ whose overlap Z(λ) the weights need; None where they need no overlap."""
        return None

    @abstractmethod
    def weights(
        self,
        log_ratio: Array,
        overlap: Array | None = None,
        *,
        log_reference_ratio: Array | None = None,
        mask: Array | None = None,
        advantages: Array | None = None,
    ) -> TokenWeights:
        """The accept probability and the weight of each token.

        Args:
            log_ratio: ℓ = policy_log_probs − actor_log_probs, any shape, nats. At level `sequence` the
                last axis is time, shape (..., length).
            overlap: Z(overlap_lam), broadcasting against `log_ratio`: add the vocabulary or time axis.
            log_reference_ratio: log p_ref − log p_target, where the target is p_new; None says that
                the target is p_ref itself.
            mask: True on tokens that count, boolean, the shape of `log_ratio`; None: all of them. What the
                others hold does not matter, NaN included, and both results are 0 there.
            advantages: for corrections that look at their sign; it broadcasts against `log_ratio`, so
                that one per sequence has shape (..., 1).

        Raises:
            ValueError: `log_ratio` or `overlap` holds NaN where it counts, `mask` is not such a mask, or
                something that this correction needs is missing.
        """

    def in_the_limit(
        self,
        log_ratio: Array,
        probability: Array,
        *,
        overlap: Array | None = None,
        log_reference_ratio: Array | None = None,
        mask: Array | None = None,
        advantages: Array | None = None,
    ) -> Correction:
        """The correction that this one becomes in an infinitely large batch drawn from a known law.

        One that does not look at the batch is its own limit.

        Args:
            log_ratio: ℓ of every sequence there is, shape (n, length).
            probability: that of each sequence in the batch, shape (n,).
            overlap: as in `weights`, and so are the others.
            log_reference_ratio: see there.
            mask: see there.
            advantages: see there.

        Raises:
            ValueError: as `weights`, or `probability` is no law over the n sequences.
        """
        return self

    def pieces(self, overlap: Array | None = None) -> tuple[Piece, ...]:
        """The same pair as monomials of r on stretches of r, for `path`.

        Raises:
            TypeError: this correction is no function of r alone.
        """
        raise TypeError(f"{self.name} is not piecewise monomial in the importance ratio: it has no path")

    def parameters(self) -> dict[str, Any]:
        """The parameters by name, as records store them."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    def at(self, rows: slice) -> Correction:
        """The correction of a block of states: parameters of shape (states, 1) are cut to `rows`."""
        cut = {k: v[rows, ...] for k, v in self.parameters().items() if getattr(v, "ndim", 0) == 2 and v.shape[0] > 1}
        return dataclasses.replace(self, **cut) if cut else self  # type: ignore[type-var]


class TokenCorrection(Correction):
    """A correction of each token by its own ratio. A subclass says what a and w are."""

    @property
    def level(self) -> Level:
        """TOKEN."""
        return Level.TOKEN

    def weights(
        self,
        log_ratio: Array,
        overlap: Array | None = None,
        *,
        log_reference_ratio: Array | None = None,
        mask: Array | None = None,
        advantages: Array | None = None,
    ) -> TokenWeights:
        """See `Correction.weights`."""
        log_ratio, live = live_tokens(self, log_ratio, mask)
        xp = namespace(log_ratio)
        if self.overlap_lam is not None and overlap is None:
            raise ValueError(f"{self.name} needs overlap: pass Z(lam), for instance obrs.overlap(policy, actor, lam)")
        if self.overlap_lam is not None and not bool(xp.all(as_array(stop_gradient(overlap), log_ratio) >= 0)):
            raise ValueError(f"{self.name}: overlap holds NaN or a negative number")
        with overflow_to_inf():
            pair = TokenWeights(self.accept(log_ratio), self.weight(log_ratio, overlap))
        return pair if mask is None else only_live(pair, live)

    def accept(self, log_ratio: Array) -> Array:
        """a(ℓ), in [0, 1]."""
        return namespace(log_ratio).ones_like(log_ratio)

    def weight(self, log_ratio: Array, overlap: Array | None) -> Array:
        """w(ℓ, Z) ≥ 0."""
        return namespace(log_ratio).ones_like(log_ratio)


def live_tokens(owner: Correction, log_ratio: Array, mask: Array | None) -> tuple[Array, Array]:
    """The log-ratios, 0 in the place of masked ones, and the mask; checked as `Correction.weights` says."""
    log_ratio = floating(log_ratio)
    if owner.level is Level.SEQUENCE and log_ratio.ndim == 0:
        raise ValueError(f"{owner.name} needs log_ratio of shape (..., length), tokens along the last axis, got ()")
    if mask is None:
        live = namespace(log_ratio).ones_like(log_ratio, dtype=namespace(log_ratio).bool)
    else:
        if not namespace(mask).isdtype(mask.dtype, "bool"):
            raise ValueError(f"mask must be boolean, True on tokens that count, got dtype {mask.dtype}")
        check_same_shape(log_ratio, mask, "log_ratio", "mask")
        live = mask
    xp = namespace(log_ratio, live)
    log_ratio = log_ratio if mask is None else xp.where(live, log_ratio, 0.0)
    if bool(xp.any(xp.isnan(log_ratio))):
        raise ValueError(f"log_ratio holds NaN: {owner.name} cannot weigh it")
    return log_ratio, live


def only_live(pair: TokenWeights, live: Array) -> TokenWeights:
    """The pair with both 0 at masked tokens, broadcast to the mask's shape."""
    xp = namespace(live)
    return TokenWeights(*(xp.where(live, field, 0.0) for field in pair))


C = TypeVar("C", bound=type[Correction])

_REGISTRY: dict[str, type[Correction]] = {}


def register(*names: str) -> Callable[[C], C]:
    """Enters a correction into the registry under its name, and any others that people call it by."""

    def enter(correction: C) -> C:
        correction.name = names[0]
        _REGISTRY.update(dict.fromkeys(names, correction))
        return correction

    return enter


def get(name: str, **parameters: Any) -> Correction:
    """The correction called `name`.

    >>> get("tis", clip=2.0)
    TruncatedImportanceSampling(clip=2.0, floor=0.0)

    Raises:
        ValueError: no such correction, no such parameter, or a parameter outside its range.
    """
    correction = registered(name)
    known = {field.name: field.default for field in dataclasses.fields(correction)}  # type: ignore[arg-type]
    for parameter, value in parameters.items():
        if parameter not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes no parameter"
            raise ValueError(f"estimator {name!r} has no parameter {parameter!r}: {takes}")
        for kind, called in ((bool, "true or false"), (str, "a name")):
            if isinstance(value, kind) != isinstance(known[parameter], kind):
                wanted = called if isinstance(known[parameter], kind) else "a number"
                raise ValueError(f"{name}: {parameter} must be {wanted}, got {value!r}")
    return correction(**parameters)


def registered(name: str) -> type[Correction]:
    """The class called `name`, by any of its names.

    Raises:
        ValueError: no such correction.
    """
    if name in _REGISTRY:
        return _REGISTRY[name]
    near = difflib.get_close_matches(name.lower(), _REGISTRY, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    if "," in name:
        hint = "; names are separated by spaces"
    elif "(" in name:
        hint = "; parameters go beside the kind in a config file, or as arguments of get"
    raise ValueError(f"unknown estimator {name!r}{hint} (known: {', '.join(sorted(_REGISTRY))})")


def names() -> tuple[str, ...]:
    """The registered corrections, each once, under the name that records use."""
    return tuple(sorted({correction.name for correction in _REGISTRY.values()}))


def require_positive(owner: Correction, *parameters: str, infinite: bool = True) -> None:
    """Refuses parameters that are not positive; for use in `__post_init__`."""
    for parameter in parameters:
        value = getattr(owner, parameter)
        fine = (value > 0) & ((value < math.inf) | infinite)
        if not bool(to_numpy(fine).all()):
            bound = "positive" if infinite else "positive and finite"
            raise ValueError(f"{owner.name}: {parameter} must be {bound}, got {value}")


def require_band(owner: Any) -> None:
    """Refuses ratio bounds `low` and `high` that leave nothing between them; for use in `__post_init__`."""
    if not 0 <= owner.low <= owner.high or owner.high <= 0:
        raise ValueError(f"{owner.name}: low and high must satisfy 0 <= low <= high, got {owner.low} and {owner.high}")


def log_band(low: float, high: float, inverted: bool = False) -> tuple[float, float]:
    """The bounds on log r of low ≤ r ≤ high or, inverted, of low ≤ 1/r ≤ high."""
    log_low, log_high = (math.log(low) if low > 0 else -math.inf), math.log(high)
    return (-log_high, -log_low) if inverted else (log_low, log_high)


def log_of(value: Any, like: Array) -> Array:
    """log of a parameter (a number or an array) in the dtype and on the device of `like`."""
    return namespace(like).log(as_array(value, like))
