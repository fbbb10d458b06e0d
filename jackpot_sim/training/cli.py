"""The command line of `python -m jackpot_sim.training`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, get_args

from jackpot_sim.commands import FLAG, UNPARSED, answer, app_of, console
from jackpot_sim.environments.language_models import carried
from jackpot_sim.requirements import require
from jackpot_sim.studies import plugins, workers
from jackpot_sim.studies.dotted import split_dotted
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.help_texts import columns_table, fields, kinds, scalars
from jackpot_sim.studies.tables import print_table
from jackpot_sim.training import progress, summary
from jackpot_sim.training.actors import Distillation, JointActor, OnPolicy, Served, SmallActor, StaleActor
from jackpot_sim.training.conduct import Options, conduct, load, shortages
from jackpot_sim.training.config import Evaluation, Given, Sampling, Taught, Training, Update
from jackpot_sim.training.loop.closed_loop import Budget, Feedback
from jackpot_sim.training.models.adapters import Lora
from jackpot_sim.training.objective import Overlap
from jackpot_sim.training.records import COLUMNS
from jackpot_sim.training.study import PATHS, read
from jackpot_sim.training.tasks import AnyTask
from jackpot_sim.training.tasks.reasoning_gym import Extraction

ROOTS = tuple(Training.model_fields)
"""Options that are fields of every run, alone or with dots."""


_ACTORS = (OnPolicy, StaleActor, Served, SmallActor, JointActor)

_EPILOGUE = f"""
Fields of a run are options, dotted where they lie deeper: `--actor.kind frozen --actor.kl 0.05 --correction tis`,
`--correction.kind jackpot --correction.target p_new --update.clip null --steps 200`. They change every run of a study.
Each with its default: {scalars(Training)};
rollout {fields(Sampling)}; update {fields(Update)}; evaluation {fields(Evaluation)};
budget {fields(Budget)}, in the place of lam; feedback {fields(Feedback)}, of a budget or a distillation.

Tasks (`--task.kind`): {kinds(get_args(AnyTask))}. The first three have an alphabet of their own, and their policy is
taught on the spot; answers of addition are written from their last digit on. The others need
`--policy FOLDER_OR_HUB_ID`, `--policy MODEL.gguf` or `--policy smollm2`.
{carried.help_text()}
Your own prompts are a file of objects with a prompt and an answer: `--task prompts --task.prompts FILE.jsonl`;
`--task.reward answer` compares the answer's text instead of its mathematical value.
A completion's answer in a reasoning-gym task is what its extraction finds:
{", ".join(Extraction)}.

Policies (`--policy.kind`): {kinds(get_args(Taught | Given))}. With lora {fields(Lora)} adapters alone are
trained. precision bf16 and fp16 multiply in 16 bits and keep weights in float32; with `--mixed-precision param_dtype`
a pass uses a copy of the weights in 16 bits throughout. fp16 scales the loss, and skips updates that overflow.

Actors (`--actor.kind`): {kinds(_ACTORS)}. lag is in batches. served is the policy's model with quantised weights, a
coarse KV cache or noise (`--actor.source.kind quantized-weights --actor.source.format int8 --actor.source.share 1`), or
run by llama.cpp (`--actor.source.kind llama-cpp --actor.source.format q4_0`, of a policy that was a GGUF file).
frozen is a smaller model, distilled to a KL and then left alone, or `--actor.model FOLDER`. joint is the same, but
trained beside the policy, with distillation {fields(Distillation)}.

Corrections: any name of `python -m jackpot_sim.sweep --help`, or of a plug-in, with its parameters in a config file or
as `--correction.kind jackpot --correction.lam 1 --correction.c1 2 --correction.target p_new
--correction.rao-blackwell true`. It leads to p_ref, the policy before the update, unless its target is p_new.
The overlap Z by which Jackpot weighs (`--overlap`): {", ".join(Overlap)}; all but exact are from the rollout.topk
likeliest tokens that the actor told.

A config file holds these fields for every run, and `settings`, `methods` and `seeds` that span a grid; see
`paper_figures/configs/figure1.yaml`. A study can be killed at any time: the same command goes on from its checkpoints.
Studies that name the same `--models` folder teach a policy only once. More `--seeds` continue a finished study, and so
they do in a copy of its manifest and tables alone, without its runs: `cp -r paper_figures/measured/training/factorial
mine`, then `--config paper_figures/configs/factorial.yaml --out mine --seeds 16`.

Exit codes: 0 done; 1 done, but a run diverged (a sentence says at which step, why, and which checkpoint is kept;
--quiet too); 2 something asked for cannot be done (one sentence says what); 130 interrupted.
"""

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
        config: A study in YAML or TOML; without it one run.
        out: The folder for the records; by default runs/NAME-HASH of the study.
        quick: The short version that the study has of itself.
        seeds: The number of seeds: 3 means 0, 1 and 2.
        models: The folder of taught policies and distilled actors, which studies may share; by default in `out`.
        by: The workers.
        keep_policies: Keep the policy of every run as it is when training ends, in RUN/policy, as save_pretrained
            writes it; with --no-keep-policies it is gone.
        tensorboard: Write events for TensorBoard into every run's folder.
        dry_run: Show the runs, and train nothing.
        quiet: No progress display and no summary.
        columns: Alone: explain every column of the records.
        wide: Tables with all their columns, however narrow the terminal is.
        plugin: Files or modules that register corrections of your own.
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
    return answer(app, "training", argv, failures=(StudyError,), again=again, split=_split, epilogue=_epilogue)


def _epilogue(tokens: Sequence[str]) -> str:
    return f"{_EPILOGUE}\n{plugins.help_text(tokens)}"


def _split(tokens: list[str]) -> tuple[dict[str, object], list[str]]:
    overrides, rest = split_dotted(tokens, ROOTS, beside_fields="kind", paths=PATHS)
    return {"overrides": overrides}, rest
