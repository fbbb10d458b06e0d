"""Pickles and files of torch from strangers: what is data is read, and nothing is ever run."""

from __future__ import annotations

import functools
import importlib
import io
import operator
import os
import pickle
import shutil
import subprocess
import sys
import types
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jackpot_sim.readers import pickles, tensors
from jackpot_sim.readers.errors import DumpError
from jackpot_sim.readers.stand_ins import NAMES, Container, NumpyDtype, StandIn
from jackpot_sim.requirements import RequirementError
from tests.readers.formats import foreign

torch = pytest.importorskip("torch")

Load = Callable[[bytes], Any]


def of_pickle(raw: bytes) -> Any:
    return pickles.load(io.BytesIO(raw), "dump.pkl")


def of_torch(raw: bytes) -> Any:
    return tensors.load(io.BytesIO(raw), "dump.pt")


class Calls:
    """An object whose pickle is a call."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.call


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A file that exists once a payload has run."""
    return tmp_path / "ran"


def touch(path: str) -> None:
    Path(path).touch()


def payloads(trace: Path) -> dict[str, Any]:
    """Objects whose pickles would make the file if anything in them were run."""
    write = f"open({str(trace)!r}, 'w').close()"
    evil = Calls(os.system, f"touch {trace}")
    return {
        "os.system": evil,
        "eval": Calls(eval, write),
        "exec": Calls(exec, write),
        "open": Calls(open, str(trace), "w"),
        "subprocess": Calls(subprocess.check_call, ["touch", str(trace)]),
        "a function of another module": Calls(touch, str(trace)),
        "an import": Calls(importlib.import_module, "antigravity"),
        "a nested pickle": Calls(pickle.loads, pickle.dumps(evil)),
        "getattr": Calls(getattr, evil, "call"),
        "rmtree": Calls(shutil.rmtree, "/nowhere"),
        "torch.load": Calls(torch.load, str(trace)),
        "a path": Calls(Path, str(trace)),
        "a partial call": functools.partial(os.system, f"touch {trace}"),
        "a method called": Calls(operator.methodcaller("touch"), Path(trace)),
        "a namespace": types.SimpleNamespace(a=1),
        "an array of objects": np.array([1, evil], dtype=object),
        "a dtype made of objects": Calls(np.dtype, [("a", "O")]),
        "inside a dictionary": {"tokens": [1, 2, {"deep": [evil]}]},
        "a key": {("a", 1): OrderedDict(x=evil)},
        "a default factory": defaultdict(list, {"x": 1}),
        "a state": Calls(OrderedDict, state={"x": evil}),
        "a storage with a pickle": Calls(torch.storage._load_from_bytes, pickle.dumps(evil)),
        "a lambda's class": Calls(type, "X", (), {}),
    }


@pytest.mark.parametrize("load", [of_pickle, of_torch], ids=["pickle", "torch"])
@pytest.mark.parametrize("payload", payloads(Path("nowhere")))
def test_no_payload_runs_and_the_error_names_it(load: Load, payload: str, trace: Path) -> None:
    content = payloads(trace)[payload]
    raw = pickle.dumps(content) if load is of_pickle else foreign.torch_bytes(content)
    before = set(sys.modules)
    with pytest.raises(DumpError, match=r"^dump\.p(kl|t)") as raised:
        load(raw)
    assert not trace.exists()
    assert "antigravity" not in set(sys.modules) - before
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_the_error_names_the_stranger(protocol: int, trace: Path) -> None:
    raw = pickle.dumps({"a": Calls(os.system, f"touch {trace}")}, protocol)
    with pytest.raises(DumpError, match=r"^dump\.pkl: it names (posix|nt)\.system, .* nothing in a dump is ever run"):
        of_pickle(raw)
    with pytest.raises(DumpError, match=r"^dump\.pt: it names (posix|nt)\.system, .* nothing in a dump is ever run"):
        of_torch(foreign.torch_bytes({"a": Calls(os.system, f"touch {trace}")}))
    with pytest.raises(DumpError, match=r"it names argparse\.Namespace,"):
        of_torch(foreign.torch_bytes({"args": __import__("argparse").Namespace(a=1)}))
    assert not trace.exists()


