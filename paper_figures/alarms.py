"""Alarms that a run will be lost: figures of the steps, judged on runs that were lost and others.

(a) How often a lost run looks more alarming than another run at the same step, so many steps before its loss: 1 for a
perfect alarm, 1/2 for one that knows nothing. (b) Alarms over all thresholds, 25 steps before: the share of losses told
in time, and the false alarms. Filled marks are at thresholds that other seeds chose, open ones those of rules in use;
the dotted line is an alarm that rings at random. `training.before_loss` says how both are counted.

Held-out accuracy is shown for comparison: a loss is defined by it. Reward is the actor's, as in any run's log.
Intervals are for each figure alone, and the best of many is the luckiest too: the line "of other seeds", whose figure
other seeds chose as well, has no such luck.

    python -m paper_figures.alarms
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from rich.table import Table

from jackpot_sim.core.arrays import Floats
from jackpot_sim.studies.errors import StudyError

from . import style
from .command import Made, report_table
from .training import before_loss, records
from .training.before_loss import Alarm, Among, Estimate, Runs, Signal
from .training.records import Several

NAME = "alarms"

NOTICES = (10, 25, 50)
"""Steps before a loss."""
NOTICE = 25
"""That of the alarms."""
LIMIT = 0.1
"""The false alarms per 100 steps for which thresholds are chosen."""

KL = Signal("kl_policy_actor", "KL(p‖q)")
OVERLAP, P5 = Signal("overlap", "overlap, mean", rises=False), Signal("overlap_p5", "overlap, 5th pct.", rises=False)
ACCURACY = Signal("accuracy", "held-out accuracy", rises=False)
K3, ESS = Signal("k3", "k3"), Signal("ess_ratio", "ESS of p/q", rises=False)
SIGNALS = (
    KL,
    dataclasses.replace(KL, name="KL(p‖q), × first", to_first=True),
    Signal("k1", "k1"),
    K3,
    dataclasses.replace(K3, name="k3, × first", to_first=True),
    Signal("chi_square", "χ²"),
    ESS,
    OVERLAP,
    P5,
    dataclasses.replace(P5, name="overlap 5th, × first", to_first=True),
    Signal("overlap_p1", "overlap, 1st pct.", rises=False),
    Signal("perplexity_gap", "perplexity gap"),
    Signal("log_ratio_max", "largest |log p/q|"),
    Signal("acceptance_rate", "acceptance rate", rises=False),
    Signal("rejected_negative", "rejected, A < 0"),
    Signal("rejected_positive", "rejected, A > 0"),
    Signal("entropy", "entropy", rises=False),
    Signal("grad_norm", "gradient norm"),
    Signal("reward", "reward", rises=False),
)
"""The figures that may tell of a loss; "× first" is the ratio to the mean of a run's first steps."""
COLUMNS = tuple(dict.fromkeys(signal.column for signal in (*SIGNALS, ACCURACY)))
"""The columns that a study needs."""
MOST = 0.5
"""The share of runs from which an alarm rings in most."""


class Rule(NamedTuple):
    """An alarm in use, at its own threshold."""

    name: str
    signal: Signal
    bound: float

    @property
    def threshold(self) -> float:
        """The bound, in the sign of `Runs.alarming`."""
        return self.bound if self.signal.rises else -self.bound


STABLE = Rule("overlap, 5th pct. < 0.86", P5, 0.86)
"""The 5th percentile of the overlap from which its authors report stable training (arXiv 2606.08446)."""
MEAN = Rule("overlap, mean < 0.97", OVERLAP, 0.97)
"""Between the means that they report of a run that crashed, 0.968, and one that did not, 0.977."""
RULES = (
    STABLE,
    MEAN,
    Rule("k3 > 0.01", K3, 0.01),
    Rule("k3 > 3 × first", dataclasses.replace(K3, to_first=True), 3.0),
    Rule("ESS of p/q < 0.5", ESS, 0.5),
)
"""The lab's rules, and those of `jackpot_sim diagnose` whose figures are on record, without its intervals."""

