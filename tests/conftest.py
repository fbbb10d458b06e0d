"""What every test shares: hypothesis profiles, the array libraries, and markers that skip themselves."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import array_api_compat
import hypothesis
import numpy as np
import pytest

from tests.environments.tiny_checkpoints import checkpoints as checkpoints

ToLibrary = Callable[[Any], Any]

hypothesis.settings.register_profile("dev", max_examples=50, deadline=None, print_blob=True)
hypothesis.settings.register_profile("ci", max_examples=60, deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("nightly", max_examples=2000, deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


def pytest_configure() -> None:
    """Help and tables are as wide as everywhere, whatever terminal, colours or language the tests run in."""
    os.environ.update({"COLUMNS": "120", "LINES": "40", "TERM": "xterm", "PYTHONUTF8": "1"})
    for name in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "LC_ALL", "LANG", "LANGUAGE"):
        os.environ.pop(name, None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The long tail runs only when asked for, and CUDA tests only where there is a device."""
    asked = "nightly" in config.option.markexpr
    device = any(item.get_closest_marker("cuda") for item in items) and cuda_is_available()
    for item in items:
        if item.get_closest_marker("nightly") and not asked:
            item.add_marker(pytest.mark.skip(reason="nightly: run with -m nightly"))
        if item.get_closest_marker("cuda") and not device:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def cuda_is_available() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


@pytest.fixture(scope="session", autouse=True)
def converted_models(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Converted GGUF files go to a folder of the tests' own, unless one is named that outlives them."""
    os.environ.setdefault("JACKPOT_SIM_CACHE", str(tmp_path_factory.mktemp("converted")))


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """Small tensors are faster on one thread, and parallel test workers share the cores."""
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def versions_are_read_once() -> Iterator[None]:
    """A command asks for those of all its packages, which takes longer than most of what the tests ask of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metadata, "version", functools.cache(metadata.version))
        yield


@pytest.fixture(params=["numpy", "torch", "array_api_strict"])
def xp(request: pytest.FixtureRequest) -> ToLibrary:
    """A function that turns a numpy array into the library's own: floats as float64, ids as int64."""
    library = pytest.importorskip(request.param)
    if request.param != "array_api_strict":
        library = importlib.import_module(f"array_api_compat.{request.param}")

    def to_library(value: Any) -> Any:
        array = np.asarray(value)
        if array.dtype.kind == "f":
            return library.asarray(np.array(array, dtype=np.float64))
        return library.asarray(np.array(array, dtype=np.int64 if array.dtype.kind in "iu" else array.dtype))

    assert array_api_compat.is_array_api_obj(to_library(0.0))
    return to_library