@pytest.mark.parametrize("release", ["first", "twice", "newest"])
def test_no_payload_runs_inside_a_batch_that_is_known(release: str, trace: Path) -> None:
    """Bytes inside a batch are files of torch, and are read as carefully as the outer one."""
    evil = Calls(os.system, f"touch {trace}")
    inner = {"format": "torch", "data": foreign.torch_bytes(evil)} if release != "first" else foreign.torch_bytes(evil)
    state = {"batch_dict": {"sequences": inner}, "metadata": None}
    with foreign.modules("skyrl_train.training_batch") as (module,):

        class TrainingInputBatch(dict[str, Any]):
            def __getstate__(self) -> Any:
                return state

        foreign.place(module, TrainingInputBatch)
        raw = pickle.dumps(TrainingInputBatch())
    with pytest.raises(DumpError, match=r"names (posix|nt)\.system"):
        of_pickle(raw)
    for batch in (foreign.torch_bytes(evil), pickle.dumps(evil)):
        with foreign.modules("verl.protocol") as (module,):

            class DataProto:
                def __getstate__(self) -> Any:
                    return batch, {}, {}  # noqa: B023  (pickled at once)

            foreign.place(module, DataProto)
            raw = pickle.dumps(DataProto())
        with pytest.raises(DumpError):
            of_pickle(raw)
    assert not trace.exists()


STRANGERS = (
    *("builtins", "os", "posix", "sys", "io", "subprocess", "shutil", "pathlib", "socket", "ctypes", "marshal"),
    *("pickle", "_pickle", "copyreg", "importlib", "runpy", "types", "functools", "operator", "codecs", "_codecs"),
    *("numpy", "numpy._core.multiarray", "numpy.dtypes", "torch", "torch._utils", "torch.storage", "torch.hub"),
    *("torch.serialization", "jackpot_sim.readers.pickles", "jackpot_sim.readers.stand_ins", "collections"),
)


def test_every_name_that_is_not_listed_is_refused() -> None:
    """A dotted name reaches into what is listed, and is refused too."""
    names = [
        (module, name) for module in STRANGERS if module in sys.modules for name in sorted(vars(sys.modules[module]))
    ]
    names += [
        (module, f"{name}.{inner}")
        for module, _, name in (each.rpartition(".") for each in NAMES)
        for inner in ("__class__", "__init__", "__reduce__", "tofile", "plain")
    ]
    refused = 0
    for module, name in names:
        if f"{module}.{name}" in pickles.LISTED:
            continue
        parts = b"".join(b"\x8c" + bytes([len(each)]) + each.encode() for each in (module, name))
        with pytest.raises(DumpError, match="nothing in a dump is ever run"):
            of_pickle(b"\x80\x04" + parts + b"\x93.")
        refused += 1
    assert refused > 2000


ON_CLASSES = {
    "a dtype": b"cnumpy\ndtype\n",
    "a batch": b"cskyrl_train.training_batch\nTrainingInputBatch\n",
    "an ordered dictionary": b"ccollections\nOrderedDict\n",
}


