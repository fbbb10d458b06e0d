"""The peak memory of torch, as its own allocators count it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import psutil


def torch_peak_bytes(run: Callable[[], Any], device: str) -> int:
    """The most that torch held at once on `device` during `run`, beyond what it held before.

    On a CPU every allocation and release is recorded by torch's profiler: Python's tracing sees none of them.
    """
    return _on_cuda(run, device) if device.startswith("cuda") else _on_cpu(run)


def _on_cuda(run: Callable[[], Any], device: str) -> int:
    import torch

    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return int(torch.cuda.max_memory_allocated(device)) - before


def _on_cpu(run: Callable[[], Any]) -> int:
    import torch

    # Otherwise the profiler's library writes to stderr that it starts and stops.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with torch.autograd.profiler.profile(profile_memory=True) as recorded:
        run()
    events = [event for event in recorded.kineto_results.events() if event.name() == "[memory]"]
    current = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        current += event.nbytes()
        peak = max(peak, current)
    return peak


def free_bytes(device: str) -> int:
    """The memory that is free on `device` now."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
