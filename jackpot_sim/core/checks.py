"""Checks of the arrays that a function takes: dtype, shape, and what makes log-probs a law.

Nothing broadcasts by accident: a number per state has one axis less than the laws, or 1 as its last axis, and a
number per sequence has the axes of the tokens. Errors name the argument.
"""

from __future__ import annotations

import math

import numpy as np

from jackpot_sim.core.arrays import Array, Floats
from jackpot_sim.core.backend import as_array, floating, namespace, overflow_to_inf, require_floating, stop_gradient

_NORMALISATION_TOLERANCE = {8: 1e-6, 4: 1e-4}
"""The largest |Σ exp(log_probs) − 1| allowed, by bytes per number."""


def check_mask(mask: Array, like: Array, like_name: str, name: str = "mask") -> Array:
    """`mask`, refused unless it is boolean and has the shape of the array whose entries it picks.

    A mask of 0 and 1, as some frameworks store it, would index instead of select.

    Raises:
        TypeError: the mask is not boolean.
        ValueError: the shapes differ.
    """
    if not namespace(mask, like).isdtype(mask.dtype, "bool"):
        raise TypeError(f"{name} must be boolean, True on what counts, got dtype {mask.dtype}: pass {name} != 0")
    check_same_shape(like, mask, like_name, name)
    return mask


def check_shape(array: Array, shape: tuple[int, ...], name: str, axes: str) -> None:
    """Refuses an array that does not have this shape.

    Args:
        array: the array.
        shape: the shape that it must have.
        name: the caller's name for the array.
        axes: the meaning of the shape, for the error: "one number per sequence".
    """
    namespace(array)
    if tuple(array.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(array.shape)}, not {shape}: {axes}")


def check_reals(values: Array, name: str, *axes: str) -> Array:
    """`values`, refused with a TypeError unless they are real floating numbers; half precision stays.

    Their axes are as `check_axes` says; without any the shape is not looked at.
    """
    require_floating(values, name)
    return check_axes(values, name, *axes) if axes else values


def check_per_token(mask: Array, **values: Array | None) -> None:
    """Refuses a mask that is not boolean of shape (n, length), and values of tokens in another shape.

    Args:
        mask: True on tokens.
        values: real floating numbers, one per token, by the caller's name for them; None where there are none.

    Raises:
        TypeError: the mask is not boolean, values are no real floating numbers, or libraries differ.
        ValueError: a shape differs.
    """
    check_mask(mask, mask, "mask")
    check_axes(mask, "mask", "n", "length")
    for name, value in values.items():
        if value is not None:
            check_same_shape(mask, check_reals(value, name), "mask", name)


def check_axes(array: Array, name: str, *axes: str) -> Array:
    """`array`, refused unless it has these axes, each at least 1 long: "n", "length"."""
    namespace(array)
    if array.ndim != len(axes):
        meant = f"({', '.join(axes)}{',' if len(axes) == 1 else ''})"
        raise ValueError(f"{name} has shape {tuple(array.shape)}: it must be {meant}")
    if 0 in array.shape:
        raise ValueError(f"{name} has shape {tuple(array.shape)}: it is empty")
    return array


def check_padding(mask: Array, name: str = "mask") -> None:
    """Refuses a boolean mask (n, length) that marks a token after padding, or a sequence without any token."""
    xp = namespace(mask)
    if bool(xp.any(mask[:, 1:] & ~mask[:, :-1])) or not bool(xp.all(mask[:, 0])):
        raise ValueError(f"{name} has padding before a token: a sequence begins with its tokens, at least one")


def check_rows(rows: Array | slice, name: str = "rows") -> None:
    """Refuses row numbers that are neither a slice nor integers of shape (m,): a mask, or a single row."""
    if not isinstance(rows, slice):
        check_integers(rows, name)
        if rows.ndim != 1:
            raise ValueError(f"{name} has shape {tuple(rows.shape)}: it must be a slice, or integers of shape (m,)")


def check_integers(values: Array, name: str, *axes: str) -> Array:
    """`values`, refused with a TypeError unless they are integers; axes as in `check_reals`."""
    if not namespace(values).isdtype(values.dtype, "integral"):
        raise TypeError(f"{name} must hold integers, got dtype {values.dtype}")
    return check_axes(values, name, *axes) if axes else values


