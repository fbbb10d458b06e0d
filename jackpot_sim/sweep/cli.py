"""The command line of `python -m jackpot_sim.sweep`."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

from cyclopts import App, Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table

from jackpot_sim import estimators
from jackpot_sim.environments.language_models.build import LanguageModel
from jackpot_sim.environments.language_models.checkpoints import Precision
from jackpot_sim.environments.language_models.formats import Format
from jackpot_sim.environments.rollouts.answers import AnswerReward, Match
from jackpot_sim.environments.rollouts.hf import HuggingFace
from jackpot_sim.environments.sequences.reward import Reward
from jackpot_sim.environments.sequences.small_lm import SmallLM
from jackpot_sim.environments.sources.kinds import REAL_SOURCES, TINY_SOURCES
from jackpot_sim.environments.states.advantage import Advantage
from jackpot_sim.environments.states.base_laws import BaseLaw
from jackpot_sim.environments.states.families import FAMILIES
from jackpot_sim.estimators.corrections.registry import registered
from jackpot_sim.studies.answering import answered
from jackpot_sim.studies.configuration import read_mapping
from jackpot_sim.studies.dotted import split_dotted
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.executors import ExecutorKind, opened
from jackpot_sim.sweep import columns, plan, records, spec, summary
from jackpot_sim.sweep.rollout_summary import rollout_tables
from jackpot_sim.sweep.run import Progress, run
from jackpot_sim.sweep.spec import Study


def _fields(configuration: type[Any], *left_out: str) -> str:
    """The fields of a configuration with their defaults, for the help."""
    shown = []
    for field in dataclasses.fields(configuration):
        if field.name not in ("kind", *left_out):
            plain = field.default is not dataclasses.MISSING and field.default is not None
            shown.append(f"{field.name}={field.default}" if plain else field.name)
    return f" ({', '.join(shown)})" if shown else ""


def _source(source: type[Any]) -> str:
    """The knob of a source, and its other fields."""
    others = [field.name for field in dataclasses.fields(source)]
    told = [name for name in others if name not in ("kind", "target_kl", source.knob_name)]
    knob = [source.knob_name] if source.knob_name in others else []  # another checkpoint has none
    return f" ({', '.join([*knob, *told])})"


def _kind(configuration: type[Any]) -> str:
    return str(vars(configuration)["kind"])


_EPILOGUE = f"""
Environments are set by dotted options, whose values may be lists (each value is one environment):
`--env.kind logit-noise --env.sigma 0.1 0.2 --env.base.kind zipf --env.base.vocab 5000`.
With `--env.kind` they replace the study's environments; without it they change each of them.
Any kind takes `--env.target-kl` in place of its knob, and solves for the knob.

