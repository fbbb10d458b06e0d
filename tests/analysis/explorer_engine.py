"""The explorer's JavaScript, run in this process."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np
from py_mini_racer import MiniRacer

from analysis.explorer import script


class Engine:
    """A JavaScript engine with files of the explorer loaded; a context, since an open engine outlives its process."""

    def __init__(self, *files: str) -> None:
        self._racer = MiniRacer()
        for file in files:
            self._racer.eval(script(file))

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._racer.close()

    def __call__(self, function: str, *arguments: object) -> Any:
        """The result of a function; arrays go in as Float64Array, inf and nan pass both ways."""
        call = f"{function}({', '.join(map(literal, arguments))})"
        replacer = (
            "(_, x) => typeof x === 'number' && !Number.isFinite(x) ? `#${x}` : ArrayBuffer.isView(x) ? [...x] : x"
        )
        return plain(json.loads(str(self._racer.eval(f"JSON.stringify({call}, {replacer})"))))


def literal(value: object) -> str:
    """A value as JavaScript; floats keep all digits."""
    if isinstance(value, np.ndarray):
        return f"Float64Array.of({', '.join(map(literal, value.tolist()))})"
    if isinstance(value, Mapping):
        return "({" + ", ".join(f"{json.dumps(name)}: {literal(each)}" for name, each in value.items()) + "})"
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return json.dumps(value)


def plain(value: Any) -> Any:
    """A result with inf and nan as floats."""
    if isinstance(value, str) and value.startswith("#"):
        return float(value[1:])
    if isinstance(value, list):
        return [plain(each) for each in value]
    return {name: plain(each) for name, each in value.items()} if isinstance(value, dict) else value
