"""Pickles, read without running anything in them: a closed list of names, each with a stand-in for it."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import BinaryIO

from typing_extensions import override

from jackpot_sim.readers import stand_ins, tensors
from jackpot_sim.readers.errors import DumpError
from jackpot_sim.readers.foreign import Foreign


class NameRefusedError(pickle.UnpicklingError):
    """A pickle names something that is not on the list."""


class _StorageBytes(stand_ins.StandIn):
    """The numbers of a tensor, as a file of torch."""


class _Tensor(stand_ins.StandIn):
    """A tensor: its numbers, and where in them it lies."""

    @override
    def plain(self, load: stand_ins.LoadTensors) -> Foreign:
        storage, offset, size, stride = self.arguments[:4]
        import torch

        if not isinstance(storage, _StorageBytes):
            raise ValueError("a tensor has no storage")
        numbers = load(storage.arguments[0])
        with warnings.catch_warnings():
            # torch deprecates these storages, and still pickles tensors with them.
            warnings.simplefilter("ignore")
            raw, dtype, held = numbers.untyped(), numbers.dtype, len(numbers)
        shape, steps = _shape(size), _shape(stride)
        last = offset + sum((count - 1) * step for count, step in zip(shape, steps, strict=True))
        # torch would make the storage larger, with whatever lies in memory there.
        if min((offset, *shape, *steps)) < 0 or (0 not in shape and last >= held):
            raise ValueError(f"a tensor reaches beyond its {held} numbers")
        return torch.tensor([], dtype=dtype).set_(raw, offset, shape, steps)


def _shape(size: Foreign) -> tuple[int, ...]:
    return tuple(size.arguments[0]) if isinstance(size, stand_ins.Size) else tuple(size)


LISTED = {
    **stand_ins.NAMES,
    "torch._utils._rebuild_tensor_v2": _Tensor,
    "torch.storage._load_from_bytes": _StorageBytes,
}
"""The stand-in for each name that a pickle may use."""


class _Unpickler(pickle.Unpickler):
    """An unpickler that knows the names on the list alone, and gives their stand-ins."""

    @override
    def find_class(self, module: str, name: str, /) -> Foreign:
        found = LISTED.get(f"{module}.{name}")
        if found is None:
            raise NameRefusedError(f"{module}.{name}")
        return found


def load(file: str | Path | BinaryIO, place: str) -> Foreign:
    """The content of a pickle: tensors, arrays, numbers and text in dictionaries, lists and tuples.

    Args:
        file: the file, or a stream of it.
        place: the file, as errors name it.

    Raises:
        DumpError: the pickle is broken, or names anything but tensors, arrays and the batches that are known.
    """
    if isinstance(file, str | Path):
        try:
            with Path(file).open("rb") as stream:
                return load(stream, place)
        except OSError as error:
            raise DumpError(f"{place}: it cannot be opened ({error.strerror})") from error
    try:
        return stand_ins.plain(_Unpickler(file).load(), tensors.load_bytes)
    except NameRefusedError as error:
        raise DumpError(f"{place}: {tensors.refusal(str(error))}") from error
    except DumpError as error:
        raise DumpError(f"{place}: {error}") from error
    except Exception as error:  # a broken file has many ways to fail
        raise DumpError(f"{place}: it cannot be read as a pickle ({tensors.in_a_line(error)})") from error