Kinds, knob first: {"; ".join(_kind(each) + f" ({each.knob_name})" for each in FAMILIES)}.
actor-file takes the actor's own logits: `--env.base.kind logits-file --env.base.path POLICY.npy
--env.kind actor-file --env.path ACTOR.npy --env.share 1`.

Sequences: `--env.kind small-lm --env.source.kind weight-noise --env.source.target-kl 0.01 --env.length 5` takes
tiny language models{_fields(SmallLM, "source", "reward", "model")}, and measures estimators over whole sequences:
exactly where all of them fit into memory_limit_gib, by Monte Carlo beyond; `--env.end-token null` gives all
sequences the same length. It needs torch and transformers
(`pip install '.[hf]'`).
Sources of the mismatch (`--env.source.kind`), knob first:
{"; ".join(_kind(each) + _source(each) for each in TINY_SOURCES)}.
A stale actor is one whose weights are old; `--env.updates` steps lead from p_ref to p_new after the rollouts were
written, so that the update of a token is accept, weight, p_new/p_ref (unclipped) and advantage times the gradient.
Rewards (`--env.reward.kind`): {"; ".join(_kind(each) + _fields(each) for each in get_args(Reward))}.
Models (`--env.model.kind`): {"; ".join(_kind(each) + _fields(each) for each in get_args(LanguageModel))}.

Real models: `--env.kind hf --env.policy PATH_OR_ID --env.actor PATH_OR_ID --env.prompts FILE` takes any causal language
models through transformers{_fields(HuggingFace, "actor", "prompts", "reward", "policy")}: rollouts of both, scored over
the whole vocabulary at every token, on CPU or CUDA. The file holds a prompt a line (.txt), or objects with a `prompt`,
text or chat messages, and perhaps an `answer` (.jsonl); `--env.prompts.kind dataset --env.prompts.name ID` takes a data
set, and either a limit. The actor is another checkpoint, or made from the policy: `--env.actor quantized-weights`, or
`--env.actor.kind ...`: {"; ".join(_kind(each) + _source(each) for each in REAL_SOURCES)}.
Formats are {", ".join(Format)}; precisions {", ".join(Precision)}.
`--env.reward.kind` is {_kind(AnswerReward)} (match={" or ".join(Match)}; the default where every prompt carries an
answer), distinct-share (the default elsewhere) or another of those above. temperature is that of both models, top_k and
top_p are the actor's sampling, and `--env.log-probs raw` studies what comes of recording the actor's log-probs before
them. Gradients are measured in the space of the parameters that block names. n_samples are rollouts of each prompt in
an update, and an update takes those of all prompts; by default there are 8 of them and 4 replicates, which bias and
variance come from.

Base laws (`--env.base.kind`): {"; ".join(_kind(each) + _fields(each) for each in get_args(BaseLaw))}.

Advantages (`--env.advantage.kind`): {"; ".join(_kind(each) + _fields(each) for each in get_args(Advantage))}.

Estimators: {"; ".join(name + _fields(registered(name)) for name in estimators.names())}. Parameters are given
in a config file, beside their kind:
`estimators: [none, {{kind: tis, clip: [1.5, 2, 5]}}, {{kind: jackpot, acceptance_rate: 0.9, rao_blackwell: true}}]`.

In a config file an estimator also takes `rao_blackwell: true`, `batch_normalize: true`, `masked_by: ANOTHER` (accept
probabilities and weights are multiplied: `{{kind: tis, masked_by: veto}}`) and, on small-lm, `target: p_new`
(Jackpot leads to the policy being trained instead of the one before the update; see `updates`). m2po and
batch_normalize look at the whole batch: their exact figures are the limit of an infinitely large one, and
Monte Carlo takes batches of n_samples sequences of every prompt.

Denominators: proposed divides by all tokens, accepted by those kept in the batch, self_normalized by
each state's own weights.

A config file holds the fields {", ".join(Study.model_fields)}. Paths are relative to the folder the
command runs in.

A run can be killed at any time: the same command finishes it. Exit codes: 0 done, 2 something asked
for cannot be done (one sentence says what), 130 interrupted.
"""

app = App(
    name="python -m jackpot_sim.sweep",
    help="Measure estimators exactly in a grid of mismatched policy pairs, and record the results.\n\n"
    "With no options it runs the default study.",
    help_epilogue=_EPILOGUE,
    version_flags=[],
)

_WIDE = 160
"""Columns of output that is no terminal: enough that no figure is cut."""

_Many = Parameter(consume_multiple=True, negative_iterable=())


@app.default
def _sweep(
    *,
    config: Path | None = None,
    out: Path | None = None,
    estimators: Annotated[list[str] | None, _Many] = None,
    rao_blackwell: Annotated[bool, Parameter(negative=())] = False,
    denominators: Annotated[list[str] | None, _Many] = None,
    methods: Annotated[list[str] | None, _Many] = None,
    seeds: int | None = None,
    n_samples: int | None = None,
    replicates: int | None = None,
    workers: int | None = None,
    executor: ExecutorKind | None = None,
    topk: Annotated[list[int] | None, _Many] = None,
    dry_run: Annotated[bool, Parameter(negative=())] = False,
    quiet: Annotated[bool, Parameter(negative=())] = False,
    columns: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Run a study.

    Args:
        config: A study in YAML or TOML; without it the default study.
        out: Where the records go; by default runs/NAME-HASH of the study.
        estimators: Estimators by name, in place of the study's.
        rao_blackwell: Add the Rao-Blackwell form of every estimator that draws a mask.
        denominators: proposed, accepted, self_normalized.
        methods: exact, monte_carlo, or both.
        seeds: How many seeds: 3 means 0, 1 and 2.
        n_samples: Proposals per state, for the MSE and for Monte Carlo.
        replicates: Simulated updates behind each Monte Carlo figure.
        workers: Worker processes, of one thread each; by default one per processor.
        executor: loky, worker processes, or serial, this process alone; by default loky, and serial for real
            models, each of which fills the memory by itself.
        topk: Compare the ways to estimate Z from so many tokens of each law (not on small-lm).
        dry_run: Show the cells and their cost, and run nothing.
        quiet: No progress bar and no summary.
        columns: Alone: say what every column of the records is.
    """
    raise AssertionError("the arguments are bound, never called")


def main(argv: Sequence[str] | None = None) -> int:
    """Parses, runs, and turns every foreseeable failure into one sentence and exit code 2."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    return answered("sweep", tokens, _answer, again="the same command finishes the run")


def _answer(tokens: list[str]) -> int:
    if any(token in ("--help", "-h") for token in tokens):
        app.help_print(tokens=[])
        return 0
    if tokens == ["--columns"]:
        return _print_columns()
    env, rest = split_env_options(tokens)
    _, bound, _ = app.parse_args(rest, exit_on_error=False, print_error=False)
    return _run(env, **bound.arguments)


def _print_columns() -> int:
    console = Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False, markup=False, emoji=False)
    for table, told in columns.described().items():
        shown = Table(
            title=f"RUN/{table}/*.parquet", title_justify="left", title_style="bold", box=None, pad_edge=False
        )
        shown.add_column("column", no_wrap=True)
        shown.add_column("what it is")
        for name, what in told.items():
            shown.add_row(name, what)
        console.print(shown)
    return 0


def split_env_options(tokens: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The nested mapping that `--env.a.b x y` options describe, and all other tokens.

    >>> split_env_options(["--env.kind", "top-k", "--env.base.vocab", "10", "20", "--seeds", "1"])
    ({'kind': 'top-k', 'base': {'vocab': ['10', '20']}}, ['--seeds', '1'])

    The value `null` is none, as in YAML: `--env.end-token null`.
    """
    for option in (token.partition("=")[0] for token in tokens if token.startswith("--env")):
        # Nothing else begins with --env, and env alone has no value: both are slips of the same kind.
        if not option.startswith("--env.") or not all(option.removeprefix("--env.").split(".")):
            raise StudyError(f"{option}: environment options are dotted, for instance --env.kind logit-noise")
    found, rest = split_dotted(tokens, {"env"})
    return found.get("env", {}), rest


_ROLLOUTS = "Real models: each cell writes {} rollouts after every prompt, half by the actor, half by the policy."

_BUNDLED = {"small-lm": "sequences", "hf": "hf"}
"""The study that runs where a kind is given and no config."""


def study_from(config: Path | None, env: dict[str, Any], rao_blackwell: bool, **fields: Any) -> Study:
    """The study that a config file and the overrides make.

    Raises:
        StudyError: the file cannot be read, or a field is unknown or out of range.
    """
    # The default study's budgets are for independent states: sequences have studies of their own.
    own = _BUNDLED.get(str(env.get("kind"))) if config is None else None
    mapping = read_mapping(config) if config else spec.bundled(own or "default")
    if own:
        env = {key: value for key, value in env.items() if key != "kind"}  # the rest is laid over its environments
    if config is not None:
        mapping = {"name": re.sub(r"[^\w.-]", "-", config.stem)} | mapping
    given = {name: value for name, value in fields.items() if value is not None}
    if "topk" in given:
        given["normalizers"] = {**(mapping.get("normalizers") or {}), "k": given.pop("topk")}
    study = spec.parse(spec.with_overrides(mapping, given, env))
    if not rao_blackwell:
        return study
    added = [each.model_copy(update={"rao_blackwell": True}) for each in study.estimators if each.draws_a_mask]
    both = (*study.estimators, *(each for each in added if each not in study.estimators))
    return study.model_copy(update={"estimators": both})


def _run(
    env: dict[str, Any],
    config: Path | None = None,
    out: Path | None = None,
    rao_blackwell: bool = False,
    workers: int | None = None,
    executor: ExecutorKind | None = None,
    dry_run: bool = False,
    quiet: bool = False,
    columns: bool = False,
    **fields: Any,
) -> int:
    if columns:
        raise StudyError("--columns stands alone")
    if workers is not None and workers < 1:
        raise StudyError(f"--workers must be at least 1, got {workers}")
    if executor is ExecutorKind.SERIAL and workers not in (None, 1):
        raise StudyError(f"--workers {workers} cannot go with --executor serial, which runs in this process alone")
    study = study_from(config, env, rao_blackwell, **fields)
    if executor is None:
        real = any(isinstance(each, HuggingFace) for each in study.env)
        executor = ExecutorKind.SERIAL if real and workers in (None, 1) else ExecutorKind.LOKY
    root = out or Path("runs") / f"{study.name}-{study.config_hash[:8]}"
    console = Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False, markup=False, emoji=False)
    if dry_run:
        console.print(_cost_table(study))
        if any(isinstance(each, HuggingFace) for each in study.env):
            console.print(_ROLLOUTS.format(2 * study.n_samples * study.replicates), soft_wrap=True)
        console.print(f"Records would go to {root}.", soft_wrap=True)
        return 0
    processes = 1 if executor is ExecutorKind.SERIAL else min(workers or os.cpu_count() or 1, len(plan.cells(study)))
    with contextlib.ExitStack() as stack:
        bar, pool = stack.enter_context(_progress_bar(quiet)), stack.enter_context(opened(executor, processes))
        task = bar.add_task(study.name, total=None)
        stack.enter_context(_told_by(lambda text: bar.update(task, description=f"{study.name}: {text}")))

        def report(progress: Progress) -> None:
            bar.update(task, total=progress.total, completed=progress.finished)

        progress = run(study, root, pool, in_flight=2 * processes, report=report)
    if not quiet:
        found = records.load(root)
        for table in (*summary.tables(found), *rollout_tables(root)):
            console.print(table)
        console.print(summary.legend(found))
        resumed = f" ({progress.already_there} were there already)" if progress.already_there else ""
        console.print(f"{progress.total} cells{resumed}; records in {root}.", soft_wrap=True)
    return 0


def _progress_bar(quiet: bool) -> ProgressBar:
    """Drawn on a terminal only, and gone when the run ends: an error then stands alone."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return ProgressBar(
        *columns,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=quiet or not sys.stderr.isatty(),
    )


@contextlib.contextmanager
def _told_by(show: Callable[[str], object]) -> Iterator[None]:
    """What real models are at, as they log it, goes to `show`; a cell of theirs may take long."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            show(record.getMessage())

    logger, handler = logging.getLogger("jackpot_sim.environments"), Handler(logging.INFO)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _cost_table(study: Study) -> Table:
    table = Table(title=f"{study.name}: config {study.config_hash}", title_justify="left")
    for heading in ("environment", "cells", "states x vocab", "rows", "about, serial"):
        table.add_column(heading, justify="left" if heading == "environment" else "right")
    rows = len(study.estimators) * len(study.denominators) * len(study.methods)
    groups: dict[str, list[plan.Cell]] = {}
    for cell in plan.cells(study):
        groups.setdefault(f"{cell.env.family} on {cell.env.base_kind}", []).append(cell)
    total, unknown = 0.0, False
    for label, members in groups.items():
        sizes = [plan.tokens(cell) for cell in members]
        costs = [plan.seconds(cell, study) for cell in members]
        known = sum(cost for cost in costs if cost is not None)
        total += known
        size = "?" if None in sizes else f"{max(size for size in sizes if size is not None):,}"
        unknown = unknown or None in costs
        about = "?" if None in costs else f"{known:.1f} s"
        table.add_row(label, str(len(members)), size, str(rows * len(members)), about)
    table.add_section()
    cells = sum(map(len, groups.values()))
    table.add_row("all", str(cells), "", str(rows * cells), f"{total:.1f} s{' and more' if unknown else ''}")
    return table
