"""Imports of packages in a process of their own, which may fail, hang or end it: `python -m jackpot_sim.doctor.trial`.

The process writes a line of JSON before each import and one after it, and the devices at the end where torch is there.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

SECONDS = 180.0
"""The time for all imports of a process."""

_MODULES = {"pyyaml": "yaml", "llama-cpp-python": "llama_cpp"}
"""Modules of packages that are named otherwise."""

_LETTERS = 200
"""The letters of an error that are kept."""


def module_of(package: str) -> str:
    """The module of a package."""
    return _MODULES.get(package, package.replace("-", "_"))


def tried(packages: Sequence[str], seconds: float = SECONDS) -> tuple[dict[str, str], dict[str, object]]:
    """Imports packages in another process, and in one more after each that ends it.

    Args:
        packages: their names, all installed.
        seconds: the time for the imports of a process.

    Returns:
        What is wrong with each that cannot be imported, and the devices that torch sees, empty where it is not there.
    """
    errors: dict[str, str] = {}
    devices: dict[str, object] = {}
    left = list(packages)
    while left:
        lines, ending = _process(left, seconds)
        begun = [str(line["begun"]) for line in lines if "begun" in line]
        ended = {str(line["ended"]): line["error"] for line in lines if "ended" in line}
        errors |= {name: str(error) for name, error in ended.items() if error is not None}
        devices = next((line["devices"] for line in lines if "devices" in line), devices)
        if not begun:  # the process itself cannot begin
            return errors | dict.fromkeys(left, ending), devices
        if begun[-1] not in ended:
            errors[begun[-1]] = ending
        left = left[left.index(begun[-1]) + 1 :]
    return errors, devices


def _process(packages: Sequence[str], seconds: float) -> tuple[list[Mapping[str, Any]], str]:
    """The lines that a process writes about imports, and how it ended."""
    command = [sys.executable, "-m", __name__, *packages]
    try:
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=seconds, check=False)
        out, ending = done.stdout, f"its import ends the process with code {done.returncode}"
    except subprocess.TimeoutExpired as error:
        out, ending = error.stdout or b"", f"its import takes longer than {seconds:g} seconds"
    except OSError as error:
        out, ending = b"", f"no process can be started: {error}"
    lines = out.decode(errors="replace").splitlines()
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")], ending


def devices() -> dict[str, object]:
    """The devices that torch sees and its threads; an error where torch fails at that."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    try:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        seen = [torch.cuda.get_device_properties(at) for at in range(count)]
        return {
            "cuda": [{"name": each.name, "memory_gib": round(each.total_memory / 2**30, 1)} for each in seen],
            "mps": bool(torch.backends.mps.is_available()),
            "threads": torch.get_num_threads(),
        }
    except Exception as error:  # a driver that does not suit, a torch that is no torch
        return {"error": told(error)}


def told(error: BaseException) -> str:
    """The kind and the words of an error, in one line."""
    words = " ".join(f"{type(error).__name__}: {error}".split())
    return words if len(words) <= _LETTERS else f"{words[:_LETTERS]}..."


def _import_all(packages: Sequence[str], write: Callable[[Mapping[str, object]], None]) -> None:
    for name in packages:
        write({"begun": name})
        error = None
        try:
            importlib.import_module(module_of(name))
        except BaseException as raised:  # SystemExit too: it is what the package does that counts
            error = told(raised)
        write({"ended": name, "error": error})
    write({"devices": devices()})


def main() -> None:
    """Imports the packages that are named; what they print goes nowhere."""
    own = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")

    def write(line: Mapping[str, object]) -> None:
        print(json.dumps(line), file=own, flush=True)

    _import_all(sys.argv[1:], write)
    own.flush()
    os._exit(0)  # no package has a word at the end either


if __name__ == "__main__":
    main()
