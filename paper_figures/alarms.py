"""Alarms that a run will be lost, on figures that a framework can log, judged on the runs of the factorial study.

An alarm rings at the first step at which the running mean of a figure over five steps passes a threshold. For a run
that is lost it counts as in time if it rings at least so many steps before the loss, and for a run that is not lost any
ring is false. (a) The trade-off of both over all thresholds, 25 steps before. (b) The area under it for each figure and
notice. Thresholds of the table are chosen on all other seeds, so that no run judges the one that it chose.

    python -m paper_figures.alarms
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from jackpot_sim.core.arrays import Flags, Floats
from jackpot_sim.studies.errors import StudyError
from paper_figures import factorial, style
from paper_figures.command import Made, report_table
from paper_figures.training import records
from paper_figures.training.records import Trained
from paper_figures.training.statistics import CONFIDENCE, lost

NAME = "alarms"

NOTICES = (10, 25, 50)
"""Steps before a loss, at the latest, at which an alarm has to ring."""
DRAWN = 25
"""The notice of the curves."""
FALSE = 0.05
"""The largest share of false alarms for which a threshold is chosen."""
WINDOW = 5
"""Steps of the running mean."""
LAB = "overlap_p5", 0.86
"""The alarm that the authors' lab reports: the 5th percentile of the overlap below 0.86."""


class Alarm(NamedTuple):
    """A figure that an alarm watches."""

    column: str
    """Its column in the steps."""
    name: str
    """Its name in the figure."""
    rises: bool = True
    """True where large values are alarming, False where small ones are."""


ALARMS = (
    Alarm("kl_policy_actor", "KL(p‖q)"),
    Alarm("k1", "k1"),
    Alarm("k3", "k3"),
    Alarm("chi_square", "χ²"),
    Alarm("ess_ratio", "ESS of r", rises=False),
    Alarm("overlap", "overlap, mean", rises=False),
    Alarm("overlap_p5", "overlap, 5th percentile", rises=False),
    Alarm("overlap_p1", "overlap, 1st percentile", rises=False),
    Alarm("perplexity_gap", "perplexity gap"),
    Alarm("log_ratio_max", "largest |log r|"),
    Alarm("entropy", "entropy", rises=False),
    Alarm("grad_norm", "gradient norm"),
    Alarm("reward", "reward", rises=False),
)
"""The figures, all of them known before a run is lost."""


class Judged(NamedTuple):
    """An alarm at a threshold, over runs."""

    threshold: float
    """The mean threshold."""
    in_time: int
    """Lost runs in which it rings in time."""
    lost: int
    """Lost runs that last long enough for the notice."""
    false: int
    """Other runs in which it rings."""
    kept: int
    """Other runs."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure, and says which alarms ring in time."""
    about = "Which logged figure tells in time that a run will be lost."
    return records.draw(NAME, about, make, argv, study=factorial.NAME)


def make(trained: Trained) -> Made:
    """The figure and its table."""
    ends = lost(trained.outcomes)
    if ends["lost_at"].isna().all() or ends["lost_at"].notna().all():
        raise StudyError(f"{trained.root} has no two runs of which one was lost and one was not: alarms need both")
    known = [alarm for alarm in ALARMS if alarm.column in trained.steps and trained.steps[alarm.column].notna().any()]
    figure, (left, right) = style.canvas(2, 3.4, [1.0, 1.1])
    colors = dict(zip((alarm.column for alarm in known), _colors(len(known)), strict=True))
    table = report_table(
        f"Alarms at a threshold from other seeds with at most {FALSE:.0%} false, {DRAWN} steps' notice",
        *("figure", *(f"area, {notice}" for notice in NOTICES), "threshold", "in time", "false"),
    )
    areas = {}
    for alarm in known:
        of_notice = {notice: scores(trained, ends, alarm, notice) for notice in NOTICES}
        areas[alarm] = [area(*of_notice[notice]) for notice in NOTICES]
        false, in_time = curve(*of_notice[DRAWN])
        left.plot(false, in_time, color=colors[alarm.column], linewidth=1.0, label=alarm.name)
        judged = held_out(*of_notice[DRAWN])
        table.add_row(alarm.name, *(f"{each:.3f}" for each in areas[alarm]), *_cells(alarm, judged))
    best = max(known, key=lambda alarm: areas[alarm][NOTICES.index(DRAWN)])
    for place, alarm in enumerate(known):
        for notice, value, marker in zip(NOTICES, areas[alarm], ("<", "o", ">"), strict=True):
            label = f"{notice} steps before" if place == 0 else None
            right.plot(
                [value], [place], marker, color=colors[alarm.column], markersize=4, label=label, linestyle="none"
            )
    left.set(title=f"(a) {DRAWN} steps before the loss", xlabel="share of false alarms", ylabel="share of losses told")
    right.set(title="(b) Area under the curve", ylim=(len(known) - 0.5, -0.5))
    right.set_yticks(range(len(known)), [alarm.name for alarm in known])
    right.axvline(0.5, color="#444444", linewidth=0.7, linestyle=":")
    right.legend(loc="lower left", fontsize=7)
    judged = held_out(*scores(trained, ends, best, DRAWN))
    sentence = (
        f"VERDICT: of the figures, {best.name} tells best {DRAWN} steps before that a run will be lost (area "
        f"{areas[best][NOTICES.index(DRAWN)]:.3f}; {_in_words(judged)}).{_labs(trained, ends)}"
    )
    return Made(figure, [table], sentence, True)