@pytest.mark.parametrize("target", ON_CLASSES)
def test_a_pickle_cannot_change_what_stands_in_for_a_class(target: str) -> None:
    """BUILD sets attributes on whatever is on the stack, and later pickles would find them."""
    kinds = (Container, NumpyDtype, StandIn, OrderedDict)
    before = [dict(vars(each)) for each in kinds]
    for state in (b"}(Vplain\nI1\nu", b"(N}(Vplain\nI1\nut", b"(}(Vplain\nI1\nu}(V__setstate__\nI1\nut"):
        with pytest.raises(DumpError):
            of_pickle(ON_CLASSES[target] + state + b"b.")
    assert [dict(vars(each)) for each in kinds] == before
    with pytest.raises(AttributeError, match="cannot be changed"):
        StandIn.plain = None  # type: ignore[method-assign, assignment]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x80\x04",
        b"\x80\x04.",
        b"not a pickle",
        pickle.dumps({"a": 1})[:-3],
        b"cnumpy\ndtype\n.",
        b"cnumpy\nndarray\n.",
        b"\x80\x02]q\x00h\x00a.",
        b"\x80\x04Q.",
        b"\x80\x02\x82\x01.",
    ],
)
def test_a_broken_pickle_is_one_sentence(raw: bytes) -> None:
    with pytest.raises(DumpError, match=r"^dump\.pkl: it cannot be read as a pickle") as raised:
        of_pickle(raw)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("raw", [b"", b"PK\x03\x04", b"not torch's", foreign.torch_bytes({"a": 1})[:200]])
def test_a_broken_file_of_torch_is_one_sentence(raw: bytes) -> None:
    with pytest.raises(DumpError, match=r"^dump\.pt: it cannot be read as a file of torch\.save") as raised:
        of_torch(raw)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for load in (pickles.load, tensors.load):
        with pytest.raises(DumpError, match=r"^here: "):
            load(tmp_path / "none", "here")


ARRAYS = {
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "big-endian": np.arange(3, dtype=">i4"),
    "Fortran's order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "booleans": np.array([True, False]),
    "text": np.array(["a", "bc"]),
    "none at all": np.zeros((0, 2)),
    "no axis": np.array(3.5),
}


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_come_back(name: str, protocol: int) -> None:
    array = ARRAYS[name]
    found = of_pickle(pickle.dumps([array, {"x": array}], protocol))
    for each in (found[0], found[1]["x"]):
        assert each.dtype == array.dtype
        np.testing.assert_array_equal(each, array)
    if array.dtype.kind != "U":
        np.testing.assert_array_equal(of_torch(foreign.torch_bytes([array]))[0], array)


def test_plain_data_comes_back() -> None:
    content = {
        "tokens": [1, 2, None, True, 2**70, 0.5, "x", b"y", (1, (2,))],
        "ordered": OrderedDict(a=1),
        "number": np.float32(0.5),
        "whole": np.int64(3),
        "objects": np.array(["a", None, 3], dtype=object),
    }
    expected = {**content, "ordered": {"a": 1}, "number": 0.5, "whole": 3, "objects": ["a", None, 3]}
    assert of_pickle(pickle.dumps(content)) == expected
    assert of_torch(foreign.torch_bytes(content)) == expected


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64", "bool"])
def test_tensors_come_back(dtype: str) -> None:
    tensor = torch.tensor([[1, 0], [3, 4], [0, 6]]).to(getattr(torch, dtype))
    for part in (tensor, tensor.T, tensor[1:], tensor[0, 1]):
        for found in (of_pickle(pickle.dumps({"a": [part]}))["a"][0], of_torch(foreign.torch_bytes([part]))[0]):
            assert found.dtype == part.dtype
            assert torch.equal(found, part)


def test_a_tensor_that_reaches_beyond_its_numbers_is_refused() -> None:
    class Reaches:
        def __reduce__(self) -> Any:
            function, arguments = torch.zeros(3).__reduce_ex__(2)
            return function, (arguments[0], 0, (1000,), (1,), False, OrderedDict())

    with pytest.raises(DumpError, match="a tensor reaches beyond its 3 numbers"):
        of_pickle(pickle.dumps(Reaches()))


def test_without_torch_files_of_torch_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickles of numpy's arrays need none."""

    def missing(*names: str, purpose: str) -> None:
        raise RequirementError(f"{purpose} needs {names[0]}, which is missing")

    raw = pickle.dumps(np.arange(3))
    monkeypatch.setattr(tensors, "require", missing)
    with pytest.raises(RequirementError, match=r"a file of torch\.save needs torch, which is missing"):
        of_torch(foreign.torch_bytes([1]))
    np.testing.assert_array_equal(of_pickle(raw), np.arange(3))
