"""The fused overlap beside the others on one device: its time against a copy's, its memory against that of the laws."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from jackpot_sim.bench.errors import CannotMeasureError
from jackpot_sim.bench.memory import torch_peak_bytes
from jackpot_sim.bench.timing import Finding, in_turn, ratios
from jackpot_sim.core import fused, normalizer, obrs
from jackpot_sim.core.backend import to_numpy
from jackpot_sim.core.heads import Head
from jackpot_sim.core.topk import TopK
from jackpot_sim.requirements import RequirementError, require

K = 20
COPY_SHARE = 0.8
"""The least rate of reading, relative to a copy's, that the fused overlap is to reach on a GPU."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of the laws, and of the hidden states behind them."""

    tokens: int
    vocab: int
    hidden: int


ON_CUDA = Sizes(tokens=4096, vocab=151_936, hidden=1024)
ON_CPU = Sizes(tokens=32, vocab=151_936, hidden=64)
TINY = Sizes(tokens=8, vocab=1024, hidden=16)


def fusing(sizes: Sizes | None = None, rounds: int = 5) -> Iterator[Finding]:
    """The ways to Z on CUDA where there is one, in bfloat16 as logits come, else on one thread of the CPU.

    Raises:
        CannotMeasureError: torch is missing, or has no compiler for the device.
    """
    try:
        require("torch", purpose="fused")
    except RequirementError as missing:
        raise CannotMeasureError(str(missing)) from missing
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = sizes or (ON_CUDA if device == "cuda" else ON_CPU)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Any:
        return torch.randn(*shape, device=device, dtype=dtype, generator=generator)

    hidden, weight = normal(sizes.tokens, sizes.hidden), normal(sizes.vocab, sizes.hidden) * (4 / sizes.hidden**0.5)
    moved = hidden + 0.05 * normal(sizes.tokens, sizes.hidden)
    logits = [each @ weight.T for each in (hidden, moved)]
    p, q = (torch.log_softmax(each.float(), dim=-1).to(dtype) for each in logits)
    stored = TopK.of(q, K)
    on_policy = stored.gather(p)
    try:
        exact = obrs.overlap_of_checked(p.double()[:64], q.double()[:64])
        error = float(np.max(np.abs(to_numpy(fused.overlap(p[:64], q[:64]) / exact) - 1)))
    except RuntimeError as failure:  # a missing or broken compiler may raise anything
        raise CannotMeasureError(
            f"torch cannot compile for {device}: {str(failure).splitlines()[0][:150]}"
        ) from failure
    labels: dict[str, str | float] = {"device": device, "dtype": str(dtype), **vars(sizes)}
    yield Finding("fused Z, largest relative error", error, at_most=1e-4, labels=labels)

    candidates: dict[str, Callable[[], object]] = {
        "copy": lambda: (p.clone(), q.clone()),
        "fused": lambda: fused.overlap(p, q),
        "fused from logits": lambda: fused.overlap_of_logits(*logits),
        "exact": lambda: obrs.overlap_of_checked(p, q),
        "chunked": lambda: normalizer.chunked(hidden, moved, Head(weight), Head(weight)),
        "bracket_on_topk": lambda: normalizer.bracket_on_topk(on_policy, stored.log_probs),
    }
    seconds = in_turn({name: _finished(run, device) for name, run in candidates.items()}, rounds, _clock(device))
    laws = 2 * sizes.tokens * sizes.vocab * p.element_size()
    rate = 2 * laws / statistics.median(seconds["copy"]) / 1e9
    where = f"{sizes.tokens:,} x {sizes.vocab:,} in {str(dtype).removeprefix('torch.')} on {device}"
    yield Finding("copy rate, read and written", rate, "GB/s", note=where, labels=labels)
    # A copy moves every byte twice, the overlap reads it once.
    share = [copy / 2 / own for copy, own in zip(seconds["copy"], seconds["fused"], strict=True)]
    at_least = COPY_SHARE if device == "cuda" else None
    yield Finding.over_rounds("fused Z, rate / copy rate", share, at_least=at_least, labels=labels)
    for name in candidates:
        if name != "copy":
            each = ratios(seconds[name], seconds["fused"])
            yield Finding.over_rounds(f"time of {name} / fused", each, labels={"way": name, **labels})
    for name in ("fused", "fused from logits", "exact", "chunked"):
        peak = torch_peak_bytes(candidates[name], device) / laws
        at_most = 0.01 if name.startswith("fused") else None
        yield Finding(f"memory of {name} / both laws", peak, "x", at_most=at_most, labels={"way": name, **labels})


def _finished(run: Callable[[], object], device: str) -> Callable[[], None]:
    """`run`, back only when the device is done."""

    def to_its_end() -> None:
        run()
        if device == "cuda":
            import torch

            torch.cuda.synchronize()

    return to_its_end


def _clock(device: str) -> Callable[[], float]:
    return time.perf_counter if device == "cuda" else time.process_time
