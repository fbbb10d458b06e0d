"""Modules of a checkout by themselves: no `__init__` runs, and what is not installed is stood in for by nothing."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path

import torch


class Nothing:
    """Whatever a module that is not installed holds: it can be a type, or decorate; calling it is an error."""

    def __class_getitem__(cls, _: object) -> type[object]:
        return object


class Absent(types.ModuleType):
    """A module that is not installed."""

    __path__: Sequence[str] = ()

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return decorating if name in ("jaxtyped", "beartype") else Nothing


def decorating(function: object = None, **_: object) -> object:
    """A decorator that leaves a function as it is."""
    return (lambda decorated: decorated) if function is None else function


class OfAbsent(Loader):
    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return Absent(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


class Checkout(MetaPathFinder):
    """Finds a package's modules in folders, its subpackages without their `__init__`, and absent modules last."""

    def __init__(self, package: str, folders: Sequence[Path], absent: Sequence[str]) -> None:
        self.package, self.folders, self.absent = package, folders, absent

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if any(name == each or name.startswith(f"{each}.") for each in self.absent):
            return ModuleSpec(name, OfAbsent(), is_package=True)
        if name.split(".")[0] != self.package:
            return None
        places = [folder.joinpath(*name.split(".")) for folder in self.folders]
        for place in places:
            if (file := place.with_suffix(".py")).is_file():
                return importlib.util.spec_from_file_location(name, file)
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(place) for place in places if place.is_dir()]
        if spec.submodule_search_locations:
            return spec
        above = any(each.startswith(f"{name}.") for each in self.absent)
        return ModuleSpec(name, OfAbsent(), is_package=True) if above else None


@contextlib.contextmanager
def loaded(
    package: str, folders: Sequence[Path], absent: Sequence[str], instead: Mapping[str, Mapping[str, object]]
) -> Iterator[None]:
    """Makes a checkout's package importable, and forgets it afterwards; compiled functions run as they are.

    Args:
        package: its name.
        folders: the folders that hold it.
        absent: modules whose contents no tested function calls, installed or not.
        instead: modules that are stood in for, with what they hold.
    """
    before, compiler, finder = dict(sys.modules), torch.compile, Checkout(package, folders, absent)
    sys.meta_path.insert(0, finder)
    torch.compile = decorating  # type: ignore[assignment]
    for name, holds in instead.items():
        sys.modules[name] = module = types.ModuleType(name)
        vars(module).update(holds, __path__=[])
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        torch.compile = compiler
        for name in set(sys.modules) - set(before):
            if name.split(".")[0] in {package, *(each.split(".")[0] for each in (*absent, *instead))}:
                del sys.modules[name]
        sys.modules.update({name: module for name, module in before.items() if name in instead})
