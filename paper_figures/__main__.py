"""`python -m paper_figures [NAME] [--out DIR]`: a figure, or every one after the other; the worst exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from paper_figures import (
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
    table3,
    topk_accuracy,
    unification,
    updates,
)

FIGURES: dict[str, Callable[[Sequence[str]], int]] = {
    figure1.NAME: figure1.main,
    factorial.NAME: factorial.main,
    corrections.NAME: corrections.main,
    recipes.NAME: recipes.main,
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
    table3.NAME: table3.main,
    updates.NAME: updates.main,
    sizes.NAME: sizes.main,
    collapse_map.NAME: collapse_map.main,
    ablation.NAME: ablation.main,
    no_clipping.NAME: no_clipping.main,
    long_run.NAME: long_run.main,
    closed_loop.NAME: closed_loop.main,
    real_training.NAME: real_training.main,
}

_ABOUT = f"""Draw every figure: {", ".join(FIGURES)}.

Those of numerical studies run them first, into runs/figures/NAME, and find them there the next time; those of
sequences need torch and transformers, and take some minutes each. topk_accuracy, real_model, overhead, alarms and
the figures of training (figure1, factorial, corrections, recipes, table1 to table3, updates, sizes, collapse_map,
ablation, no_clipping, long_run, closed_loop, real_training) read what was measured and trained before, which ships with
them, and need no torch; --quick of each of the latter trains its short version. One figure alone, or other records:
`python -m paper_figures NAME [--records DIR]`, whose --help tells the rest."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure that is named, with its own options, or all of them into the same folder."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    if tokens and tokens[0] in FIGURES:
        return FIGURES[tokens[0]](tokens[1:])
    return command.run_all(_ABOUT, list(FIGURES.values()), argv)


if __name__ == "__main__":
    sys.exit(main())
