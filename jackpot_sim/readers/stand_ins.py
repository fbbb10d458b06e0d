"""Plain stand-ins for the classes and functions that frameworks' pickles name: the whole of what a pickle may use.

A pickle is a program that calls what it names. Nothing that it names is ever looked up: each of a closed list of names
gets a stand-in from this file, which keeps the arguments as data, and any other name is refused. Stand-ins cannot be
changed by a pickle. `plain` then makes dictionaries, lists, numbers and arrays of them.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np
from typing_extensions import override

from jackpot_sim.readers.foreign import Foreign

LoadTensors = Callable[[bytes], Any]
"""From the bytes of a file of torch to what it holds, without running anything."""


class Fixed(type):
    """A class whose attributes cannot be set, so that no pickle changes what a stand-in does."""

    @override
    def __setattr__(cls, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{cls.__name__} cannot be changed")


class StandIn(metaclass=Fixed):
    """An object as a pickle describes it: its arguments, and the state that follows them."""

    __slots__ = ("arguments", "state")

    def __init__(self, *arguments: Foreign) -> None:
        self.arguments = arguments
        self.state: Foreign = None

    def __setstate__(self, state: Foreign) -> None:
        self.state = state

    def plain(self, load: LoadTensors) -> Foreign:
        """The object as plain data."""
        raise ValueError(f"{type(self).__name__} stands alone")


class Container(dict[Any, Any], metaclass=Fixed):
    """A dictionary with a state, as SkyRL's batches are."""

    __slots__ = ("state",)

    def __setstate__(self, state: Foreign) -> None:
        self.state = state

    def plain(self, load: LoadTensors) -> dict[str, Any]:
        """The tensors by name; the metadata stands under "metadata"."""
        state = getattr(self, "state", None) or {}
        batch = {key: _skyrl_tensor(value, load) for key, value in state.get("batch_dict", {}).items()}
        return {**dict(self), **batch, "metadata": state.get("metadata")}


class NumpyDtype(StandIn):
    """A dtype of numpy, of numbers, text or objects."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype."""
        code = str(self.arguments[0])
        if not re.fullmatch(r"[biuf]\d{1,2}|[US]\d{1,6}|O8?", code):
            raise ValueError(f"an array of dtype {code!r} is no array of numbers")
        found: np.dtype[Any] = np.dtype(code)
        return found.newbyteorder(">") if self.state and self.state[1] == ">" else found


class NumpyArray(StandIn):
    """An array of numpy; one of objects is a list."""

    @override
    def plain(self, load: LoadTensors) -> Foreign:
        _, shape, dtype, fortran, data = self.state
        return _array(data, dtype, shape, "F" if fortran else "C", load)


class NumpyBuffer(StandIn):
    """An array of numpy, out of a buffer."""

    @override
    def plain(self, load: LoadTensors) -> Foreign:
        data, dtype, shape, order = self.arguments
        return _array(data, dtype, shape, order, load)


class NumpyScalar(StandIn):
    """A number of numpy."""

    @override
    def plain(self, load: LoadTensors) -> Foreign:
        dtype, data = self.arguments
        return _array(data, dtype, (), "C", load).item()


class SkyRLBatch(StandIn):
    """A batch of SkyRL, as its newer releases pickle it: the class, and the state."""

    @override
    def plain(self, load: LoadTensors) -> Foreign:
        batch = Container()
        batch.__setstate__(self.arguments[1])
        return batch.plain(load)


class Word(StandIn):
    """A member of an enumeration of words, or a device: its word."""

    @override
    def plain(self, load: LoadTensors) -> Foreign:
        return str(self.arguments[0])


class Size(StandIn):
    """A shape."""

    @override
    def plain(self, load: LoadTensors) -> Foreign:
        return tuple(self.arguments[0])


class DataProto(StandIn):
    """A batch of verl: its tensors, in bytes of torch or of numpy, and what is no tensor."""

    @override
    def plain(self, load: LoadTensors) -> Foreign:
        batch, others, meta = self.state
        batch = plain(batch, load)
        if isinstance(batch, bytes):
            batch = load(batch)
        elif isinstance(batch, tuple):
            batch = {key: _verl_tensor(*value) for key, value in batch[2].items() if len(value) == 3}
        return {**plain(others, load), **(batch or {}), "meta_info": plain(meta, load)}


class TensorDict(StandIn):
    """A tensordict, with its tensors by name."""

    @override
    def plain(self, load: LoadTensors) -> Foreign:
        return plain(self.arguments[1]["_tensordict"], load)


class ConsolidatedTensorDict(StandIn):
    """A tensordict whose tensors lie in one run of bytes."""

    @override
    def plain(self, load: LoadTensors) -> Foreign:
        metadata, storage = self.arguments
        raw = plain(storage, load).numpy()
        out: dict[str, Any] = {}
        for name, (dtype, shape, start, stop, padded) in metadata["leaves"].items():
            values = _torch_numbers(raw[start : stop - padded].tobytes(), dtype)
            out[name] = values.reshape(shape)
        return out


