"""Plots of a dump: log-ratios by position and probability, tails of weights, shares kept by threshold, and steps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from jackpot_sim.core.arrays import Floats, Ints
from jackpot_sim.diagnose.results import Diagnosis, Row
from jackpot_sim.estimators.corrections import registry
from jackpot_sim.estimators.mismatch.lines import BAD
from jackpot_sim.readers.table import TokenTable
from jackpot_sim.studies.files import write_atomically
from jackpot_sim.studies.help_texts import defaults

_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, and is the same on every machine
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "savefig.dpi": 150,
}
_WIDTH, _HEIGHT = 9.0, 3.8
"""The size of a figure in inches."""
_DARK, _LIGHT, _OTHER = "#0072B2", "#9ecae1", "#D55E00"
_BINS = 24
_FEWEST = 20
"""The fewest tokens of a bin that is drawn."""
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class _Rule(NamedTuple):
    """A threshold rule."""

    name: str
    bounded: str
    """Its threshold, in words."""
    size: Callable[[Floats, Floats], Floats]
    """What the threshold bounds, of log p and log q; 0 where p equals q."""
    default: float
    """The threshold that it has by default, in the same measure."""
    start: float
    """The threshold at which the measure is 0."""


@FuncFormatter
def _plain(value: float, _: float) -> str:
    """The tick of a logarithmic axis as a number."""
    return f"{value:g}"


def draw(sample: TokenTable | None, diagnosis: Diagnosis, folder: Path) -> list[Path]:
    """Draws the plots of the tokens that stand for the dump; the files, none where there is no token.

    Args:
        sample: the tokens that count, with both log-probs.
        diagnosis: says what the dump is.
        folder: the folder for the files.
    """
    if sample is None or sample.policy_log_probs is None or sample.actor_log_probs is None:
        return []
    p, q = sample.policy_log_probs, sample.actor_log_probs
    of = f"{diagnosis.source.get('paths', '')}, {len(sample):,} tokens of {sample.sequences:,} sequences"
    written = []
    with _style():
        figures = {
            "log_ratios.png": _log_ratios(p, q, sample.position),
            "weight_tails.png": _tails(p - q, sample),
            "share_kept.png": _shares(p, q, diagnosis),
        }
        if (steps := _steps(diagnosis)) is not None:
            figures["steps.png"] = steps
        for name, figure in figures.items():
            figure.supxlabel(_shortened(of), x=0.995, ha="right", fontsize=7, color="#777777")
            # No date and no version: the same dump gives the same bytes.
            write_atomically(
                folder / name, lambda path, f=figure: f.savefig(path, format="png", metadata={"Software": None})
            )
            written.append(folder / name)
    return written


@contextlib.contextmanager
def _style() -> Iterator[None]:
    """A context with matplotlib's own defaults and `_STYLE` in place of the user's settings."""
    settings: Any = {key: matplotlib.rcParamsDefault[key] for key in matplotlib.rcParamsDefault if "backend" not in key}
    with matplotlib.rc_context(settings | _STYLE):
        yield


def _shortened(text: str, most: int = 120) -> str:
    return text if len(text) <= most else f"… {text[-most:]}"


def _axes(count: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def _log_ratios(p: Floats, q: Floats, position: Ints) -> Figure:
    figure, (left, right) = _axes(2)
    ratio = p - q
    _banded(left, np.asarray(position + 1.0), ratio, log=position.max() >= 100)
    left.set(xlabel="position in the completion, from 1", ylabel="ℓ = log policy − log actor, nats")
    left.set_title("Log-ratio by position")
    _banded(right, np.asarray(np.exp(q)), ratio, log=True)
    right.set(xlabel="actor's probability of the token")
    right.set_title("Log-ratio by probability")
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper right", ncols=4, fontsize=8)
    return figure


def _banded(axes: Axes, x: Floats, y: Floats, *, log: bool) -> None:
    """The mean and quantiles of y in bins of x; a point where there is only one bin."""
    edges = _edges(x, log)
    at = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)
    counts = np.bincount(at)
    bins = np.flatnonzero(counts >= min(_FEWEST, counts.max()))
    values = [y[at == each] for each in bins]
    middle = np.array([np.median(x[at == each]) for each in bins])
    low, lower, median, upper, high = np.array([np.quantile(each, _QUANTILES) for each in values]).T
    axes.axhline(0.0, color="#333333", linewidth=0.8)
    axes.fill_between(middle, low, high, color=_LIGHT, alpha=0.5, linewidth=0, label="5 to 95 %")
    axes.fill_between(middle, lower, upper, color=_LIGHT, linewidth=0, label="25 to 75 %")
    axes.plot(middle, median, color=_DARK, marker="o", markersize=3, label="median")
    axes.plot(middle, [each.mean() for each in values], color=_OTHER, marker="s", markersize=3, label="mean")
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(_plain)


def _edges(x: Floats, log: bool) -> Floats:
    """The edges of bins that are equally wide, on a log scale if asked."""
    low, high = float(x.min()), float(x.max())
    if low == high:
        return np.array([low, np.nextafter(high, np.inf)])
    return np.asarray(np.geomspace(low, high, _BINS + 1) if log else np.linspace(low, high, _BINS + 1))


def _tails(ratio: Floats, sample: TokenTable) -> Figure:
    figure, (left, right) = _axes(2)
    for axes, values, title in (
        (left, ratio, "Weights of tokens"),
        (right, sample.per_sequence(ratio), "Weights of sequences"),
    ):
        for signed, color, name in ((values, _OTHER, "r = p/q"), (-values, _DARK, "1/r = q/p")):
            size = np.sort(signed[signed > 0])[::-1] / np.log(10)
            if len(size):
                share = np.arange(1, len(size) + 1) / len(values)
                axes.step(size, share, where="pre", color=color, label=f"{name}, largest 10^{size[0]:.2g}")
        axes.set_yscale("log")
        axes.set(xlabel="log₁₀ of the weight x", title=title)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="upper right", fontsize=8)
        else:
            axes.text(0.5, 0.5, "all are 1", ha="center", transform=axes.transAxes)
    left.set_ylabel("share with a weight above x")
    return figure


def _shares(p: Floats, q: Floats, diagnosis: Diagnosis) -> Figure:
    """The share of tokens that each rule leaves as they are."""
    rules = _rules()
    figure, axes = _axes(len(rules))
    advised = diagnosis.advice.threshold
    for each, rule in zip(axes, rules, strict=True):
        size = np.sort(rule.size(p, q))
        beyond = np.geomspace(1e-3, max(10.0, 2 * rule.default) if rule.start else 1.0, 400)
        share = np.searchsorted(size, beyond, side="right") / len(size)
        each.plot(beyond, share, color=_DARK)
        each.axvline(
            rule.default, color="#777777", linestyle="--", linewidth=1, label=f"default {rule.start + rule.default:g}"
        )
        of_rule = (diagnosis.advice.correction or "").partition("(")[0].strip() == rule.name
        if of_rule and advised is not None and advised.value is not None and advised.value > rule.start:
            label = f"advised {advised.value:.3g}"
            each.axvline(advised.value - rule.start, color=_OTHER, linewidth=1.2, label=label)
        each.set_xscale("log")
        each.xaxis.set_major_formatter(FuncFormatter(lambda value, _, start=rule.start: f"{start + value:g}"))
        each.set(xlabel=rule.bounded, title=rule.name, ylim=(-0.02, 1.02))
        each.legend(loc="lower right", fontsize=8, frameon=True, edgecolor="none", framealpha=1.0)
    axes[0].set_ylabel("share of tokens left as they are")
    return figure


def _steps(diagnosis: Diagnosis) -> Figure | None:
    """The mismatch by step, and the reward where the dump has one; None for fewer than two steps."""
    rows = [row for each in diagnosis.breakdowns if each.by == "step" for row in each.rows]
    if len(rows) < 2:
        return None
    step = [int(row.slice) for row in rows]
    has_rewards = any(row.figures.get("reward") is not None for row in rows)
    figure, (left, *right) = _axes(1 + has_rewards)
    for name, label, color in (("k3", "k3, nats", _DARK), ("probability_gap", "mean |p − q|", _OTHER)):
        left.plot(step, _numbers(rows, name), color=color, marker="o", markersize=3, label=label)
    left.axhline(BAD, color="#777777", linestyle="--", linewidth=1, label=f"|p − q| is bad above {BAD:g} (verl)")
    left.set(xlabel="training step", title="Mismatch by step")
    left.set_yscale("log", nonpositive="mask")
    left.legend(fontsize=8)
    for axes in right:
        axes.plot(step, _numbers(rows, "reward"), color=_DARK, marker="o", markersize=3)
        axes.set(xlabel="training step", ylabel="mean reward of the sequences", title="Reward by step")
    return figure


def _numbers(rows: list[Row], name: str) -> Floats:
    return np.array([np.nan if row.figures.get(name) is None else row.figures[name] for row in rows], dtype=np.float64)


def _rules() -> tuple[_Rule, ...]:
    tis, mis, tv = (defaults(registry.registered(name)) for name in ("tis", "mis", "tv-mask"))
    return (
        _Rule("tis", "clip: r at most", lambda p, q: np.expm1(np.maximum(p - q, 0.0)), _float(tis["clip"]) - 1, 1.0),
        _Rule("mis", "high: r and 1/r at most", lambda p, q: np.expm1(np.abs(p - q)), _float(mis["high"]) - 1, 1.0),
        _Rule("tv-mask", "epsilon: |p − q| at most", lambda p, q: abs(np.exp(p) - np.exp(q)), _float(tv["epsilon"]), 0),
    )


def _float(default: object) -> float:
    assert isinstance(default, int | float)
    return float(default)