def scores(trained: Trained, ends: pd.DataFrame, alarm: Alarm, notice: int) -> tuple[Floats, Flags, Floats]:
    """How far each run goes towards an alarm, whether it is lost, and its seed, each (runs,).

    The first is the largest running mean of the figure, or the least with its sign changed: of a run that is lost,
    that up to `notice` steps before the loss. Runs that are lost sooner, and runs without the figure, are left out.
    """
    sign, rows = (1.0 if alarm.rises else -1.0), []
    lost_at: dict[object, float] = dict(zip(ends.index, ends["lost_at"], strict=True))
    steps = trained.steps.dropna(subset=[alarm.column])
    for place, run in steps.groupby(["setting", "method", "seed"], sort=False):
        at = lost_at[place]
        run = run.sort_values("step")
        before = run if math.isnan(at) else run[run["step"] <= at - notice]
        if len(before):
            means = before[alarm.column].rolling(WINDOW, min_periods=1).mean()
            rows.append((float((sign * means).max()), not math.isnan(at), place[2]))
    reached, is_lost, seed = (np.array(each) for each in zip(*rows, strict=True))
    return reached, is_lost.astype(np.bool_), seed.astype(np.float64)


def curve(reached: Floats, is_lost: Flags, _: Floats) -> tuple[Floats, Floats]:
    """The shares of false alarms and of losses that are told, over all thresholds, both (thresholds,)."""
    levels = np.concatenate([[np.inf], np.unique(reached)[::-1]])
    rings = reached >= levels[:, None]
    return rings[:, ~is_lost].mean(axis=1), rings[:, is_lost].mean(axis=1)


def area(reached: Floats, is_lost: Flags, _: Floats) -> float:
    """The probability that a lost run goes farther than one that is not, ties by half."""
    if is_lost.all() or not is_lost.any():
        return math.nan
    found = stats.mannwhitneyu(reached[is_lost], reached[~is_lost])
    return float(found.statistic) / (int(is_lost.sum()) * int((~is_lost).sum()))


def held_out(reached: Floats, is_lost: Flags, seed: Floats) -> Judged:
    """The alarm at thresholds that the runs of other seeds choose: the least one with at most `FALSE` false alarms."""
    rings, thresholds = np.zeros(len(reached), dtype=np.bool_), []
    for own in np.unique(seed):
        mine = seed == own
        others = reached[~mine & ~is_lost]
        threshold = float(np.quantile(others, 1 - FALSE, method="higher")) if len(others) else math.inf
        rings[mine] = reached[mine] > threshold
        thresholds.append(threshold)
    counts = [int(each.sum()) for each in (rings & is_lost, is_lost, rings & ~is_lost, ~is_lost)]
    return Judged(float(np.mean(thresholds)), *counts)


def fixed(reached: Floats, is_lost: Flags, threshold: float) -> Judged:
    """The alarm at a threshold that is given, in the sign of `scores`."""
    rings = reached > threshold
    return Judged(threshold, *(int(each.sum()) for each in (rings & is_lost, is_lost, rings & ~is_lost, ~is_lost)))


def _cells(alarm: Alarm, judged: Judged) -> tuple[str, str, str]:
    sign = "above" if alarm.rises else "below"
    threshold = judged.threshold if alarm.rises else -judged.threshold
    in_time, false = _shares(judged)
    return f"{sign} {threshold:.3g}", in_time, false


def _shares(judged: Judged) -> tuple[str, str]:
    return _share(judged.in_time, judged.lost), _share(judged.false, judged.kept)


def _share(count: int, n: int) -> str:
    """A share with its Clopper–Pearson interval."""
    if not n:
        return "-"
    tail = (1 - CONFIDENCE) / 2
    low = float(stats.beta.ppf(tail, count, n - count + 1)) if count else 0.0
    high = float(stats.beta.ppf(1 - tail, count + 1, n - count)) if count < n else 1.0
    return f"{count / n:.2f} [{low:.2f}, {high:.2f}]"


def _in_words(judged: Judged) -> str:
    in_time, false = _shares(judged)
    return f"in time in {in_time} of {judged.lost} lost runs, false in {false} of {judged.kept} others"


def _labs(trained: Trained, ends: pd.DataFrame) -> str:
    """A sentence on the alarm of the authors' lab."""
    column, least = LAB
    alarm = next(each for each in ALARMS if each.column == column)
    if column not in trained.steps or trained.steps[column].isna().all():
        return ""
    reached, is_lost, _ = scores(trained, ends, alarm, DRAWN)
    return f"\n  {alarm.name} below {least:g}: {_in_words(fixed(reached, is_lost, -least))}."


def _colors(count: int) -> list[str]:
    looks = [look.color for look in style.LOOKS.values()]
    return [looks[place % len(looks)] for place in range(count)]


if __name__ == "__main__":
    sys.exit(main())
