"""When training is lost: the distance of the frozen actor at the beginning × what is done about it.

Left, the median step at which runs are lost; right, the last accuracy. The paper shows single distances only;
that a farther actor is lost sooner, and Jackpot later than others, is what it leads one to expect. All runs of a
seed begin with the same policy, so that the distances are no repetitions: what decides is the number of seeds.

    python -m paper_figures.collapse_map
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy import stats

from paper_figures import style
from paper_figures.command import Made
from paper_figures.training import curves
from paper_figures.training.curves import name_of
from paper_figures.training.records import Trained, draw
from paper_figures.training.statistics import Claim, difference, group, mostly, of, per_run, told_lost, verdict

NAME = "collapse_map"


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure, and says whether distance and method decide when training is lost."""
    return draw(NAME, "When training collapses, by initial KL and method.", make, argv)


def make(found: Trained) -> Made:
    """The figure and its tables."""
    found.need(("none",), found.settings)
    ours = next((each for each in ("jackpot", "rao-blackwell") if each in found.methods), "jackpot")
    found.need((ours,), found.settings)
    runs = per_run(found)
    runs["survived"] = runs["lost_at"].fillna(runs["asked"]) / runs["asked"]
    figure, (left, right) = style.canvas(2, 0.36 * len(found.settings) + 1.6)
    _map(left, found, runs, "survived", _when)
    _map(right, found, runs, "accuracy", lambda cell: f"{cell['accuracy'].mean():.2f}")
    left.set(title="(a) Step at which runs are lost", ylabel="KL of the actor at first, nats")
    right.set(title="(b) Last accuracy")
    right.set_yticklabels([])
    claims = [_sooner(found, runs), *(_later(runs, ours, other) for other in ("none", "tis") if other in found.methods)]
    told, agrees = verdict(found, claims)
    return Made(figure, curves.tables(found, runs, "Frozen actors"), told, agrees)


def distance(found: Trained, setting: str) -> float | None:
    """The KL that the frozen actor of a setting was distilled to, nats; None where methods do not share one."""
    asked = {training["actor"].get("kl") for training in found.grid[setting].values()} - {None}
    return float(asked.pop()) if len(asked) == 1 else None


def _map(axes: Axes, found: Trained, runs: pd.DataFrame, column: str, text: Any) -> None:
    shades: NDArray[np.float64] = np.full((len(found.settings), len(found.methods)), np.nan)
    for row, setting in enumerate(found.settings):
        for place, method in enumerate(found.methods):
            if method in found.grid[setting]:
                cell = group(runs, setting, method)
                shades[row, place] = shade = float(cell[column].mean())
                color = "white" if shade > 0.6 else "black"
                axes.text(place, row, text(cell), ha="center", va="center", color=color, fontsize=7)
    axes.imshow(shades, cmap="Blues", vmin=0, vmax=1.15, aspect="auto")
    axes.set_xticks(range(len(found.methods)), [name_of(each) for each in found.methods], rotation=35, ha="right")
    labels = [setting if (kl := distance(found, setting)) is None else f"{kl:g}" for setting in found.settings]
    axes.set_yticks(range(len(found.settings)), labels)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _when(cell: pd.DataFrame) -> str:
    at = cell["lost_at"].dropna()
    if not len(at):
        return "not lost"
    return f"{at.median():.0f}" if len(at) == len(cell) else f"{at.median():.0f}\n{len(at)} of {len(cell)}"


def _sooner(found: Trained, runs: pd.DataFrame) -> Claim:
    """Whether runs without a correction survive less, the farther the actor is: in most seeds, by Kendall's τ."""
    survived = of(runs, "none", "survived")
    far = [distance(found, str(setting)) for setting in survived.index.get_level_values("setting")]
    tau = survived.to_frame().assign(far=pd.Series(far, survived.index, dtype=float)).groupby(level="seed").apply(_tau)
    sooner, later = mostly(tau < 0), mostly(tau > 0)
    each = ", ".join(f"{value:+.2f}" for value in tau)
    told = (
        f"no correction: {told_lost(of(runs, 'none', 'lost_at'))}; Kendall's τ of distance and survival {each} by seed"
    )
    holds = True if sooner else False if later else None
    return Claim("without a correction a farther actor is lost sooner", holds, told)


def _tau(seed: pd.DataFrame) -> float:
    """Kendall's τ over the settings of a seed; 0 where nothing varies."""
    known = seed.dropna()
    varies = len(known) > 1 and known.nunique().min() > 1
    return float(stats.kendalltau(known["far"], known["survived"]).statistic) if varies else 0.0


def _later(runs: pd.DataFrame, ours: str, other: str) -> Claim:
    gain = difference(of(runs, ours, "survived"), of(runs, other, "survived"))
    told = f"share of the steps that runs survive, {name_of(ours)} − {name_of(other)}, mean over distances: {gain}"
    return Claim(f"{name_of(ours)} is lost later than {name_of(other)}", gain.above, told)


if __name__ == "__main__":
    sys.exit(main())
