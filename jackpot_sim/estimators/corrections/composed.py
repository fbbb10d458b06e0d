"""Corrections made of other corrections: a wrapper changes one, and `combined` multiplies several.

`rao_blackwell` is a wrapper that replaces the mask by its mean, and `centred` one that subtracts the mean term of each
state. `combined` applies several corrections at once, for instance an importance weight, a rejection mask and a veto.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections import Counter
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from typing_extensions import override

from jackpot_sim.core.arrays import Array, Floats
from jackpot_sim.core.backend import namespace, to_numpy
from jackpot_sim.estimators.corrections.correction import Correction, Level
from jackpot_sim.estimators.corrections.inputs import Tokens, TokenWeights
from jackpot_sim.estimators.corrections.parameters import Parameter
from jackpot_sim.estimators.corrections.pieces import ONE, Monomial, Piece


@dataclass(frozen=True)
class Wrapper(Correction):
    """A correction around another one; a subclass overrides the parts that it changes."""

    of: Correction

    @abstractmethod
    @override
    def pair(self, tokens: Tokens) -> TokenWeights: ...

    @property
    @override
    def level(self) -> Level:
        return self.of.level

    @property
    @override
    def unit(self) -> Level:
        return self.of.unit

    @property
    @override
    def looks_at_batch(self) -> bool:
        return self.of.looks_at_batch

    @property
    @override
    def draws_mask(self) -> bool:
        return self.of.draws_mask

    @property
    @override
    def weighs(self) -> bool:
        return self.of.weighs

    @property
    @override
    def rejects(self) -> bool:
        return self.of.rejects

    @override
    def outside(self, tokens: Tokens) -> tuple[Array, Array] | None:
        return self.of.outside(tokens)

    @property
    @override
    def subtracts_mean(self) -> bool:
        return self.of.subtracts_mean

    @property
    @override
    def carries_reference_ratio(self) -> bool:
        return self.of.carries_reference_ratio

    @property
    @override
    def overlap_lam(self) -> Parameter | None:
        return self.of.overlap_lam

    @property
    @override
    def threshold_parameter(self) -> str | None:
        return self.of.threshold_parameter

    @override
    def kept_from(self, tokens: Tokens) -> Array | None:
        return self.of.kept_from(tokens)

    @property
    @override
    def needs(self) -> frozenset[str]:
        return self.of.needs

    @override
    def parameters(self) -> dict[str, Any]:
        return self.of.parameters()

    @override
    def at(self, rows: slice) -> Correction:
        return dataclasses.replace(self, of=self.of.at(rows))


def rao_blackwell(correction: Correction) -> RaoBlackwell:
    """The correction with accept 1 and weight a·w (ours).

    The expected update is the same, without the Bernoulli noise E_q[w²a(1−a)‖f‖²]. This is exact with the
    `proposed` denominator, and asymptotic with `self_normalized`.
    """
    return RaoBlackwell(correction)


@dataclass(frozen=True)
class RaoBlackwell(Wrapper):
    """The correction that `rao_blackwell` makes."""

    @property
    @override
    def name(self) -> str:  # type: ignore[override]
        return f"rao-blackwell({self.of.name})"

    @property
    @override
    def draws_mask(self) -> bool:
        return False

    @property
    @override
    def weighs(self) -> bool:
        return True

    @property
    @override
    def rejects(self) -> bool:
        return False

    @override
    def pair(self, tokens: Tokens) -> TokenWeights:
        inner = self.of.pair(tokens)
        return TokenWeights(namespace(inner.accept).ones_like(inner.accept), inner.expected())

    @override
    def in_the_limit(self, tokens: Tokens, probability: Array) -> Correction:
        return dataclasses.replace(self, of=self.of.in_the_limit(tokens, probability))

    @override
    def pieces(self, overlap: Floats | None = None, sign: int = 0) -> tuple[Piece, ...]:
        return tuple(
            Piece(
                piece.upper,
                piece.closed,
                ONE,
                Monomial(piece.accept.coefficient * piece.weight.coefficient, piece.accept.power + piece.weight.power),
            )
            for piece in self.of.pieces(overlap, sign)
        )


def centred(correction: Correction) -> Centred:
    """The score-centred form of a correction of single tokens (arXiv 2609.20807).

    A token at state s adds A·(m·w·∇log p(y) − h_s) with h_s = E_q[a·w·∇log p | s], in place of A·m·w·∇log p(y). Its
    mean is the correction's own with A − E_q[A | s] for A, so that a constant advantage moves nothing. With is, h is 0
    on the actor's support. The pair (a, w) stays as it is; what takes the update subtracts h.

    Raises:
        ValueError: the correction looks at whole sequences or at the batch, or is centred already.
    """
    return Centred(correction)


@dataclass(frozen=True)
class Centred(Wrapper):
    """The correction that `centred` makes."""

    def __post_init__(self) -> None:
        if not self.of.is_per_token:
            raise ValueError(f"{self.of.name} looks at more than single tokens: centred needs a correction of these")
        if self.of.subtracts_mean:
            raise ValueError(f"{self.of.name} is centred already")

    @property
    @override
    def name(self) -> str:  # type: ignore[override]
        return f"centred({self.of.name})"

    @property
    @override
    def subtracts_mean(self) -> bool:
        return True

    @override
    def pair(self, tokens: Tokens) -> TokenWeights:
        return self.of.pair(tokens)

    @override
    def pieces(self, overlap: Floats | None = None, sign: int = 0) -> tuple[Piece, ...]:
        return self.of.pieces(overlap, sign)


def require_uncentred(correction: Correction, instead: str) -> None:
    """Refuses a centred correction where its mean cannot be subtracted.

    Args:
        correction: any correction.
        instead: the advice, for instance `measure it with moments.exact`.

    Raises:
        ValueError: the correction subtracts the mean of each state.
    """
    if correction.subtracts_mean:
        raise ValueError(f"{correction.name} subtracts the mean of each state, which is not known here: {instead}")


def require_known_laws(correction: Correction, believed: object | None) -> None:
    """Refuses a centred correction where a trainer takes other laws, `believed`, for those at work."""
    if correction.subtracts_mean and believed is not None:
        raise ValueError(
            f"{correction.name} needs the laws that are at work, and the trainer is told others: leave log_probs at "
            "processed, or measure the correction without centring"
        )


def combined(first: Correction, *others: Correction) -> Combined:
    """The product of corrections: accept with Π a and weigh with Π w, where each part sees the same raw tokens.

    >>> from jackpot_sim import estimators
    >>> both = combined(estimators.get("tis"), estimators.get("veto"))
    >>> both.name, both.parameters()
    ('tis & veto', {'tis.clip': 2.0, 'tis.floor': 0.0, 'tis.c2': None, 'veto.threshold': 0.0001})

    Raises:
        ValueError: two parts need the overlap at different λ, of which `weights` takes only one, or a part is centred.
    """
    parts = (first, *others)
    return Combined(tuple(piece for part in parts for piece in (part.parts if isinstance(part, Combined) else (part,))))


@dataclass(frozen=True)
class Combined(Correction):
    """The correction that `combined` makes."""

    parts: tuple[Correction, ...]

    def __post_init__(self) -> None:
        lams = self._lams
        if any(not np.array_equal(to_numpy(np.asarray(lam)), to_numpy(np.asarray(lams[0]))) for lam in lams[1:]):
            raise ValueError(f"{self.name}: its parts need the overlap at different lam: {lams}")
        if any(part.subtracts_mean for part in self.parts):
            raise ValueError(f"{self.name}: a part is centred; centre the combination instead")

    @property
    @override
    def name(self) -> str:  # type: ignore[override]
        return " & ".join(part.name for part in self.parts)

    @property
    @override
    def level(self) -> Level:
        return Level.TOKEN if all(part.level is Level.TOKEN for part in self.parts) else Level.SEQUENCE

    @property
    @override
    def unit(self) -> Level:
        return Level.TOKEN if all(part.unit is Level.TOKEN for part in self.parts) else Level.SEQUENCE

    @property
    @override
    def looks_at_batch(self) -> bool:
        return any(part.looks_at_batch for part in self.parts)

    @property
    @override
    def draws_mask(self) -> bool:
        return any(part.draws_mask for part in self.parts)

    @property
    @override
    def weighs(self) -> bool:
        return any(part.weighs for part in self.parts)

    @property
    @override
    def rejects(self) -> bool:
        return any(part.rejects for part in self.parts)

    @override
    def outside(self, tokens: Tokens) -> tuple[Array, Array] | None:
        """Below, and above, the bounds of any part."""
        found = [pair for part in self.parts if (pair := part.outside(tokens)) is not None]
        return reduce(lambda x, y: (x[0] | y[0], x[1] | y[1]), found) if found else None

    @property
    @override
    def carries_reference_ratio(self) -> bool:
        return any(part.carries_reference_ratio for part in self.parts)

    @property
    @override
    def overlap_lam(self) -> Parameter | None:
        return self._lams[0] if self._lams else None

    @property
    @override
    def needs(self) -> frozenset[str]:
        return frozenset().union(*(part.needs for part in self.parts))

    @property
    def _lams(self) -> list[Parameter]:
        return [part.overlap_lam for part in self.parts if part.overlap_lam is not None]

    @override
    def pair(self, tokens: Tokens) -> TokenWeights:
        if tokens.log_reference_ratio is not None and sum(part.carries_reference_ratio for part in self.parts) > 1:
            raise ValueError(f"{self.name}: two parts carry p_ref/p_new, which belongs into the weight once")
        pairs = [part.pair(tokens) for part in self.parts]
        accept = reduce(lambda x, y: x * y, (pair.accept for pair in pairs))
        return TokenWeights(accept, reduce(_product, (pair.weight for pair in pairs)))

    @override
    def in_the_limit(self, tokens: Tokens, probability: Array) -> Correction:
        """The product of the parts' limits, each for the same raw batch."""
        return Combined(tuple(part.in_the_limit(tokens, probability) for part in self.parts))

    @override
    def parameters(self) -> dict[str, Any]:
        """The parameters of the parts, as `part.parameter`; parts of one name are numbered from the second on."""
        seen: Counter[str] = Counter()
        parameters: dict[str, Any] = {}
        for part in self.parts:
            seen[part.name] += 1
            label = part.name if seen[part.name] == 1 else f"{part.name}#{seen[part.name]}"
            parameters |= {f"{label}.{name}": value for name, value in part.parameters().items()}
        return parameters

    @override
    def at(self, rows: slice) -> Correction:
        return dataclasses.replace(self, parts=tuple(part.at(rows) for part in self.parts))


def _product(first: Array, second: Array) -> Array:
    """first·second, elementwise, where 0·inf is 0: a weight of 0 from one part overrides any other."""
    xp = namespace(first, second)
    nothing = (first == 0) | (second == 0)
    return xp.where(nothing, 0.0, first) * xp.where(nothing, 0.0, second)
