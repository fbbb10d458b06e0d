"""The command line of `python -m jackpot_sim.training`."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

from cyclopts import App, Parameter
from pydantic import BaseModel

from jackpot_sim.requirements import require
from jackpot_sim.studies.answering import answered
from jackpot_sim.studies.dotted import split_dotted
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.executors import ExecutorKind, opened
from jackpot_sim.training import progress, study, summary
from jackpot_sim.training.actors import Distillation, JointActor, OnPolicy, Served, SmallActor, StaleActor
from jackpot_sim.training.conduct import Options, check_possible, conduct, load
from jackpot_sim.training.config import Evaluation, Given, Sampling, Taught, Training, Update
from jackpot_sim.training.loop.closed_loop import Budget, Feedback
from jackpot_sim.training.loop.run import POLICY
from jackpot_sim.training.records import COLUMNS
from jackpot_sim.training.tasks import AnyTask

ROOTS = tuple(Training.model_fields)
"""Options that are fields of every run, alone or with dots."""


def _fields(configuration: type[Any]) -> str:
    """The fields of a configuration with their defaults, for the help."""
    if issubclass(configuration, BaseModel):
        fields = {name: field.default for name, field in configuration.model_fields.items()}
    else:
        fields = {field.name: field.default for field in dataclasses.fields(configuration)}
    told = [_told(name, default) for name, default in fields.items() if name != "kind"]
    return f"({', '.join(told)})" if told else ""


def _told(name: str, default: Any) -> str:
    if default is None:
        return f"{name}=null"
    plain = isinstance(default, bool | int | float | str)
    return f"{name}={str(default).lower() if isinstance(default, bool) else default}" if plain else name


def _scalars(configuration: type[BaseModel]) -> str:
    """The fields that hold no configuration of their own."""
    fields = configuration.model_fields.items()
    plain = [(name, field.default) for name, field in fields if not isinstance(field.default, BaseModel)]
    return ", ".join(_told(name, default) for name, default in plain if "=" in _told(name, default))


def _kinds(union: Any) -> str:
    """The kinds of a union with their fields."""
    return "; ".join(f"{_kind(each)} {_fields(each)}".strip() for each in get_args(union))


def _kind(configuration: type[Any]) -> str:
    if issubclass(configuration, BaseModel):
        return str(configuration.model_fields["kind"].default)
    return str(vars(configuration)["kind"])


_EPILOGUE = f"""
Fields of a run are options, dotted where they lie deeper: `--actor.kind frozen --actor.kl 0.05 --correction tis`,
`--correction.kind jackpot --correction.target p_new --update.clip null --steps 200`. They change every run of a study.
Each with its default: {_scalars(Training)};
rollout {_fields(Sampling)}; update {_fields(Update)}; evaluation {_fields(Evaluation)};
budget {_fields(Budget)}, in the place of lam; feedback {_fields(Feedback)}, of a budget or a distillation.

Tasks (`--task.kind`): {_kinds(AnyTask)}. The first three have an alphabet of their own and teach a policy on the spot,
answers of addition being written from their last digit on; the others need `--policy FOLDER_OR_HUB_ID`. Your own
prompts are a file of objects with a prompt and an answer: `--task prompts --task.prompts FILE.jsonl`, and
`--task.reward answer` for the answer's text instead of its mathematical value.

Policies (`--policy.kind`): {_kinds(Taught | Given)}.

