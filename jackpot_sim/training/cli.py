"""The command line of `python -m jackpot_sim.training`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from jackpot_sim.commands import FLAG, UNPARSED, answer, app_of, console
from jackpot_sim.requirements import require
from jackpot_sim.studies import plugins, workers
from jackpot_sim.studies.dotted import split_dotted
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.help_texts import columns_table
from jackpot_sim.studies.tables import print_table
from jackpot_sim.training import progress, summary
from jackpot_sim.training.chapters import chapters
from jackpot_sim.training.conduct import Options, conduct, load, shortages
from jackpot_sim.training.config import Training
from jackpot_sim.training.records import COLUMNS
from jackpot_sim.training.study import PATHS, read

ROOTS = tuple(Training.model_fields)
"""Options that are fields of every run, alone or with dots."""


app = app_of(
    "jackpot_sim.training",
    "Train a policy by GRPO on rollouts of an actor that differs from it, with any correction.\n\n"
    "With no options: a small policy, taught to add three-digit numbers now and then, on its own rollouts.",
)


@app.default
def training(
    *,
    config: Path | None = None,
    out: Path | None = None,
    quick: Annotated[bool, FLAG] = False,
    seeds: int | None = None,
    models: Path | None = None,
    by: workers.Option = workers.DEFAULT,
    keep_policies: bool = True,
    tensorboard: Annotated[bool, FLAG] = False,
    dry_run: Annotated[bool, FLAG] = False,
    quiet: Annotated[bool, FLAG] = False,
    columns: Annotated[bool, FLAG] = False,
    wide: Annotated[bool, FLAG] = False,
    plugin: plugins.Option = None,
    overrides: Annotated[Mapping[str, object] | None, UNPARSED] = None,
) -> int:
    """Train.

    Args:
        config: A study in YAML or TOML. Without it: one run.
        out: The folder for the records. By default runs/NAME-HASH of the study.
        quick: The short version that the study has of itself.
        seeds: The number of seeds: 3 means 0, 1 and 2.
        models: The folder of taught policies and distilled actors. Studies may share it; by default it is in `out`.
        by: The workers.
        keep_policies: Keep the policies as they end. They are in RUN/policy, as save_pretrained writes them; with
            --no-keep-policies they are gone.
        tensorboard: Write events for TensorBoard into every run's folder.
        dry_run: Show the runs, and train nothing.
        quiet: No progress display and no summary.
        columns: Alone: explain every column of the records.
        wide: Tables with all their columns, however narrow the terminal is.
        plugin: Files or modules with corrections of your own.
        overrides: The fields of every run that are options.
    """
    output = console()
    if columns:
        for file, meanings in COLUMNS.items():
            output.print(columns_table(file, meanings))
        return 0
    by.check()  # refuses what contradicts itself before anything is read
    own = {
        name: value
        for name, value in {"seeds": seeds, "plugins": plugins.of_option(plugin) or None}.items()
        if value is not None
    }
    study = read(config, {**(overrides or {}), **own}, quick=quick)
    root = out or Path("runs") / f"{study.name}-{study.config_hash[:8]}"
    for few in shortages(study, by.worker_gpus > 0) if not quiet else ():
        _say(few)
    if dry_run:
        print_table(output, summary.runs_table(study), wide=wide)
        output.print(f"Records would go to {root}.", soft_wrap=True)
        return 0
    require("torch", "transformers", purpose="training")
    if tensorboard:
        require("tensorboard", purpose="--tensorboard")
    options = Options(
        keep_policies=keep_policies,
        tensorboard=tensorboard,
        devices_elsewhere=by.worker_gpus > 0,
        models=models,
    )
    with by.opened(len(study.runs)) as (executor, width), progress.shown(study, quiet) as report:
        say = str if quiet else _say
        done = conduct(study, root, executor, in_flight=width, options=options, report=report, say=say)
    steps, outcomes = load(root)
    if not quiet:
        print_table(output, summary.outcomes_table(study.name, steps, outcomes), wide=wide)
        resumed = f" ({done.already_there} were there already)" if done.already_there else ""
        output.print(f"{done.total} run{'s' * (done.total > 1)}{resumed}; records in {root}.", soft_wrap=True)
        output.print(summary.policies(root, outcomes), soft_wrap=True)
    diverged = summary.divergences(root, outcomes)
    for sentence in diverged:
        _say(sentence)
    return 1 if diverged else 0


def _say(sentence: str) -> None:
    print(f"training: {sentence}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Parses, trains, and turns every foreseeable failure into one sentence and exit code 2."""
    again = "the same command goes on from the checkpoints"
    return answer(app, "training", argv, failures=(StudyError,), again=again, split=_split, chapters=chapters)


def _split(tokens: list[str]) -> tuple[dict[str, object], list[str]]:
    overrides, rest = split_dotted(tokens, ROOTS, beside_fields="kind", paths=PATHS)
    return {"overrides": overrides}, rest
