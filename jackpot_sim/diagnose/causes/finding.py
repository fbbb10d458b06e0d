"""A cause that a rule has found, with its share in the mismatch."""

from __future__ import annotations

from dataclasses import dataclass, field

from jackpot_sim.diagnose.results import Cause, CauseName


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A cause that shows in the data.

    Attributes:
        name: the cause.
        confidence: 0 to 1; for causes of a mismatch the share of Σℓ² that the cause explains.
        explains: the share of Σℓ² that no other cause has to explain any more, 0 to 1.
        evidence: the figures that speak for it, in one plain sentence.
        remedy: what to change, in one plain sentence.
        figures: those of the sentence, by name.
    """

    name: CauseName
    confidence: float
    explains: float
    evidence: str
    remedy: str
    figures: dict[str, float] = field(default_factory=dict)

    def cause(self) -> Cause:
        """The cause as a report has it."""
        return Cause(
            name=self.name,
            confidence=round(min(max(self.confidence, 0.0), 1.0), 3),
            evidence=self.evidence,
            remedy=self.remedy,
            figures=self.figures,
        )
