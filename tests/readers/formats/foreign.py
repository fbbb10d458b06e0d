"""Pickles as other frameworks write them, from classes of theirs that are made up here for as long as it takes."""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from types import ModuleType
from typing import Any

import numpy as np


@contextmanager
def modules(*names: str) -> Iterator[list[ModuleType]]:
    """Empty modules under these names, and under those of their packages, for a while."""
    every = {".".join(name.split(".")[: at + 1]) for name in names for at in range(name.count(".") + 1)}
    before = {name: sys.modules.get(name) for name in every}
    sys.modules.update({name: ModuleType(name) for name in every})
    try:
        yield [sys.modules[name] for name in names]
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def place(module: ModuleType, *objects: Any) -> None:
    """Puts classes and functions into a module, as if they were written there."""
    for each in objects:
        each.__module__, each.__qualname__ = module.__name__, each.__name__
        setattr(module, each.__name__, each)


def torch_bytes(value: Any) -> bytes:
    """The bytes that torch.save writes."""
    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def skyrl(batch: Mapping[str, Any], release: str) -> bytes:
    """A TrainingInputBatch, pickled as a release of SkyRL does: "first", "twice" or "newest"."""
    import torch

    class TensorFormat(StrEnum):
        NUMPY = "numpy"

    def state(values: Mapping[str, Any]) -> dict[str, Any]:
        parts: dict[str, Any] = {}
        for key, value in values.items():
            if release == "first" and value is not None:
                parts[key] = torch_bytes(value)
            elif value is not None:
                kind = TensorFormat.NUMPY if release == "newest" else "numpy"
                array = value.numpy()
                parts[key] = {"format": kind, "data": array.tobytes(), "shape": array.shape, "dtype": str(array.dtype)}
            else:
                parts[key] = None
        metadata = {"response_length": 3, "metrics": {"mean": np.float64(0.5)}}
        return {"batch_dict": parts, "batch_size": 8, "device": torch.device("cpu"), "metadata": metadata}

    class TrainingInputBatch(dict[str, Any]):
        def __getstate__(self) -> Any:
            return state(self)

    def _rebuild_tensor_batch(*_: Any) -> None: ...

    if release == "newest":
        # A method, which pickle looks up in the class.
        TrainingInputBatch.__reduce__ = lambda self: (_rebuild_tensor_batch, (TrainingInputBatch, state(self)))  # type: ignore[method-assign]
    path = "skyrl.backends.skyrl_train.training_batch" if release == "newest" else "skyrl_train.training_batch"
    with modules(path) as (module,):
        place(module, TensorFormat, TrainingInputBatch, _rebuild_tensor_batch)
        given = {key: value for key, value in batch.items() if value is not None or release != "first"}
        return pickle.dumps(TrainingInputBatch(given))


def data_proto(
    batch: Mapping[str, Any], others: Mapping[str, Any], meta: Mapping[str, Any], *, of_numpy: bool = False
) -> bytes:
    """A DataProto of verl, whose tensors lie in one run of bytes, or each in its own where numpy is asked for."""
    import torch

    class Consolidated:
        def __reduce__(self) -> Any:
            leaves, raw = {}, b""
            for key, value in batch.items():
                data = value.contiguous().numpy().tobytes()
                padding = -len(data) % 8
                leaves[key] = (str(value.dtype), list(value.shape), len(raw), len(raw) + len(data) + padding, padding)
                raw += data + bytes(padding)
            metadata = {"cls": "TensorDict", "non_tensors": {}, "leaves": leaves, "cls_metadata": {"device": None}}
            storage = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
            return _rebuild_tensordict_files_consolidated, (metadata, storage)

    def _rebuild_tensordict_files_consolidated(*_: Any) -> None: ...

    class DataProto:
        def __getstate__(self) -> Any:
            arrays = {key: np.array(value, dtype=object) for key, value in others.items()}
            return tensors() if of_numpy else torch_bytes(Consolidated()), arrays, dict(meta)

    def tensors() -> Any:
        parts = {
            key: (str(value.dtype).removeprefix("torch."), value.shape, value.flatten().view(torch.uint8).numpy())
            for key, value in batch.items()
        }
        return (8,), None, parts

    with modules("verl.protocol", "tensordict._reductions") as (protocol, reductions):
        place(protocol, DataProto)
        place(reductions, _rebuild_tensordict_files_consolidated)
        return pickle.dumps(DataProto())
