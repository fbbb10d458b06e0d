"""Every claim of the paper that the records which ship can decide, with its verdict: the page docs/claims.md.

A claim is supported, not supported or left open by an interval or by a rate over seeds, see `training.statistics`; one
seed decides nothing. Intervals are at 95 %, each for itself; those of the parts of the objective hold together.

    python -m paper_figures.verdicts
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from . import (
    alarms,
    closed_loop,
    collapse_map,
    command,
    factorial,
    figure1,
    findings,
    long_run,
    no_clipping,
    overhead,
    real_model,
    sizes,
    style,
    table1,
    table2,
    topk_accuracy,
    updates,
)
from .training.records import Trained, load, load_several
from .training.statistics import Claim, per_run


class Study(NamedTuple):
    """A study of training that decides claims."""

    name: str
    """The name of its figure and of its records."""
    place: str
    """The place of the claims in the paper, and what our study does there."""
    claims_of: Callable[[Trained], list[Claim]]
    """The claims, decided by records."""


STUDIES = (
    Study(factorial.NAME, "Figure 1, as it seems to have been run", factorial.claims_of),
    Study(figure1.NAME, "Figure 1, with a frozen actor", figure1.claims_of),
    Study(sizes.NAME, "Figure 4, with frozen actors", sizes.claims_of),
    Study(collapse_map.NAME, "Expected from Figures 1 and 4", collapse_map.claims_of),
    Study(no_clipping.NAME, "Figure 5", no_clipping.claims_of),
    Study(table1.NAME, "Table 1", table1.claims_of),
    Study(table2.NAME, "Table 2", table2.claims_of),
    Study(updates.NAME, "Table 3, by learning rate", updates.claims_of),
    Study(long_run.NAME, "Section 8", long_run.claims_of),
    Study(closed_loop.NAME, "Section 8, its proposal", closed_loop.claims_of),
)

_ANSWERS = {True: "supported", False: "**not supported**", None: "open"}


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the page."""
    about = "The paper's claims, each with its verdict, its numbers and the command that shows them."
    return command.print_text("verdicts", about, markdown, argv)


def markdown() -> str:
    """The page."""
    return "\n\n".join([_HEAD, _training(), _parts(), _alarms(), _measured()])


_HEAD = """# The paper's claims, and what our runs say

This page is what `python -m paper_figures.verdicts` prints, from records that ship. Our world is small: policies of
some hundred thousand weights that learn to add, and 135 million in `real_model`. A verdict is on our runs, not on the
paper's. *Supported* and *not supported* are decided by a 95 % interval over seeds, or by a count over seeds that
leaves no doubt on which side of one half its rate lies; everything else is *open*, and so is every claim that
one seed alone speaks to.

## Training

`python -m paper_figures NAME` draws a study's figure and prints its tables; `python -m jackpot_sim.training --config
paper_figures/configs/NAME.yaml` makes its records anew."""


def _training() -> str:
    sections = []
    for study in STUDIES:
        trained = load(study.name, None)
        seeds = f"{trained.seeds} seed{'s' if trained.seeds > 1 else ''}"
        lines = [f"### {study.place}: `{study.name}`, {seeds}", ""]
        lines += [f"- {_ANSWERS[each.holds]}: {each.text} ({each.because})" for each in study.claims_of(trained)]
        sections.append("\n".join(lines))
    return "\n\n".join(sections)


def parts() -> str:
    """The table of the parts of Jackpot's objective, which docs/training.md holds too."""
    trained = load(factorial.NAME, None)
    rows = factorial.effects_of(per_run(trained)).items()
    ways = {True: "helps", False: "harms", None: "open"}
    head = f"change in last accuracy, {trained.seeds} seeds [interval]"
    lines = [f"| part | {head} | verdict |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {part} | {each} | {ways[each.above]} |" for part, each in rows)])


def _parts() -> str:
    return f"""## Which part carries the gain

`factorial` crosses how the actor is trained (frozen; own PPO; own PPO and distillation) with what is done about the
mismatch (nothing; TIS; Jackpot; Jackpot without its mask's noise). Differences are paired by seed, and intervals hold
together over parts and looks:

{parts()}

![More corrections beside TIS](../paper_figures/gallery/corrections.png)

`corrections` adds corrections of whole sequences, centred ones and the lab's form of Jackpot, with the factorial's
models, prompts and draws. A sequence has five tokens at most in this world.

![Two recipes on fresh seeds](../paper_figures/gallery/recipes.png)

`recipes` puts two recipes of our own, written down before their seeds were run, beside the best of these.

![The cells that matter, in a second world](../paper_figures/gallery/longer.png)

`longer` asks the same of sequences of eight tokens, whose weights of whole sequences are heavier.

## All studies of several seeds

{findings.markdown()}"""


def _alarms() -> str:
    with style.context():
        made = alarms.make(load_several(alarms.NAME, None, alarms.COLUMNS))
    said = "\n".join(f"- {line.strip()}" for line in made.verdict.removeprefix("VERDICT: ").splitlines())
    return f"""## What tells that a run will be lost

The authors' lab reports stable training where the overlap's 5th percentile is at least 0.86 (arXiv 2606.08446).
`alarms` puts that, and what else a framework can log, to the runs of all studies whose steps hold these figures:

{said}"""


def _measured() -> str:
    with style.context():
        made = {
            topk_accuracy.NAME: topk_accuracy.make(topk_accuracy.load(topk_accuracy.NAME, None)),
            overhead.NAME: overhead.make(overhead.load(overhead.NAME, None)),
            real_model.NAME: real_model.make(real_model.load(real_model.NAME)),
        }
    said = [f"- `{name}`: {each.verdict.removeprefix('VERDICT: ')}" for name, each in made.items()]
    return f"""## Z from the top-k, cost, and a real model

Section 4.4 (the top 20 keep more than 87 % of Z; κ; less than 3 % of a step), and the paper's examples of distances:

{chr(10).join(said)}

`figure2`, `unification` and `noise_family` are exact; their own commands print what they find."""


if __name__ == "__main__":
    sys.exit(main())
