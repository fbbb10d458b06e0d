"""Time and memory of exact computations at a vocabulary of 151,936: budgets, paths of thresholds, moments."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.optimize import brentq

from jackpot_sim import estimators
from jackpot_sim.bench.laws import pairs
from jackpot_sim.bench.timing import Finding, in_turn, peak_bytes, ratios
from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.numerics import log_softmax
from jackpot_sim.core.obrs import overlap, solve_lam
from jackpot_sim.estimators import Correction
from jackpot_sim.estimators.states import moments, path

_BUDGETS = (0.8, 0.9, 0.95, 0.99)
_VECTOR_EXP = 0.8e-9
"""The seconds of an exponential of float64 on a processor with vector instructions for it (AVX-512)."""
_BRENTQ_STATES = 4
_DIRECT_EVERY = 20


def budget(states: int = 64, rounds: int = 5) -> Iterator[Finding]:
    """λ from an acceptance budget, against two in-place exponentials of the same arrays and brentq per state."""
    for law, pair in pairs(states).items():
        for rate in _BUDGETS:
            yield from _budget(pair.policy_log_probs, pair.actor_log_probs, rate, f"{law}, budget {rate}", rounds)


def _budget(p: Floats, q: Floats, rate: float, where: str, rounds: int) -> Iterator[Finding]:
    states = p.shape[0]
    work = p.copy(), q.copy()

    def refill() -> None:
        # `floor` needs fresh log-probs: its own output, exponentiated again, would overflow.
        np.copyto(work[0], p)
        np.copyto(work[1], q)

    def floor() -> None:
        np.exp(work[0], out=work[0])
        np.exp(work[1], out=work[1])

    def ours() -> None:
        solve_lam(p, q, rate)

    def by_brentq() -> None:
        for state in range(_BRENTQ_STATES):
            _brentq(p[state], q[state], rate)

    seconds = in_turn({"refill": refill, "floor": floor, "ours": ours, "brentq": by_brentq}, rounds)
    one_by_one = [each / _BRENTQ_STATES * states for each in seconds["brentq"]]
    error = float(np.max(np.abs(np.asarray(overlap(p, q, solve_lam(p, q, rate))) - rate)))
    yield Finding(f"|Z(lam) - budget|, {where}", error, at_most=1e-11)
    yield Finding.over_rounds(f"solve_lam / two exp, {where}", ratios(seconds["ours"], seconds["floor"]), at_most=4)
    beyond = [
        ours - floor + 2 * _VECTOR_EXP * p.size for ours, floor in zip(seconds["ours"], seconds["floor"], strict=True)
    ]
    fast = [each / (2 * _VECTOR_EXP * p.size) for each in beyond]
    note = "aim 2.5; the exponentials' part replaced by 0.8 ns each"
    yield Finding.over_rounds(f"solve_lam / two exp if exp were vectorised, {where}", fast, note=note)
    note = f"brentq on {_BRENTQ_STATES} of {states} states, scaled"
    in_rounds = ratios(one_by_one, seconds["ours"])
    yield Finding.over_rounds(f"brentq / solve_lam, {where}", in_rounds, at_least=3, note=note)


def _brentq(log_p: Floats, log_q: Floats, rate: float) -> float:
    p, q = np.exp(log_p), np.exp(log_q)
    root = brentq(lambda log_mu: np.minimum(q, np.exp(log_mu) * p).sum() - rate, np.log(rate) - 1, 50, xtol=1e-13)
    return float(np.exp(-root))


def paths(states: int = 16, thresholds: int = 200, rounds: int = 5) -> Iterator[Finding]:
    """Three families of thresholds along the path, against the direct formula one by one."""
    pair = pairs(states)["logit-noise on lm-like"]
    laws = (pair.policy_log_probs, pair.actor_log_probs, pair.advantage)
    grid = np.geomspace(0.25, 8.0, thresholds)
    families: dict[str, tuple[Correction, str]] = {
        "tis clip": (estimators.get("tis"), "clip"),
        "obrs lam": (estimators.get("obrs"), "lam"),
        "jackpot c1": (estimators.get("jackpot"), "c1"),
    }
    checked = range(0, thresholds, _DIRECT_EVERY)
    found: dict[str, dict[str, Any]] = {"path": {}, "direct": {}}

    def along() -> None:
        for name, (correction, parameter) in families.items():
            at_all = estimators.optimum.with_parameter(correction, parameter, grid)
            found["path"][name] = path.exact(*laws, at_all, n_samples=256)

    def one_by_one() -> None:
        for name, (correction, parameter) in families.items():
            at_each = [estimators.optimum.with_parameter(correction, parameter, float(grid[at])) for at in checked]
            found["direct"][name] = [moments.exact(*laws, each, n_samples=256) for each in at_each]

    seconds = in_turn({"path": along, "direct": one_by_one}, rounds)
    for figure in ("bias_sq", "variance", "direction_bias", "bias"):
        worst = max(
            abs(_figure(found["path"][name], figure)[at] - _figure(exact, figure))
            for name in families
            for at, exact in zip(checked, found["direct"][name], strict=True)
        )
        yield Finding(f"path against direct, {figure}", float(worst), at_most=1e-6 if figure == "bias" else 1e-10)
    note = f"direct formula at every {_DIRECT_EVERY}th threshold, scaled"
    what = f"{len(families)} families x {thresholds} thresholds, {states} states"
    yield Finding.over_rounds(f"path of {what}", seconds["path"], "s")
    scaled = [each * _DIRECT_EVERY for each in seconds["direct"]]
    yield Finding.over_rounds(f"direct / path, {what}", ratios(scaled, seconds["path"]), at_least=50, note=note)
    started = time.process_time()
    best = estimators.optimum.best(*laws, estimators.get("tis"), n_samples=256)
    spent = time.process_time() - started
    yield Finding("exact minimiser of the MSE, tis clip", spent, "s", note=f"C = {best.threshold:.4g}")


def _figure(of: Any, name: str) -> Any:
    """A figure of moments; bias² from the bias."""
    return of.bias**2 if name == "bias_sq" else getattr(of, name)


def memory(vocab: int = 4096) -> Iterator[Finding]:
    """Memory of the exact moments beyond their inputs, as the number of states grows."""
    generator = np.random.default_rng(0)
    peaks = {}
    for states in (64, 512):
        p = log_softmax(generator.standard_normal((states, vocab)))
        q = log_softmax(p + 0.3 * generator.standard_normal((states, vocab)))
        advantage = generator.standard_normal((states, vocab))
        peaks[states] = peak_bytes(lambda: moments.exact(p, q, advantage, estimators.get("jackpot")))  # noqa: B023
        yield Finding(f"memory beyond the inputs, {states} x {vocab}", peaks[states] / 2**20, "MiB")
    note = f"inputs grow 8x, by {3 * 8 * (512 - 64) * vocab / 2**20:.0f} MiB"
    yield Finding("memory at 512 states / at 64", peaks[512] / peaks[64], "x", at_most=1.2, note=note)
