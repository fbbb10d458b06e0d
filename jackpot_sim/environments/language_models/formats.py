"""Number formats that models are served in, and tensors rounded to them."""

from __future__ import annotations

from enum import StrEnum

from jackpot_sim.core.checks import check_reals
from jackpot_sim.environments.language_models.library import Tensor


class Format(StrEnum):
    """A number format of weights, or of keys and values."""

    BF16 = "bf16"
    FP8_E4M3 = "fp8-e4m3"
    FP8_E5M2 = "fp8-e5m2"
    INT8 = "int8"
    INT4 = "int4"


_LARGEST = {Format.FP8_E4M3: 448.0, Format.FP8_E5M2: 57344.0, Format.INT8: 127.0, Format.INT4: 7.0}


def rounded(values: Tensor, to: Format, group: int | None = None) -> Tensor:
    """A tensor's values rounded to the nearest in the format, in the tensor's own dtype and shape.

    bf16 needs no scale. In the others the entries of a vector along the last axis share one scale, so that its
    largest magnitude is the largest of the format (448, 57344, 127, 7): symmetric, without a zero point, the scale
    itself kept in full precision. Halves go to even.

    Args:
        values: shape (..., n).
        to: the format.
        group: entries per scale; the last group may be shorter. None is the whole vector.

    Raises:
        TypeError: the values are no real floating numbers.
    """
    import torch

    check_reals(values, "values")

    if group is not None:
        whole = values.shape[-1] - values.shape[-1] % group
        if not whole:
            return rounded(values, to)
        groups = rounded(values[..., :whole].reshape(*values.shape[:-1], -1, group), to).flatten(-2)
        rest = values[..., whole:]
        return torch.cat([groups, rounded(rest, to)], dim=-1) if rest.shape[-1] else groups
    if to is Format.BF16:
        return values.to(torch.bfloat16).to(values.dtype)
    scale = values.abs().amax(-1, keepdim=True) / _LARGEST[to]
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    scaled = values / scale
    if to in (Format.INT8, Format.INT4):
        return scaled.round() * scale
    dtype = torch.float8_e4m3fn if to is Format.FP8_E4M3 else torch.float8_e5m2
    return scaled.to(dtype).to(values.dtype) * scale
