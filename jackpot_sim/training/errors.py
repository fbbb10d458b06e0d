"""The errors that end a run before its last step."""

from __future__ import annotations


class DivergedError(Exception):
    """A loss, a gradient or a law is not finite; the policy is that before the update."""

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(f"step {step}: training diverged: {reason}")
        self.step = step


class LawError(ValueError):
    """A model gives NaN or inf in place of the law of the next token."""


class RewardError(Exception):
    """A reward cannot be used; the message names the step."""
