"""Rao-Blackwellisation: replace the mask by its mean."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from jackpot_sim.core.backend import Array, namespace
from jackpot_sim.estimators.base import ONE, Correction, Monomial, Piece, TokenWeights, only_live
from jackpot_sim.estimators.wrapper import Wrapper


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
