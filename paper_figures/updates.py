"""The region in which leaving out PPO's clip pays: updates on one batch × learning rate × what bounds them instead.

Table 3 of [J] has many updates on one batch without PPO's clip, at one learning rate, and finds Jackpot above clipping.
(a), (b) last accuracy by the number of updates on a batch, at each learning rate, dotted that of training with one:
means over seeds with 95 % intervals, and the seeds. (c) Last accuracy less that of PPO's clip, paired by seed, with
intervals that hold simultaneously at 95 % (Bonferroni). All runs have equally many updates.

    python -m paper_figures.updates
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import pandas as pd

from . import records, style
from .command import Made
from .training import cells, contrasts, curves, tables
from .training.contrasts import Cell, Contrast, contrasted
from .training.curves import name_of
from .training.records import Trained, draw
from .training.statistics import ON_POLICY, Claim, Difference, difference, group, of, per_run, verdict

NAME = "updates"

TABLE, _UNIT = "table3", 0.01
"""The paper's table, in percent."""
CLIP = "off-policy"
"""The method with PPO's clip."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure, and says where a method is above PPO's clip."""
    return draw(NAME, "Training without PPO's clip, by updates on a batch and learning rate.", make, argv)


def make(trained: Trained) -> Made:
    """The figure and its tables."""
    rates = _stale(trained)
    trained.need((ON_POLICY,))
    trained.need((CLIP, "no-clip", "jackpot"), [setting for by_updates in rates.values() for setting in by_updates])
    runs = per_run(trained)
    shown = [method for method in trained.methods if method != ON_POLICY]
    looks = style.of_methods(shown)
    figure, (*panels, last) = style.canvas(len(rates) + 1, 3.3)
    for axes, letter, (rate, by_updates) in zip(panels, "abcdefgh", rates.items(), strict=False):
        cells.draw_cells(axes, runs, "accuracy", looks, {name: f"{n}" for name, n in by_updates.items()}, log=False)
        for setting in _of_one_update(trained, rate):
            cells.draw_level(axes, float(group(runs, setting, ON_POLICY)["accuracy"].mean()))
        axes.set(title=f"({letter}) Learning rate {rate:g}", xlabel="updates on a batch", ylim=(-0.03, 1.0))
    panels[0].set_ylabel("last accuracy")
    found = less_than_clip(trained, runs)
    cells.draw_differences(last, found, {name_of(method): look.color for method, look in looks.items()})
    last.set(title="(c) Less PPO's clip", xlabel="difference in accuracy")
    handles = cells.legend(shown, looks, "one update on a batch")
    handles[shown.index(CLIP)].set_label(_name(CLIP))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=7)
    table = contrasts.table_of(flat(found), "Last accuracy less that of PPO's clip; intervals hold together at 95 %")
    report = [*curves.tables(trained, runs, "Updates on one batch, off-policy with PPO's clip"), table]
    sentence, agrees = verdict(trained, claims_of(trained), _in_short(flat(found)))
    return Made(figure, [*report, tables.paper_table(records.published(TABLE), _UNIT)], sentence, agrees)


def claims_of(trained: Trained) -> list[Claim]:
    """The claims of Table 3: for each number of updates, that Jackpot without PPO's clip is above the clip; and two of
    training without either, at the most updates.

    A seed counts once: its difference is the mean over learning rates.
    """
    runs, rates, paper = per_run(trained), _stale(trained), records.published(TABLE)
    counts = sorted({n for by_updates in rates.values() for n in by_updates.values()})
    asked = [(f"Jackpot without a clip is above PPO's clip at {n} updates", "jackpot", CLIP, n) for n in counts]
    asked += [
        (f"Jackpot is above training with no clip and no correction at {counts[-1]}", "jackpot", "no-clip", counts[-1]),
        (f"training with no clip and no correction fails at {counts[-1]}", CLIP, "no-clip", counts[-1]),
    ]
    out = []
    for text, first, second, updates in asked:
        settings = [name for by_updates in rates.values() for name, n in by_updates.items() if n == updates]
        there = runs[runs.index.isin(settings, "setting")]
        gain = difference(of(there, first, "accuracy"), of(there, second, "accuracy"))
        because = f"last accuracy, {_name(first)} − {_name(second)}, mean over learning rates: {gain}"
        theirs = paper[paper["setting"].str.endswith(f" {updates}x")]
        beside = f"; {tables.in_order(theirs, first, second)}" if len(theirs) else ""
        out.append(Claim(text, gain.above, because + beside))
    return out


def less_than_clip(trained: Trained, runs: pd.DataFrame) -> dict[str, dict[str, Difference]]:
    """The last accuracy of each method less that of PPO's clip, by learning rate and updates, then by method."""
    asked = {
        (f"{rate:g}, {updates}", name_of(method)): Contrast(
            f"{setting} {method}", Cell(setting, method), Cell(setting, CLIP)
        )
        for rate, by_updates in _stale(trained).items()
        for setting, updates in by_updates.items()
        for method in trained.grid[setting]
        if method != CLIP
    }
    found = contrasted(runs, asked.values())
    out: dict[str, dict[str, Difference]] = {}
    for (where, method), contrast in asked.items():
        out.setdefault(where, {})[method] = found[contrast.name]
    return out


def flat(found: Mapping[str, Mapping[str, Difference]]) -> dict[str, Difference]:
    """The differences of `less_than_clip` by "method, learning rate, updates"."""
    return {f"{name}, {where}": each for where, of_where in found.items() for name, each in of_where.items()}


def _in_short(found: Mapping[str, Difference]) -> str:
    """The cells that are decided, with their differences, and the number of the others."""
    decided = {name: each for name, each in found.items() if each.above is not None}
    said = [contrasts.in_words(decided)] if decided else []
    return f"Beside PPO's clip {'; '.join([*said, f'LEFT OPEN: {len(found) - len(decided)} of {len(found)} cells'])}."


def _name(method: str) -> str:
    return "PPO's clip" if method == CLIP else name_of(method)


def _stale(trained: Trained) -> dict[float, dict[str, int]]:
    """The settings with several updates on a batch, by learning rate, each with its updates."""
    out: dict[float, dict[str, int]] = {}
    for setting, methods in trained.grid.items():
        update = next(iter(methods.values()))["update"]
        if update["minibatches"] > 1:
            out.setdefault(float(update["learning_rate"]), {})[setting] = int(update["minibatches"])
    return out


def _of_one_update(trained: Trained, rate: float) -> list[str]:
    """The settings with one update on a batch at this learning rate."""
    updates = {name: next(iter(methods.values()))["update"] for name, methods in trained.grid.items()}
    return [name for name, each in updates.items() if each["minibatches"] == 1 and each["learning_rate"] == rate]


if __name__ == "__main__":
    sys.exit(main())