Actors (`--actor.kind`): {_kinds(OnPolicy | StaleActor | Served | SmallActor | JointActor)}. lag is in batches;
served is the policy's weights quantised, in a coarse KV cache or with noise (`--actor.source.kind quantized-weights
--actor.source.format int8 --actor.source.share 1`); frozen is a smaller model, distilled to a KL and then left alone,
or `--actor.model FOLDER`; joint is the same, but trained beside the policy, with distillation {_fields(Distillation)}.

Corrections: any name of `python -m jackpot_sim.sweep --help`, with its parameters in a config file or as
`--correction.kind jackpot --correction.lam 1 --correction.c1 2 --correction.target p_new
--correction.rao-blackwell true`. It leads to p_ref, the policy before the update, unless its target is p_new.

A config file holds these fields for every run, and `settings`, `methods` and `seeds` that span a grid; see
`paper_figures/configs/figure1.yaml`. A study can be killed at any time: the same command goes on from its checkpoints.
Studies that name the same `--models` folder teach a policy only once.

Exit codes: 0 done, 2 something asked for cannot be done (one sentence says what), 130 interrupted.
"""

app = App(
    name="python -m jackpot_sim.training",
    help="Train a policy by GRPO on rollouts of an actor that differs from it, with any correction.\n\n"
    "With no options: a small policy, taught to add three-digit numbers now and then, on its own rollouts.",
    help_epilogue=_EPILOGUE,
    version_flags=[],
)


@app.default
def _training(
    *,
    config: Path | None = None,
    out: Path | None = None,
    quick: Annotated[bool, Parameter(negative=())] = False,
    seeds: int | None = None,
    models: Path | None = None,
    workers: int | None = None,
    executor: ExecutorKind | None = None,
    keep_policies: Annotated[bool, Parameter(negative=())] = False,
    tensorboard: Annotated[bool, Parameter(negative=())] = False,
    dry_run: Annotated[bool, Parameter(negative=())] = False,
    quiet: Annotated[bool, Parameter(negative=())] = False,
    columns: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Train.

    Args:
        config: A study in YAML or TOML; without it one run.
        out: Where the records go; by default runs/NAME-HASH of the study.
        quick: The short version that the study has of itself.
        seeds: How many seeds: 3 means 0, 1 and 2.
        models: Where taught policies and distilled actors are kept, so that studies share them; by default in `out`.
        workers: Worker processes, of one thread each; by default one per processor.
        executor: loky, worker processes, or serial, this process alone.
        keep_policies: Save every policy when its training ends, as save_pretrained does; later it is gone.
        tensorboard: Write events for TensorBoard into every run's folder.
        dry_run: Show the runs, and train nothing.
        quiet: No progress display and no summary.
        columns: Alone: say what every column of the records is.
    """
    raise AssertionError("the arguments are bound, never called")


def main(argv: Sequence[str] | None = None) -> int:
    """Parses, trains, and turns every foreseeable failure into one sentence and exit code 2."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    return answered("training", tokens, _answer, again="the same command goes on from the checkpoints")


def _answer(tokens: list[str]) -> int:
    if any(token in ("--help", "-h") for token in tokens):
        app.help_print(tokens=[])
        return 0
    fields, rest = split_dotted(tokens, ROOTS, beside_fields="kind")
    _, bound, _ = app.parse_args(rest, exit_on_error=False, print_error=False)
    return _run(fields, **bound.arguments)


def _run(
    fields: dict[str, Any],
    config: Path | None = None,
    out: Path | None = None,
    quick: bool = False,
    seeds: int | None = None,
    models: Path | None = None,
    workers: int | None = None,
    executor: ExecutorKind | None = None,
    keep_policies: bool = False,
    tensorboard: bool = False,
    dry_run: bool = False,
    quiet: bool = False,
    columns: bool = False,
) -> int:
    console = progress.console()
    if columns:
        for file, described in COLUMNS.items():
            console.print(summary.columns_table(file, described))
        return 0
    if workers is not None and workers < 1:
        raise StudyError(f"--workers must be at least 1, got {workers}")
    if executor is ExecutorKind.SERIAL and workers not in (None, 1):
        raise StudyError(f"--workers {workers} cannot go with --executor serial, which runs in this process alone")
    overrides = fields | ({} if seeds is None else {"seeds": seeds})
    wanted = study.read(config, overrides, quick=quick)
    root = out or Path("runs") / f"{wanted.name}-{wanted.config_hash[:8]}"
    check_possible(wanted)
    if dry_run:
        console.print(summary.runs_table(wanted))
        console.print(f"Records would go to {root}.", soft_wrap=True)
        return 0
    require("torch", "transformers", purpose="training")
    if tensorboard:
        require("tensorboard", purpose="--tensorboard")
    serial = executor is ExecutorKind.SERIAL
    processes = 1 if serial else min(workers or os.cpu_count() or 1, len(wanted.runs))
    kind = ExecutorKind.SERIAL if serial else ExecutorKind.LOKY
    options = Options(keep_policies=keep_policies, tensorboard=tensorboard, models=models)
    with progress.shown(wanted, quiet) as report, opened(kind, processes) as pool:
        done = conduct(wanted, root, pool, in_flight=processes, options=options, report=report)
    if not quiet:
        steps, outcomes = load(root)
        console.print(summary.outcomes_table(wanted, steps, outcomes))
        resumed = f" ({done.already_there} were there already)" if done.already_there else ""
        console.print(f"{done.total} runs{resumed}; records in {root}.", soft_wrap=True)
        ended = [run.id for run in wanted.runs if keep_policies and not (root / "runs" / run.id / POLICY).is_dir()]
        if ended:
            console.print(f"No policy is kept of {', '.join(ended)}: trained without --keep-policies, or diverged.")
    return 0