SHOWN = {KL: "#D55E00", P5: "#0072B2", OVERLAP: "#56B4E9", K3: "#009E73", ACCURACY: "#000000"}
"""The alarms of the right panel, and their colours."""
_LEAST = 0.007
"""The rate of false alarms at which none is drawn on a logarithmic axis."""
_COLORS = dict(zip(NOTICES, ("#053061", "#4393C3", "#A6CDE3"), strict=True))


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure, and says which alarms ring in time."""
    about = "Which logged figure tells in time that a run will be lost."
    return records.draw_several(NAME, about, COLUMNS, make, argv)


def make(several: Several) -> Made:
    """The figure and its tables."""
    runs = before_loss.of_studies(several.studies, COLUMNS)
    if not (runs.is_lost & (runs.lost_at >= NOTICE)).any() or runs.is_lost.all():
        raise StudyError(f"{several.root} holds no two runs of which one was lost and one was not: alarms need both")
    if len(np.unique(runs.seed)) < 2:
        raise StudyError(f"{several.root} holds one seed: thresholds are judged on seeds that did not choose them")
    signals = [*SIGNALS, ACCURACY]
    areas = {(signal, notice): area_of(runs, signal, notice) for signal in signals for notice in NOTICES}
    alarms = {signal: alarm_of(runs, signal) for signal in signals}
    figure, (left, right) = style.canvas(2, 4.1, [1.0, 1.15])
    _areas(left, signals, areas)
    _curves(right, runs, alarms)
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7)
    report = [_table_of_areas(signals, areas), _table_among(runs, signals), _table_of_alarms(runs, alarms)]
    return Made(figure, [*report, _table_of_rules(runs)], _verdict(several, runs, areas, alarms), True)


def area_of(runs: Runs, signal: Signal, notice: int, among: Among = Among.ALL) -> Estimate:
    """The share of pairs in which a lost run looks more alarming by this signal than another run."""
    return before_loss.area(runs, before_loss.pairs(runs, runs.alarming(signal), notice, among))


def alarm_of(runs: Runs, signal: Signal) -> tuple[Alarm, Floats]:
    """The alarm at thresholds that other seeds chose, and the threshold of each run, (n,)."""
    alarming = runs.alarming(signal)
    thresholds = before_loss.held_out(runs, alarming, LIMIT)
    return _judged(runs, alarming, thresholds), thresholds


def alarm_of_choice(runs: Runs) -> tuple[Alarm, Sequence[Signal]]:
    """The alarm whose figure and threshold other seeds chose, by the area, and the figures that were chosen."""
    every = {signal: runs.alarming(signal) for signal in SIGNALS}
    found = {signal: before_loss.pairs(runs, alarming, NOTICE) for signal, alarming in every.items()}
    alarming, thresholds, chosen = np.empty_like(every[KL]), np.empty(len(runs.seed)), []
    for seed in np.unique(runs.seed):
        own = runs.seed == seed
        shares = [before_loss.share_without(runs, found[signal], int(seed)) for signal in SIGNALS]
        chosen.append(SIGNALS[int(np.argmax(np.nan_to_num(shares, nan=0.0)))])
        alarming[own] = every[chosen[-1]][own]
        thresholds[own] = before_loss.threshold_of(runs, every[chosen[-1]], ~own, LIMIT)
    return _judged(runs, alarming, thresholds), list(dict.fromkeys(chosen))


def rule_of(runs: Runs, rule: Rule) -> Alarm:
    """The alarm of a rule in use."""
    return _judged(runs, runs.alarming(rule.signal), rule.threshold)


def _judged(runs: Runs, alarming: Floats, threshold: Floats | float) -> Alarm:
    return before_loss.judged(runs, alarming, before_loss.first_rings(runs, alarming, threshold), NOTICE)


def curve(runs: Runs, signal: Signal) -> tuple[Floats, Floats]:
    """False alarms per 100 steps and the share of losses told in time, over all thresholds, both (thresholds,)."""
    alarming = runs.alarming(signal)
    known = alarming[np.isfinite(alarming)]
    levels = np.unique(np.quantile(known, np.linspace(0, 1, 200), method="nearest"))
    kept, tellable = ~runs.is_lost, runs.is_lost & (runs.lost_at >= NOTICE)
    points = []
    for level in levels[::-1]:
        rung = before_loss.first_rings(runs, alarming, float(level))
        false = 100 * np.isfinite(rung[kept]).sum() / before_loss.exposures(alarming, rung)[kept].sum()
        points.append((false, np.mean(runs.lost_at[tellable] - rung[tellable] >= NOTICE)))
    false, in_time = np.array(points).T
    return false, in_time


def _areas(axes: Axes, signals: Sequence[Signal], areas: Mapping[tuple[Signal, int], Estimate]) -> None:
    for number, notice in enumerate(NOTICES):
        places = np.arange(len(signals)) + (number - 1) * 0.26
        found = [areas[signal, notice] for signal in signals]
        values = np.array([each.value for each in found])
        error = np.array([[each.value - each.low, each.high - each.value] for each in found]).T
        label = f"{notice} steps before"
        axes.errorbar(
            values, places, xerr=error, fmt="o", markersize=2.6, linewidth=0.8, color=_COLORS[notice], label=label
        )
    axes.axvline(0.5, color="#444444", linewidth=0.7, linestyle=":")
    axes.set_yticks(range(len(signals)), [signal.name for signal in signals], fontsize=7)
    axes.set(title="(a) Lost run looks worse", xlabel="share of pairs (area under the curve)", xlim=(0, 1))
    axes.set_ylim(len(signals) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.legend(loc="upper left", fontsize=7)


def _curves(axes: Axes, runs: Runs, alarms: Mapping[Signal, tuple[Alarm, Floats]]) -> None:
    for signal, color in SHOWN.items():
        false, in_time = curve(runs, signal)
        axes.plot(
            np.maximum(false, _LEAST), in_time, color=color, linewidth=1.1, drawstyle="steps-post", label=signal.name
        )
        alarm = alarms[signal][0]
        axes.plot(
            [max(alarm.false_rate.value, _LEAST)], [alarm.in_time.value], "o", color=color, markersize=5, zorder=4
        )
    for rule, marker in ((STABLE, "s"), (MEAN, "D")):
        alarm = rule_of(runs, rule)
        axes.plot(
            [max(alarm.false_rate.value, _LEAST)],
            [alarm.in_time.value],
            marker,
            markersize=8 if rule is STABLE else 4.5,
            color=SHOWN[rule.signal],
            markerfacecolor="none",
            linestyle="none",
            label=rule.name,
            clip_on=False,
        )
    rates = np.geomspace(_LEAST, 100, 100)
    told = runs.lost_at[runs.is_lost & (runs.lost_at >= NOTICE)] - NOTICE + 1
    by_chance = -np.expm1(-rates[:, None] / 100 * told).mean(axis=1)
    axes.plot(rates, by_chance, ":", color="#444444", linewidth=0.9, label="at random")
    axes.axvline(LIMIT, color="#bbbbbb", linewidth=0.7)
    axes.set(xscale="log", xlim=(_LEAST, 130), ylim=(-0.02, 1.03))
    axes.set(title=f"(b) Alarms {NOTICE} steps before", xlabel="false alarms per 100 steps", ylabel="losses in time")


def _table_of_areas(signals: Sequence[Signal], areas: Mapping[tuple[Signal, int], Estimate]) -> Table:
    heads = [f"{notice} steps before" for notice in NOTICES]
    table = report_table("Share of pairs in which the lost run looks worse", "figure", *heads)
    for signal in signals:
        table.add_row(signal.name, *(str(areas[signal, notice]) for notice in NOTICES))
    return table


def _table_among(runs: Runs, signals: Sequence[Signal]) -> Table:
    ways = [Among.SAME_SEED, Among.CORRECTED, Among.SAME_CELL]
    table = report_table(f"The same {NOTICE} steps before, among fewer pairs", "figure", *(each.value for each in ways))
    counts = []
    for way in ways:
        found = before_loss.pairs(runs, runs.alarming(ACCURACY), NOTICE, way)
        counts.append(f"{len(found.worse)} of {len(np.unique(found.lost))} lost runs")
    table.add_row("pairs", *counts)
    for signal in signals:
        table.add_row(signal.name, *(str(area_of(runs, signal, NOTICE, way)) for way in ways))
    return table


_HEADS = ("in time", "random", "false per 100 steps", "false in")


def _table_of_alarms(runs: Runs, alarms: Mapping[Signal, tuple[Alarm, Floats]]) -> Table:
    title = f"Alarms {NOTICE} steps before, at thresholds of other seeds with at most {LIMIT:g} false per 100 steps"
    table = report_table(title, "figure", "threshold", *_HEADS)
    for signal, (alarm, thresholds) in alarms.items():
        ends = (thresholds if signal.rises else -thresholds).tolist()
        low, high = (_short(end) for end in (min(ends), max(ends)))
        sign = ">" if signal.rises else "<"
        table.add_row(signal.name, f"{sign} {low}" if low == high else f"{sign} {low}–{high}", *_cells(alarm))
    alarm, chosen = alarm_of_choice(runs)
    about = f"{len(chosen)} figures" if len(chosen) > 1 else chosen[0].name
    table.add_row("of other seeds", about, *_cells(alarm))
    return table


def _table_of_rules(runs: Runs) -> Table:
    table = report_table(f"Rules in use, {NOTICE} steps before", "rule", *_HEADS)
    for rule in RULES:
        table.add_row(rule.name, *_cells(rule_of(runs, rule)))
    return table


def _short(value: float) -> str:
    return f"{value:.{1 if abs(value) < 0.1 else 2}g}".replace("e+0", "e").replace("e-0", "e-")


def _cells(alarm: Alarm) -> tuple[str, str, str, str]:
    _, _, rang, kept = alarm.counts
    return str(alarm.in_time), f"{alarm.chance:.2f}", str(alarm.false_rate), f"{rang} of {kept}"


def _verdict(
    several: Several,
    runs: Runs,
    areas: Mapping[tuple[Signal, int], Estimate],
    alarms: Mapping[Signal, tuple[Alarm, Floats]],
) -> str:
    best = max(SIGNALS, key=lambda signal: areas[signal, NOTICE].value)
    alarm, lab = alarms[best][0], rule_of(runs, STABLE)
    in_time, lost, rang, kept = lab.counts
    found = {signal: before_loss.pairs(runs, runs.alarming(signal), NOTICE) for signal in SIGNALS}
    better = before_loss.gain(runs, found[P5], found[OVERLAP])
    near = [each for each in SIGNALS if each != best and not before_loss.gain(runs, found[best], found[each]).low > 0]
    compared = "more than" if better.low > 0 else "less than" if better.high < 0 else "no more for sure than"
    studies = "1 study" if len(several.studies) == 1 else f"{len(several.studies)} studies"
    return "\n  ".join(
        (
            f"VERDICT: of {len(SIGNALS)} figures {best.name} tells best of a loss {NOTICE} steps before, in "
            f"{areas[best, NOTICE]} of pairs, {len(near)} others no worse for sure; the overlap's 5th percentile tells "
            f"{compared} its mean, and below {STABLE.bound:g} it {_worth(lab)}.",
            f"Below {STABLE.bound:g} the 5th percentile rings in time in {in_time} of {lost} lost runs, and in {rang} "
            f"of {kept} others.",
            f"Pairs told by the 5th percentile: {areas[P5, NOTICE]}; by the mean: {areas[OVERLAP, NOTICE]}; "
            f"difference: {better.value:+.2f} [{better.low:+.2f}, {better.high:+.2f}].",
            f"At thresholds of other seeds {best.name} is in time in {alarm.in_time} (at random {alarm.chance:.2f}), "
            f"with {alarm.false_rate} false per 100 steps.",
            f"Held-out accuracy, for comparison: {areas[ACCURACY, NOTICE]} of pairs, in time in "
            f"{alarms[ACCURACY][0].in_time}.",
            f"{len(runs.seed)} runs of {len(np.unique(runs.seed))} seeds in {studies}, of small models.",
        )
    )


def _worth(alarm: Alarm) -> str:
    """The worth of a rule, in words: one that rings in most runs that are not lost is no alarm."""
    if alarm.false_runs.low > MOST:
        return "is no alarm"
    good = alarm.in_time.low > alarm.chance and alarm.in_time.low > MOST and alarm.false_runs.high < MOST
    return "is a good alarm" if good else "is an alarm of which these runs do not decide"


if __name__ == "__main__":
    sys.exit(main())