def check_ids(ids: Array, below: int, name: str) -> Array:
    """`ids`, any shape, refused unless they are integers from 0 up to `below`, which is excluded.

    Raises:
        TypeError: the ids are not integers.
        ValueError: an id lies outside this range.
    """
    xp = namespace(check_integers(ids, name))
    if math.prod(ids.shape) and not 0 <= int(xp.min(ids)) <= int(xp.max(ids)) < below:
        raise ValueError(f"{name} must lie from 0 to {below - 1}, got {int(xp.min(ids))} to {int(xp.max(ids))}")
    return ids


def check_beside(value: float | Array, like: Array, name: str, like_name: str) -> None:
    """Refuses an array that does not broadcast against `like` axis by axis.

    A number fits, and so does an array with as many axes as `like`, each of them 1 or as long. An array with fewer
    axes is refused: numpy would align its axes from the right, be it states against tokens.
    """
    if isinstance(value, int | float):
        return
    namespace(value)
    if value.ndim == 0:
        return
    fits = value.ndim == like.ndim and all(n in (1, m) for n, m in zip(value.shape, like.shape, strict=True))
    if not fits:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}, {like_name} has shape {tuple(like.shape)}: {name} must be a "
            "number or have the same axes, each as long or 1"
        )


def beside(value: float | Array, like: Array, name: str, like_name: str) -> Array:
    """`value` as an array like `like`, which it may broadcast against.

    Raises:
        ValueError: the shape does not fit, by `check_beside`.
    """
    out = as_array(value, like)
    check_beside(out, like, name, like_name)
    return out


def per_state(value: float | Array, laws: Array, name: str) -> Array:
    """`value`, a number or one per state, as an array like `laws` that broadcasts against them.

    Args:
        value: a number; an array of shape (...); or one of shape (..., 1), whose axes may be 1.
        laws: shape (..., vocab).
        name: the caller's name for the value.

    Returns:
        Shape () or (..., 1).

    Raises:
        ValueError: the shape does not fit.
    """
    out, states = as_array(value, laws), tuple(laws.shape[:-1])
    if out.ndim in (0, laws.ndim):
        check_beside(out, laws[..., :1], name, "one token of the laws")
        return out
    if tuple(out.shape) != states:
        raise ValueError(
            f"{name} has shape {tuple(out.shape)}: it must be a number, or one per state, of shape {states}"
        )
    return out[..., None]


def check_alike(**arrays: Array) -> list[Array]:
    """The arrays, any shape, in float32 at least; refused unless they are of one library and of one shape.

    Args:
        arrays: by the caller's names for them.

    Raises:
        TypeError: an array is not one of real floating numbers, or they are of several libraries.
        ValueError: the shapes differ.
    """
    out = [floating(array, name) for name, array in arrays.items()]
    namespace(*out)
    first = next(iter(arrays))
    for name, array in arrays.items():
        check_same_shape(arrays[first], array, first, name)
    return out


def check_numpy(**arrays: object) -> None:
    """Refuses what is not a numpy array with a TypeError, by name: for functions that compute in numpy alone."""
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{name} must be a numpy array, got {type(array).__name__}")


def check_floats(values: Floats, shape: tuple[int, ...], name: str, axes: str) -> Floats:
    """`values`, refused unless it is a numpy array of real floating numbers of this shape.

    Args:
        values: the array.
        shape: the shape that it must have.
        name: the caller's name for the array.
        axes: the meaning of the shape, as in `check_shape`.

    Raises:
        TypeError: it is not a numpy array, or its numbers are of another kind.
        ValueError: it has another shape.
    """
    check_numpy(**{name: values})
    check_reals(values, name)
    check_shape(values, shape, name, axes)
    return values


def positive(value: float | Array, name: str, like: Array) -> Array:
    """`value`, any shape, as an array like `like`; refused unless every entry is positive and finite."""
    xp = namespace(like)
    out = as_array(value, like)
    if not bool(xp.all((out > 0) & xp.isfinite(out))):
        raise ValueError(f"{name} must be positive and finite, got {value}")
    return out


