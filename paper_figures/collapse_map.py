"""The step at which training is lost, by the first distance of a frozen actor and by method.

Left, the median step at which runs are lost; right, the last accuracy. The paper shows single distances only. It
leads one to expect that a farther actor is lost sooner, and Jackpot later than others. All runs of a seed begin with
the same policy, so that distances are no repetitions: only the number of seeds decides.

    python -m paper_figures.collapse_map
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy import stats

from jackpot_sim.core.arrays import Floats
from paper_figures import style
from paper_figures.command import Made
from paper_figures.training import curves
from paper_figures.training.curves import name_of
from paper_figures.training.records import Trained, draw
from paper_figures.training.statistics import Claim, difference, group, lost_in_words, mostly, of, per_run, verdict

NAME = "collapse_map"


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure, and says whether distance and method decide when training is lost."""
    return draw(NAME, "When training collapses, by initial KL and method.", make, argv)


def make(trained: Trained) -> Made:
    """The figure and its tables."""
    trained.need(("none",), trained.settings)
    ours = next((each for each in ("jackpot", "rao-blackwell") if each in trained.methods), "jackpot")
    trained.need((ours,), trained.settings)
    runs = per_run(trained)
    runs["survived"] = runs["lost_at"].fillna(runs["asked"]) / runs["asked"]
    figure, (left, right) = style.canvas(2, 0.36 * len(trained.settings) + 1.6)
    _map(left, trained, runs, "survived", _when)
    _map(right, trained, runs, "accuracy", lambda cell: f"{cell['accuracy'].mean():.2f}")
    left.set(title="(a) Step at which runs are lost", ylabel="KL of the actor at first, nats")
    right.set(title="(b) Last accuracy")
    right.set_yticklabels([])
    claims = [
        _sooner(trained, runs),
        *(_later(runs, ours, other) for other in ("none", "tis") if other in trained.methods),
    ]
    sentence, agrees = verdict(trained, claims)
    return Made(figure, curves.tables(trained, runs, "Frozen actors"), sentence, agrees)


def distance(trained: Trained, setting: str) -> float | None:
    """The KL to which the frozen actor of a setting was distilled, nats; None unless all methods share one."""
    asked = {training["actor"].get("kl") for training in trained.grid[setting].values()} - {None}
    return float(asked.pop()) if len(asked) == 1 else None


def _map(axes: Axes, trained: Trained, runs: pd.DataFrame, column: str, text: Callable[[pd.DataFrame], str]) -> None:
    shades: Floats = np.full((len(trained.settings), len(trained.methods)), np.nan)
    for row, setting in enumerate(trained.settings):
        for place, method in enumerate(trained.methods):
            if method in trained.grid[setting]:
                cell = group(runs, setting, method)
                shades[row, place] = shade = float(cell[column].mean())
                color = "white" if shade > 0.6 else "black"
                axes.text(place, row, text(cell), ha="center", va="center", color=color, fontsize=7)
    axes.imshow(shades, cmap="Blues", vmin=0, vmax=1.15, aspect="auto")
    axes.set_xticks(range(len(trained.methods)), [name_of(each) for each in trained.methods], rotation=35, ha="right")
    labels = [setting if (kl := distance(trained, setting)) is None else f"{kl:g}" for setting in trained.settings]
    axes.set_yticks(range(len(trained.settings)), labels)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _when(cell: pd.DataFrame) -> str:
    at = cell["lost_at"].dropna()
    if not len(at):
        return "not lost"
    return f"{at.median():.0f}" if len(at) == len(cell) else f"{at.median():.0f}\n{len(at)} of {len(cell)}"


def _sooner(trained: Trained, runs: pd.DataFrame) -> Claim:
    """The claim that runs without a correction are lost sooner the farther the actor, by Kendall's τ in most seeds."""
    survived = of(runs, "none", "survived")
    far = [distance(trained, str(setting)) for setting in survived.index.get_level_values("setting")]
    tau = survived.to_frame().assign(far=pd.Series(far, survived.index, dtype=float)).groupby(level="seed").apply(_tau)
    sooner, later = mostly(tau < 0), mostly(tau > 0)
    each = ", ".join(f"{value:+.2f}" for value in tau)
    lost = lost_in_words(of(runs, "none", "lost_at"))
    because = f"no correction: {lost}; Kendall's τ of distance and survival {each} by seed"
    holds = True if sooner else False if later else None
    return Claim("without a correction a farther actor is lost sooner", holds, because)


def _tau(seed: pd.DataFrame) -> float:
    """Kendall's τ over the settings of a seed; 0 where nothing varies."""
    known = seed.dropna()
    varies = len(known) > 1 and known.nunique().min() > 1
    return float(stats.kendalltau(known["far"], known["survived"]).statistic) if varies else 0.0


def _later(runs: pd.DataFrame, ours: str, other: str) -> Claim:
    gain = difference(of(runs, ours, "survived"), of(runs, other, "survived"))
    because = f"share of the steps that runs survive, {name_of(ours)} − {name_of(other)}, mean over distances: {gain}"
    return Claim(f"{name_of(ours)} is lost later than {name_of(other)}", gain.above, because)


if __name__ == "__main__":
    sys.exit(main())
