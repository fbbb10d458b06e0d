"""The machine and the versions of a measurement, without names, paths and dates."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path

import psutil

_PACKAGES = ("jackpot-sim", "numpy", "torch", "transformers")


def machine() -> dict[str, object]:
    """The processor, the memory, the graphics processor if torch has one, and the versions."""
    return {
        "processor": _processor(),
        "processors": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        **_graphics(),
        "python": platform.python_version(),
        **{name.replace("-", "_"): _version(name) for name in _PACKAGES},
    }


def idle_processors(seconds: float = 1.0) -> float:
    """The number of processors that nothing else uses now; this process sleeps while it looks."""
    return (psutil.cpu_count() or 1) * (1 - psutil.cpu_percent(interval=seconds) / 100)


def _processor() -> str:
    """The model of the processor; Linux names it in /proc/cpuinfo alone."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _graphics() -> dict[str, object]:
    """The device that torch would use; nothing where no benchmark has needed torch."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return {}
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "graphics": properties.name,
        "graphics_memory_gib": round(properties.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