def check_log_probs(log_probs: Array, name: str) -> Array:
    """`log_probs`, in float32 at least, refused unless it holds laws over the last axis.

    Args:
        log_probs: shape (..., vocab), nats; −inf marks a token outside the support.
        name: the caller's name for it, used in errors.

    Raises:
        TypeError: it is not an array of real floating numbers.
        ValueError: the vocabulary is empty, an entry is NaN, or a state does not sum to one.
    """
    log_probs = floating(log_probs, name)
    require_vocabulary(log_probs, name)
    with overflow_to_inf():
        total = namespace(log_probs).sum(namespace(log_probs).exp(stop_gradient(log_probs)), axis=-1)
    check_total(total, name)
    return log_probs


def check_total(total: Array, name: str) -> None:
    """Refuses total probabilities of shape (...) that are not one, for callers that have summed already."""
    xp = namespace(total)
    tolerance = _tolerance(total)
    off = xp.abs(total - 1.0)
    if bool(xp.all(off <= tolerance)):
        return
    if bool(xp.any(xp.isnan(off))):
        raise ValueError(f"{name} holds NaN")
    worst = float(xp.max(off))
    raise ValueError(
        f"{name} is not normalised: a state's probabilities miss 1 by {worst:.3g} "
        f"(at most {tolerance:g} is allowed; take log_softmax of the logits)"
    )


def check_at_most_one(total: Array, name: str) -> None:
    """Refuses probabilities of parts of laws, shape (...), that exceed one or are NaN."""
    if not bool(namespace(total).all(total <= 1.0 + _tolerance(total))):
        raise ValueError(f"{name} holds NaN, or probabilities that add up to more than 1")


def _tolerance(total: Array) -> float:
    return _NORMALISATION_TOLERANCE[namespace(total).finfo(total.dtype).bits // 8]


def check_pair(policy_log_probs: Array, actor_log_probs: Array) -> tuple[Array, Array]:
    """log p and log q, each of shape (..., vocab), checked as laws and for equal shapes.

    Raises:
        ValueError: as `check_log_probs`, or the shapes differ.
    """
    policy_log_probs = check_log_probs(policy_log_probs, "policy_log_probs")
    actor_log_probs = check_log_probs(actor_log_probs, "actor_log_probs")
    check_same_shape(policy_log_probs, actor_log_probs, "policy_log_probs", "actor_log_probs")
    return policy_log_probs, actor_log_probs


def check_same_shape(first: Array, second: Array, first_name: str, second_name: str) -> None:
    """Refuses two arrays of different shapes, naming both, or of different libraries."""
    namespace(first, second)
    if tuple(first.shape) != tuple(second.shape):
        raise ValueError(
            f"{first_name} has shape {tuple(first.shape)}, {second_name} has shape {tuple(second.shape)}: "
            "they must be the same"
        )


def check_advantage(advantage: Array, name: str = "advantage") -> Array:
    """`advantage`, any shape, refused unless it holds finite real floating numbers."""
    advantage = floating(advantage, name)
    xp = namespace(advantage)
    if not bool(xp.all(xp.isfinite(advantage))):
        raise ValueError(f"{name} holds NaN or inf")
    return advantage


def check_same_states(first: Array, second: Array, first_name: str, second_name: str) -> None:
    """Refuses two arrays whose shapes differ in more than the last axis, naming both, or of different libraries."""
    namespace(first, second)
    if first.ndim != second.ndim or tuple(first.shape[:-1]) != tuple(second.shape[:-1]) or first.ndim == 0:
        raise ValueError(
            f"{first_name} has shape {tuple(first.shape)}, {second_name} has shape {tuple(second.shape)}: "
            "all axes but the last must be the same"
        )


def require_vocabulary(array: Array, name: str) -> None:
    """Refuses an array whose shape is not (..., vocab) with a vocabulary of at least one token."""
    if array.ndim == 0 or array.shape[-1] == 0:
        raise ValueError(
            f"{name} has shape {tuple(array.shape)}: the last axis is the vocabulary and must not be empty"
        )
