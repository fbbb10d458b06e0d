"""The pair of a correction that is not ours, checked: ours pass the contract tests, and a user's may not yet.

The checks are a few passes over the pair, which the corrections of this package are spared.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path

from jackpot_sim.core.arrays import Array
from jackpot_sim.core.backend import as_array, namespace, stop_gradient
from jackpot_sim.estimators.corrections.inputs import Tokens, TokenWeights


def checked_pair(
    name: str, accept: Callable[[Tokens], Array], weight: Callable[[Tokens], Array], tokens: Tokens
) -> TokenWeights:
    """(a, w) as two functions give them, in the dtype of the log-ratio; booleans are 0 and 1.

    Args:
        name: the correction's name, for errors.
        accept: gives a.
        weight: gives w.
        tokens: checked tokens, with the fields alone that the correction needs.

    Raises:
        ValueError: a function fails, or what it gives has a wrong shape or library, holds NaN, or lies out of range;
            one sentence says what its author has to mend.
    """
    found = TokenWeights(_called(name, "accept", accept, tokens), _called(name, "weight", weight, tokens))
    return in_range(name, found, tokens)


def in_range(name: str, pair: TokenWeights, tokens: Tokens) -> TokenWeights:
    """The pair, refused as `checked_pair` says; values at masked tokens are not looked at."""
    accept, weight = (
        _alike(f"{name}: its {field}", value, tokens)
        for field, value in zip(TokenWeights._fields, (pair.accept, pair.weight), strict=True)
    )
    _refuse(f"{name}: its accept", accept, (accept >= 0) & (accept <= 1), tokens, "a probability, from 0 to 1")
    _refuse(f"{name}: its weight", weight, weight >= 0, tokens, "a weight, at least 0")
    return TokenWeights(accept, weight)


def _called(name: str, field: str, function: Callable[[Tokens], Array], tokens: Tokens) -> Array:
    try:
        return function(tokens)
    except MemoryError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        absent = " (a field of the tokens is None unless _looks_at names it)" if "NoneType" in str(error) else ""
        raise ValueError(
            f"{name}: its {field} raised {type(error).__name__} in line {frame.lineno} of {Path(frame.filename).name}"
            f"{absent}: {' '.join(str(error).split())}"
        ) from error


def _alike(what: str, value: Array, tokens: Tokens) -> Array:
    log_ratio = tokens.log_ratio
    shape = tuple(log_ratio.shape)
    try:
        xp = namespace(value, log_ratio)
    except TypeError as error:
        raise ValueError(
            f"{what} gives {type(value).__name__} for {type(log_ratio).__name__}: compute with tokens.xp"
        ) from error
    if not hasattr(value, "shape") or len(value.shape) != len(shape) or not _fits(tuple(value.shape), shape):
        raise ValueError(
            f"{what} has shape {tuple(getattr(value, 'shape', ()))}, and the tokens have shape {shape}: give one "
            "number for each token, or for each sequence with a last axis of 1"
        )
    if not xp.isdtype(value.dtype, ("bool", "integral", "real floating")):
        raise ValueError(f"{what} holds {value.dtype}: give real numbers")
    if xp.isdtype(value.dtype, "real floating"):
        return value
    return as_array(value, log_ratio)


def _fits(shape: tuple[int, ...], tokens: tuple[int, ...]) -> bool:
    return shape[:-1] == tokens[:-1] and shape[-1:] in (tokens[-1:], (1,) * len(tokens[-1:]))


def _refuse(what: str, values: Array, right: Array, tokens: Tokens, meant: str) -> None:
    xp = namespace(values)
    if bool(xp.all(right)):
        return
    wrong = xp.logical_not(right) & tokens.live
    if bool(xp.any(wrong)):
        value = stop_gradient(xp.broadcast_to(values, wrong.shape)[wrong])[0]
        at = float(stop_gradient(xp.broadcast_to(tokens.log_ratio, wrong.shape)[wrong])[0])
        raise ValueError(
            f"{what} gives {float(value):.6g} for a token: mend it, it must be {meant} (log r is {at:.6g} there)"
        )