class Encoded(StandIn):
    """Bytes that an old protocol writes as text; without text there are none."""

    @override
    def plain(self, load: LoadTensors) -> Foreign:
        return self.bytes

    @property
    def bytes(self) -> bytes:
        """The bytes."""
        return str(self.arguments[0]).encode("latin1") if self.arguments else b""


def plain(value: Foreign, load: LoadTensors) -> Foreign:
    """Nested dictionaries, lists and tuples without any stand-in.

    Raises:
        ValueError: a stand-in is used as its framework never does.
    """
    if isinstance(value, StandIn | Container):
        return plain(value.plain(load), load)
    if isinstance(value, Mapping):
        return {plain(key, load): plain(each, load) for key, each in dict(value).items()}
    if isinstance(value, list):
        return [plain(each, load) for each in value]
    if isinstance(value, tuple):
        return tuple(plain(each, load) for each in value)
    if isinstance(value, type):
        raise ValueError("a class stands where data is expected")
    return value


def _data(data: Foreign) -> bytes:
    return data.bytes if isinstance(data, Encoded) else bytes(data)


def _array(data: Foreign, dtype: Foreign, shape: Foreign, order: str, load: LoadTensors) -> Foreign:
    kind = dtype.dtype
    if kind.hasobject:
        if not isinstance(data, list) or len(shape) != 1:
            raise ValueError("an array of objects is no array of numbers")
        return plain(data, load)
    if isinstance(data, StandIn) and not isinstance(data, Encoded):
        data = plain(data, load)
    return np.frombuffer(_data(data), dtype=kind).reshape(tuple(shape), order=order)  # type: ignore[call-overload]


def _skyrl_tensor(value: Foreign, load: LoadTensors) -> Foreign:
    """A tensor as SkyRL's releases wrote it: bytes of torch, or a dictionary that says how."""
    if isinstance(value, bytes):
        return load(value)
    if not isinstance(value, Mapping):
        return value
    kind = plain(value.get("format"), load)
    if kind == "torch":
        return load(value["data"])
    if kind == "numpy_view":
        return plain(value["data"], load)
    if kind == "tensor_list":
        return [_skyrl_tensor(each, load) for each in value["items"]]
    if kind == "packed_tensor":
        return {key: _skyrl_tensor(value[key], load) for key in ("values", "cu_seqlens")}
    return np.frombuffer(value["data"], dtype=NumpyDtype(np.dtype(value["dtype"]).str[1:]).dtype).reshape(
        value["shape"]
    )


def _verl_tensor(dtype: str, shape: Foreign, data: Foreign) -> Foreign:
    return _torch_numbers(_data(data), dtype).reshape(tuple(shape))


_NUMBERS = {
    **{f"float{bits}": f"f{bits // 8}" for bits in (16, 32, 64)},
    **{f"int{bits}": f"i{bits // 8}" for bits in (8, 16, 32, 64)},
    "uint8": "u1",
    "bool": "b1",
}
"""The dtypes of torch as numpy has them; it has no bfloat16."""


def _torch_numbers(raw: bytes, dtype: str) -> Foreign:
    """Numbers of a dtype of torch, flat."""
    name = str(dtype).removeprefix("torch.")
    if name == "bfloat16":
        # The upper half of a float32.
        return (np.frombuffer(raw, dtype="u2").astype("u4") << 16).view("f4")
    if name not in _NUMBERS:
        raise ValueError(f"a tensor of dtype {name} holds no numbers that are read here")
    return np.frombuffer(raw, dtype=_NUMBERS[name])


_NUMPY = {
    **{f"{package}.multiarray._reconstruct": NumpyArray for package in ("numpy.core", "numpy._core")},
    **{f"{package}.multiarray.scalar": NumpyScalar for package in ("numpy.core", "numpy._core")},
    **{f"{package}.numeric._frombuffer": NumpyBuffer for package in ("numpy.core", "numpy._core")},
    "numpy.ndarray": StandIn,
    "numpy.dtype": NumpyDtype,
}
_SKYRL = {
    "TrainingInputBatch": Container,
    "TrainingOutputBatch": Container,
    "TensorBatch": Container,
    "TensorFormat": Word,
    "_rebuild_tensor_batch": SkyRLBatch,
}
_OTHERS = {
    "_codecs.encode": Encoded,
    "__builtin__.bytes": Encoded,
    "builtins.bytes": Encoded,
    "collections.OrderedDict": OrderedDict,
    "tensordict._reductions._make_td": TensorDict,
    "tensordict._reductions._rebuild_tensordict_files_consolidated": ConsolidatedTensorDict,
    "tensordict._td.TensorDict": StandIn,
    "torch.Size": Size,
    "torch.device": Word,
    "verl.protocol.DataProto": DataProto,
}
NAMES: Mapping[str, Any] = {
    **_NUMPY,
    **_OTHERS,
    **{
        f"{module}.{name}": stand_in
        for module in ("skyrl.backends.skyrl_train.training_batch", "skyrl_train.training_batch")
        for name, stand_in in _SKYRL.items()
    },
}
"""The stand-in for each name that a pickle may use, "module.name"."""
