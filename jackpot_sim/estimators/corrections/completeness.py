"""The check that a class which somebody wrote is a whole correction."""

from __future__ import annotations

import dataclasses

from jackpot_sim.estimators.corrections.correction import Correction, is_ours
from jackpot_sim.estimators.corrections.inputs import Tokens

_BODY = ("accept", "weight", "pair")
_FIELDS = tuple(field.name for field in dataclasses.fields(Tokens) if field.init)


class RegistrationError(ValueError):
    """A correction that cannot be registered; the message, one sentence, says what its author has to write."""


def require_complete(correction: object) -> None:
    """Refuses what is no correction, or lacks a part of one, with a RegistrationError."""
    if not isinstance(correction, type) or not issubclass(correction, Correction):
        name = getattr(correction, "__name__", repr(correction))
        raise RegistrationError(f"{name} is no correction: derive its class from TokenCorrection or SequenceCorrection")
    name = correction.__name__
    if "__dataclass_fields__" not in vars(correction):
        raise RegistrationError(
            f"{name} is no frozen dataclass: write @dataclass(frozen=True) above it, below @register"
        )
    if missing := sorted(correction.__abstractmethods__):
        raise RegistrationError(
            f"{name} lacks {', '.join(missing)}: derive it from TokenCorrection or SequenceCorrection, or define "
            f"{'it' if len(missing) == 1 else 'them'}"
        )
    looks_at = correction._looks_at
    if not isinstance(looks_at, frozenset) or not looks_at <= set(_FIELDS):
        raise RegistrationError(
            f"{name} has {looks_at!r} for _looks_at: give a frozenset of fields of Tokens: {', '.join(_FIELDS)}"
        )
    if not is_ours(correction) and all(getattr(correction, part) is getattr(Correction, part) for part in _BODY):
        raise RegistrationError(f"{name} defines neither accept nor weight: without one of them it changes nothing")
