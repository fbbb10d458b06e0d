"""The one module that knows which array library is in use.

Everything else in the project is written once against the Array API standard, with the
namespace `xp` taken from its inputs. This module holds what the standard lacks, and what
one library does much faster by another route.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any, Literal, cast

import array_api_compat
import array_api_extra as xpx
import numpy as np

from jackpot_sim.core.arrays import Array, Namespace

BLOCK_ELEMENTS = 1 << 15
"""The number of elements of an array that are worked on at a time, so that temporaries stay in the cache."""

_HALF = ("float16", "bfloat16")

_NAMESPACES: dict[tuple[type, ...], Namespace] = {}


def namespace(*arrays: Array) -> Namespace:
    """The Array API namespace that all `arrays` share; Python scalars and None are ignored."""
    types = tuple(map(type, arrays))
    found = _NAMESPACES.get(types)
    if found is None:  # asked of each small array, the library's answer takes a quarter of the time of exact moments
        found = _NAMESPACES[types] = array_api_compat.array_namespace(*arrays)
    return found


def overflow_to_inf() -> np.errstate:
    """A context in which numpy, like torch, turns an overflow into inf without a warning."""
    return np.errstate(over="ignore")


def floating(x: Array, name: str = "the array") -> Array:
    """`x`, any shape, as a floating array: half precision becomes float32, and integers are refused.

    Args:
        x: the array.
        name: the caller's name for it, used in the error.

    Raises:
        TypeError: `x` is not an array of real floating numbers.
    """
    require_floating(x, name)
    if not _is_half(x.dtype):
        return x
    xp = namespace(x)
    return xp.astype(x, xp.float32)


def require_floating(x: Array, name: str) -> None:
    """Refuses an array of any other numbers than real floating ones with a TypeError; half precision is one."""
    if not _is_real_floating(cast("Any", namespace(x)), x.dtype):
        raise TypeError(f"{name} must hold real floating numbers, got dtype {x.dtype}")


@functools.lru_cache(maxsize=None, typed=True)  # by type too: a dtype compared with another library's is a warning
def _is_half(dtype: object) -> bool:
    return str(dtype).rsplit(".", 1)[-1] in _HALF


@functools.cache
def _is_real_floating(xp: Any, dtype: object) -> bool:
    return bool(xp.isdtype(dtype, "real floating"))


def as_array(value: float | Array, like: Array) -> Array:
    """`value`, a number or an array of any shape, with the dtype and the device of `like`.

    Raises:
        TypeError: `value` holds complex numbers.
    """
    xp = namespace(like)
    device = array_api_compat.device(like)
    if array_api_compat.is_array_api_obj(value):
        given = cast("Array", value)
        if namespace(given).isdtype(given.dtype, "complex floating"):
            raise TypeError(f"the array must hold real numbers, got dtype {given.dtype}")
        return xp.astype(xp.asarray(value, device=device), like.dtype)
    return xp.asarray(value, dtype=like.dtype, device=device)


def as_ids(value: Array, like: Array) -> Array:
    """`value`, integers of any library and shape, as int64 of the library and on the device of `like`."""
    xp = namespace(like)
    if not array_api_compat.is_torch_array(like):
        return xp.asarray(to_numpy(value), dtype=xp.int64)
    return xp.asarray(value, dtype=xp.int64, device=array_api_compat.device(like))


def logsumexp(x: Array, axis: int = -1, keepdims: bool = False) -> Array:
    """log Σ exp(x) along `axis`, which the shape loses unless `keepdims`; a slice that is all −inf gives −inf."""
    xp = namespace(x)
    peak = xp.max(x, axis=axis, keepdims=True)
    finite_peak = xp.where(xp.isfinite(peak), peak, xp.zeros_like(peak))
    total = xp.sum(xp.exp(x - finite_peak), axis=axis, keepdims=True)
    positive = total > 0
    log_total = xp.where(positive, xp.log(xp.where(positive, total, 1.0)), -math.inf)
    out = xp.astype(log_total, x.dtype) + finite_peak
    return out if keepdims else xp.squeeze(out, axis=axis)


def searchsorted(ascending: Array, values: Array, side: Literal["left", "right"]) -> Array:
    """The insertion points, the shape of `values`, in `ascending` along the last axis; other axes must agree."""
    if array_api_compat.is_torch_array(values) and array_api_compat.is_torch_array(ascending):
        # Copied here if strided: torch would copy such a tensor itself, with a warning.
        ascending, values = ascending.contiguous(), values.contiguous()
    places: Any = xpx.searchsorted(cast("Any", ascending), cast("Any", values), side=side)
    return cast("Array", places)


def cumulative_minimum(x: Array) -> Array:
    """The minimum of all entries up to each one along the last axis, the shape of `x` (no NaN)."""
    xp = namespace(x)
    if array_api_compat.is_torch_array(x):
        smallest: Array = xp.cummin(x, dim=-1)[0]
        return smallest
    if array_api_compat.is_numpy_array(x):
        return cast("Array", np.minimum.accumulate(x, axis=-1))
    prefixes = [xp.min(x[..., : end + 1], axis=-1) for end in range(x.shape[-1])]
    return xp.stack(prefixes, axis=-1) if prefixes else x


def kth_largest(x: Array, k: int) -> Array:
    """The k-th largest entry along the last axis, shape (..., 1)."""
    xp = namespace(x)
    if array_api_compat.is_torch_array(x):
        values: Array = xp.topk(x, k, dim=-1)[0]
        return values[..., -1:]
    vocab = x.shape[-1]
    if array_api_compat.is_numpy_array(x):
        partitioned: Array = np.partition(x, vocab - k, axis=-1)
        return partitioned[..., vocab - k : vocab - k + 1]
    return xp.sort(x, axis=-1, descending=True)[..., k - 1 : k]


def topk_mask(x: Array, k: int) -> Array:
    """A mask of the k largest entries along the last axis, the shape of `x` (no NaN); ties go to the lower index."""
    xp = namespace(x)
    if k >= x.shape[-1]:
        return xp.ones_like(x, dtype=xp.bool)
    least = kth_largest(x, k)
    mask = x >= least
    if not bool(xp.any(xp.count_nonzero(mask, axis=-1) > k)):
        return mask
    above, tied = x > least, x == least
    room = k - xp.sum(xp.astype(above, xp.int64), axis=-1, keepdims=True)
    return above | (tied & (xp.cumulative_sum(xp.astype(tied, xp.int64), axis=-1) <= room))


def topk(x: Array, k: int) -> tuple[Array, Array]:
    """(values, indices) of the k largest entries along the last axis, both of shape (..., k).

    The largest entry comes first, and among ties the one of lower index, on every backend. A k beyond the
    axis gives all entries. The indices are int64, and `x` holds no NaN.
    """
    xp = namespace(x)
    count = min(k, x.shape[-1])
    indices = _torch_topk(x, count) if array_api_compat.is_torch_array(x) and count < x.shape[-1] else None
    if indices is None:
        # The mask is True at k entries of every row, and `nonzero` gives them row by row in ascending order.
        indices = xp.reshape(xp.nonzero(topk_mask(x, count))[-1], (*x.shape[:-1], count))
    values = xp.take_along_axis(x, indices, axis=-1)
    order = xp.argsort(values, axis=-1, descending=True, stable=True)
    return xp.take_along_axis(values, order, axis=-1), xp.take_along_axis(indices, order, axis=-1)


def _torch_topk(x: Array, k: int) -> Array | None:
    """The indices of the k largest in ascending order, by torch's own function; None where the k-th place is tied."""
    xp = namespace(x)
    values, indices = xp.topk(x, k + 1, dim=-1)
    if bool(xp.any(values[..., k - 1] == values[..., k])):
        return None
    return xp.sort(indices[..., :k], axis=-1)


