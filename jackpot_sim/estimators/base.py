"""A correction is a pair (accept probability a, weight w), and there is one registry of them.

Tokens come from the actor q; the policy p is what is trained. A correction maps the log-ratio
ℓ = log p − log q (and, for some, the overlap Z) to a and w, and the update sees m·w·f(x) with
m ~ Bernoulli(a). Masks live in a, so that acceptance and denominators are right for them too.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

from jackpot_sim.core.backend import Array, as_array, floating, namespace, stop_gradient, to_numpy
from jackpot_sim.core.numerics import overflow_to_inf


class TokenWeights(NamedTuple):
    """What a correction does to each token, both of the log-ratio's shape."""

    accept: Array
    """a, in [0, 1]: the probability that the token stays in the update."""
    weight: Array
    """w ≥ 0: what multiplies it if it stays."""


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
            log_ratio: ℓ = policy_log_probs − actor_log_probs, any shape, nats.
            overlap: Z(overlap_lam), broadcasting against `log_ratio`: add the vocabulary or time axis.
            log_reference_ratio: log p_ref − log p_target, where the target is p_new; None says that
                the target is p_ref itself.
            mask: True on tokens that count, for corrections that look at whole sequences.
            advantages: for corrections that look at their sign.

        Raises:
            ValueError: `log_ratio` or `overlap` holds NaN, or something that this correction needs is missing.
        """

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
        log_ratio = floating(log_ratio)
        xp = namespace(log_ratio)
        if bool(xp.any(xp.isnan(log_ratio))):
            raise ValueError(f"log_ratio holds NaN: {self.name} cannot weigh it")
        if self.overlap_lam is not None and overlap is None:
            raise ValueError(f"{self.name} needs overlap: pass Z(lam), for instance obrs.overlap(policy, actor, lam)")
        if self.overlap_lam is not None and not bool(xp.all(as_array(stop_gradient(overlap), log_ratio) >= 0)):
            raise ValueError(f"{self.name}: overlap holds NaN or a negative number")
        with overflow_to_inf():
            return TokenWeights(self.accept(log_ratio), self.weight(log_ratio, overlap))

    def accept(self, log_ratio: Array) -> Array:
        """a(ℓ), in [0, 1]."""
        return namespace(log_ratio).ones_like(log_ratio)

    def weight(self, log_ratio: Array, overlap: Array | None) -> Array:
        """w(ℓ, Z) ≥ 0."""
        return namespace(log_ratio).ones_like(log_ratio)


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
    TruncatedImportanceSampling(clip=2.0)

    Raises:
        ValueError: no such correction, no such parameter, or a parameter outside its range.
    """
    correction = registered(name)
    known = [field.name for field in dataclasses.fields(correction)]  # type: ignore[arg-type]
    for parameter in parameters:
        if parameter not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes no parameter"
            raise ValueError(f"estimator {name!r} has no parameter {parameter!r}: {takes}")
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


def log_of(value: Any, like: Array) -> Array:
    """log of a parameter (a number or an array) in the dtype and on the device of `like`."""
    return namespace(like).log(as_array(value, like))
