"""`python -m paper_figures [NAME] [--rerun] [--out DIR]`: a figure, or all; the worst exit code."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence

from . import (
    ablation,
    alarms,
    bias_variance_length,
    centring,
    centring_topk,
    closed_loop,
    collapse_map,
    command,
    corrections,
    factorial,
    figure1,
    figure2,
    long_run,
    longer,
    mismatch_sources,
    no_clipping,
    noise_family,
    overhead,
    prefix_shift,
    real_model,
    real_training,
    recipes,
    sizes,
    table1,
    table2,
    topk_accuracy,
    unification,
    updates,
)

FIGURES: dict[str, Callable[[Sequence[str]], int]] = {
    figure1.NAME: figure1.main,
    factorial.NAME: factorial.main,
    corrections.NAME: corrections.main,
    recipes.NAME: recipes.main,
    longer.NAME: longer.main,
    alarms.NAME: alarms.main,
    figure2.NAME: figure2.main,
    unification.NAME: unification.main,
    noise_family.NAME: noise_family.main,
    bias_variance_length.NAME: bias_variance_length.main,
    prefix_shift.NAME: prefix_shift.main,
    mismatch_sources.NAME: mismatch_sources.main,
    centring.NAME: centring.main,
    topk_accuracy.NAME: topk_accuracy.main,
    real_model.NAME: real_model.main,
    centring_topk.NAME: centring_topk.main,
    overhead.NAME: overhead.main,
    table1.NAME: table1.main,
    table2.NAME: table2.main,
    updates.NAME: updates.main,
    sizes.NAME: sizes.main,
    collapse_map.NAME: collapse_map.main,
    ablation.NAME: ablation.main,
    no_clipping.NAME: no_clipping.main,
    long_run.NAME: long_run.main,
    closed_loop.NAME: closed_loop.main,
    real_training.NAME: real_training.main,
}

OTHER_NAMES: dict[str, Callable[[Sequence[str]], int]] = {updates.TABLE: updates.main}
"""The paper's names of figures that have another name here."""

_ABOUT = f"""Draw every figure: {", ".join(FIGURES)}.

All are drawn from records that ship with them, and need no torch. --rerun runs the studies anew, each in
runs/figures/NAME, and goes on there after an interruption: those of numbers in 20 minutes together, topk_accuracy and
real_model in ten each, those of training in hours each; sequences, real models and training need torch. overhead and
alarms have no study of their own. One figure alone, or other records:
`python -m paper_figures NAME [--rerun | --records DIR]`, whose --help tells the rest."""
_WITHOUT_STUDY = (overhead.NAME, alarms.NAME)
"""The figures of what was timed elsewhere, and of the records of other figures."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure that is named, with its own options, or all of them into the same folder."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    named = FIGURES | OTHER_NAMES
    if tokens and tokens[0] in named:
        return named[tokens[0]](tokens[1:])
    if tokens and not tokens[0].startswith("-"):
        near = difflib.get_close_matches(tokens[0], named, n=1)
        hint = f"; did you mean {near[0]}?" if near else f": the figures are {', '.join(FIGURES)}"
        print(f"{__package__}: no figure is called {tokens[0]!r}{hint}", file=sys.stderr)
        return command.IMPOSSIBLE
    return command.run_all(_ABOUT, FIGURES, _WITHOUT_STUDY, argv)


if __name__ == "__main__":
    sys.exit(main())