def read_only(array: Array) -> Array:
    """The array, which numpy refuses to write into; of another library the array itself."""
    if not isinstance(array, np.ndarray):
        return array
    view = array.view()
    view.flags.writeable = False
    return view


def stop_gradient(x: Array) -> Array:
    """`x`, any shape, as a constant of differentiation: detached under torch, itself elsewhere."""
    return x.detach() if array_api_compat.is_torch_array(x) else x


def is_differentiated(x: Array) -> bool:
    """True for a tensor of torch through which a gradient flows."""
    return array_api_compat.is_torch_array(x) and bool(x.requires_grad)


def to_numpy(x: Array | float) -> np.ndarray[Any, Any]:
    """`x`, any shape, as a numpy array: a view where possible, fetched from its device and detached from its graph."""
    if array_api_compat.is_torch_array(x):
        return np.asarray(x.detach().cpu().numpy())
    return np.asarray(x)


def on_host(x: Array) -> Array:
    """`x` as a numpy view where numpy can read it in place, else `x`: for a few small arrays numpy costs the least.

    The view is detached from any graph.
    """
    in_place = array_api_compat.is_torch_array(x) and x.device.type == "cpu" and not _is_half(x.dtype)
    return to_numpy(x) if in_place else x


def into(out: Array, operation: str, *operands: Array) -> Array:
    """`operation`, elementwise, written into `out` of any shape: fresh memory costs more than the arithmetic."""
    function = getattr(namespace(out), operation)
    if array_api_compat.is_numpy_array(out) or array_api_compat.is_torch_array(out):
        written: Array = function(*operands, out=out)
        return written
    out[...] = function(*operands)
    return out


def placed(some: Array, mask: Array) -> Array:
    """Booleans at the True entries of a mask, in their order, and False elsewhere; `some` and `mask` have one axis."""
    xp = namespace(some, mask)
    order = xp.cumulative_sum(xp.astype(mask, xp.int64)) - 1
    return mask & xp.take(some, xp.where(mask, order, 0))


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices over `rows` that hold about `BLOCK_ELEMENTS` elements each, and at least one row."""
    step = max(1, BLOCK_ELEMENTS // max(columns, 1))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
