"""Corrections made of others: a wrapper changes one, and several are multiplied.

A wrapper is the inner correction but for what it says. `rao_blackwell` replaces the mask by its mean;
`combined` is several corrections at once: an importance weight, a rejection mask and a veto, say.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from jackpot_sim.core.backend import Array, namespace, to_numpy
from jackpot_sim.estimators.corrections.correction import (
    ONE,
    Correction,
    Level,
    Monomial,
    Piece,
    TokenWeights,
    live_tokens,
    only_live,
)


@dataclass(frozen=True)
class Wrapper(Correction):
    """A correction around another; a subclass says what it changes."""

    of: Correction

    @property
    def level(self) -> Level:
        """That of the inner correction."""
        return self.of.level

    @property
    def unit(self) -> Level:
        """That of the inner correction."""
        return self.of.unit

    @property
    def looks_at_batch(self) -> bool:
        """Whether the inner correction does."""
        return self.of.looks_at_batch

    @property
    def draws_mask(self) -> bool:
        """Whether the inner correction does."""
        return self.of.draws_mask

    @property
    def carries_reference_ratio(self) -> bool:
        """Whether the inner correction does."""
        return self.of.carries_reference_ratio

    @property
    def overlap_lam(self) -> Any | None:
        """That of the inner correction."""
        return self.of.overlap_lam

    def parameters(self) -> dict[str, Any]:
        """Those of the inner correction."""
        return self.of.parameters()

    def at(self, rows: slice) -> Correction:
        """See `Correction.at`."""
        return dataclasses.replace(self, of=self.of.at(rows))


def rao_blackwell(correction: Correction) -> RaoBlackwell:
    """The correction with accept 1 and weight a·w (ours).

    Its expectation is the same and the Bernoulli noise E_q[w²a(1−a)‖f‖²] is gone: exactly so with
    the `proposed` denominator, asymptotically with `self_normalized`.
    """
    return RaoBlackwell(correction)


@dataclass(frozen=True)
class RaoBlackwell(Wrapper):
    """See `rao_blackwell`."""

    @property
    def name(self) -> str:  # type: ignore[override]
        """The inner correction's name, wrapped."""
        return f"rao-blackwell({self.of.name})"

    @property
    def draws_mask(self) -> bool:
        """No longer."""
        return False

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
        pair = self.of.weights(
            log_ratio, overlap, log_reference_ratio=log_reference_ratio, mask=mask, advantages=advantages
        )
        smooth = TokenWeights(namespace(pair.accept).ones_like(pair.accept), pair.expected())
        return smooth if mask is None else only_live(smooth, mask)

    def in_the_limit(self, log_ratio: Array, probability: Array, **context: Any) -> Correction:
        """See `Correction.in_the_limit`."""
        return dataclasses.replace(self, of=self.of.in_the_limit(log_ratio, probability, **context))

    def pieces(self, overlap: Array | None = None) -> tuple[Piece, ...]:
        """See `Correction.pieces`."""
        return tuple(
            Piece(
                piece.upper,
                piece.closed,
                ONE,
                Monomial(piece.accept.coefficient * piece.weight.coefficient, piece.accept.power + piece.weight.power),
            )
            for piece in self.of.pieces(overlap)
        )


def combined(first: Correction, *others: Correction) -> Combined:
    """The correction that accepts with Π a and weighs with Π w, each part looking at the same raw tokens.

    >>> from jackpot_sim import estimators
    >>> both = combined(estimators.get("tis"), estimators.get("veto"))
    >>> both.name, both.parameters()
    ('tis & veto', {'tis.clip': 2.0, 'tis.floor': 0.0, 'veto.threshold': 0.0001})

    Raises:
        ValueError: two parts need the overlap at different λ, of which `weights` takes only one.
    """
    parts = (first, *others)
    return Combined(tuple(piece for part in parts for piece in (part.parts if isinstance(part, Combined) else (part,))))


@dataclass(frozen=True)
class Combined(Correction):
    """See `combined`."""

    parts: tuple[Correction, ...]

    def __post_init__(self) -> None:
        lams = self._lams
        if any(not np.array_equal(to_numpy(np.asarray(lam)), to_numpy(np.asarray(lams[0]))) for lam in lams[1:]):
            raise ValueError(f"{self.name}: its parts need the overlap at different lam: {lams}")

    @property
    def name(self) -> str:  # type: ignore[override]
        """The parts' names, joined."""
        return " & ".join(part.name for part in self.parts)

    @property
    def level(self) -> Level:
        """TOKEN if all parts are."""
        return Level.TOKEN if all(part.level is Level.TOKEN for part in self.parts) else Level.SEQUENCE

    @property
    def unit(self) -> Level:
        """TOKEN if that of all parts is."""
        return Level.TOKEN if all(part.unit is Level.TOKEN for part in self.parts) else Level.SEQUENCE

    @property
    def looks_at_batch(self) -> bool:
        """Whether any part does."""
        return any(part.looks_at_batch for part in self.parts)

    @property
    def draws_mask(self) -> bool:
        """Whether any part does."""
        return any(part.draws_mask for part in self.parts)

    @property
    def carries_reference_ratio(self) -> bool:
        """Whether any part does."""
        return any(part.carries_reference_ratio for part in self.parts)

    @property
    def overlap_lam(self) -> Any | None:
        """The one that its parts share."""
        return self._lams[0] if self._lams else None

    @property
    def _lams(self) -> list[Any]:
        return [part.overlap_lam for part in self.parts if part.overlap_lam is not None]

    def weights(self, log_ratio: Array, overlap: Array | None = None, **context: Any) -> TokenWeights:
        """See `Correction.weights`."""
        mask = context.get("mask")
        log_ratio, live = live_tokens(self, log_ratio, mask)
        pairs = [part.weights(log_ratio, overlap, **context) for part in self.parts]
        accept = reduce(lambda x, y: x * y, (pair.accept for pair in pairs))
        pair = TokenWeights(accept, reduce(_product, (pair.weight for pair in pairs)))
        return pair if mask is None else only_live(pair, live)

    def in_the_limit(self, log_ratio: Array, probability: Array, **context: Any) -> Correction:
        """See `Correction.in_the_limit`; each part has its own, of the same raw batch."""
        return Combined(tuple(part.in_the_limit(log_ratio, probability, **context) for part in self.parts))

    def parameters(self) -> dict[str, Any]:
        """Those of the parts, as `part.parameter`; parts of one name are numbered from the second on."""
        seen: Counter[str] = Counter()
        found: dict[str, Any] = {}
        for part in self.parts:
            seen[part.name] += 1
            label = part.name if seen[part.name] == 1 else f"{part.name}#{seen[part.name]}"
            found |= {f"{label}.{name}": value for name, value in part.parameters().items()}
        return found

    def at(self, rows: slice) -> Correction:
        """See `Correction.at`."""
        return dataclasses.replace(self, parts=tuple(part.at(rows) for part in self.parts))


def _product(first: Array, second: Array) -> Array:
    """first·second, where 0 times anything is 0: a part that gives no weight has the last word."""
    xp = namespace(first, second)
    nothing = (first == 0) | (second == 0)
    return xp.where(nothing, 0.0, first) * xp.where(nothing, 0.0, second)
