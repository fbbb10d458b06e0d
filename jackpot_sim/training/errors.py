"""What ends a run before its time."""

from __future__ import annotations


class DivergedError(Exception):
    """A loss, a gradient or a law is no longer finite; the policy is as it was before."""

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(f"step {step}: training diverged: {reason}")
        self.step = step


class LawError(ValueError):
    """A model gives NaN or inf where the law of the next token should be."""


class RewardError(Exception):
    """A reward could not be computed; the message names the step and the completion."""
