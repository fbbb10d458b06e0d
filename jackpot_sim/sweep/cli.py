"""The command line of `python -m jackpot_sim.sweep`."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from jackpot_sim.commands import FLAG, MANY, UNPARSED, answer, app_of, console
from jackpot_sim.estimators import names
from jackpot_sim.studies import plugins, workers
from jackpot_sim.studies.configuration import read_mapping
from jackpot_sim.studies.dotted import Nested, split_dotted
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.executors import ExecutorKind
from jackpot_sim.studies.help_texts import columns_table
from jackpot_sim.studies.kinds import SWEEP, require_kind
from jackpot_sim.studies.tables import print_table
from jackpot_sim.sweep import column_meanings, legends, plan, records, rehearsal, schema, spec, summary
from jackpot_sim.sweep.answers import explained
from jackpot_sim.sweep.chapters import chapters
from jackpot_sim.sweep.costs import Timed
from jackpot_sim.sweep.display import cost_line, cost_table, shown
from jackpot_sim.sweep.presets import presets_tables
from jackpot_sim.sweep.rehearsal import is_local, rollout_tokens
from jackpot_sim.sweep.rollout_summary import rollout_tables
from jackpot_sim.sweep.run import run
from jackpot_sim.sweep.spec import Study
from jackpot_sim.sweep.threshold_summary import threshold_tables
from jackpot_sim.sweep.verdicts import LEGEND, verdicts
from jackpot_sim.sweep.worlds import TRAITS, world_of

app = app_of(
    "jackpot_sim.sweep",
    "Measure estimators exactly in a grid of mismatched policy pairs, and record the results.\n\n"
    "With no options it runs the default study.",
)


@app.default
def sweep(
    *,
    config: Path | None = None,
    out: Path | None = None,
    plugin: plugins.Option = None,
    estimators: Annotated[list[str] | None, MANY] = None,
    rao_blackwell: Annotated[bool, FLAG] = False,
    centred: Annotated[bool, FLAG] = False,
    denominators: Annotated[list[str] | None, MANY] = None,
    methods: Annotated[list[str] | None, MANY] = None,
    seeds: int | None = None,
    n_samples: int | None = None,
    replicates: int | None = None,
    by: workers.Option = workers.DEFAULT,
    topk: Annotated[list[int] | None, MANY] = None,
    best_thresholds: Annotated[bool, FLAG] = False,
    dry_run: Annotated[bool, FLAG] = False,
    quiet: Annotated[bool, FLAG] = False,
    columns: Annotated[bool, FLAG] = False,
    presets: Annotated[bool, FLAG] = False,
    wide: Annotated[bool, FLAG] = False,
    env: Annotated[Mapping[str, object] | None, UNPARSED] = None,
) -> int:
    """Run a study.

    Args:
        config: A study in YAML or TOML. Without it: the default study.
        out: The folder for the records. By default runs/NAME-HASH of the study.
        plugin: Files or modules with corrections of your own. They then are estimators like all others.
        estimators: Estimators by name, in place of the study's. Or presets such as verl:decoupled_token_is.
        rao_blackwell: Add the Rao-Blackwell form of those that draw a mask.
        centred: Add the score-centred form of those of single tokens.
        denominators: proposed, accepted, self_normalized. By default proposed, and its framework's for a preset.
        methods: exact, monte_carlo, or both.
        seeds: The number of seeds: 3 means 0, 1 and 2.
        n_samples: Proposals per state, for MSE and Monte Carlo.
        replicates: Simulated updates behind a Monte Carlo figure.
        by: The workers.
        topk: Compare ways to Z from so many likeliest tokens. Not on small-lm.
        best_thresholds: Find the threshold with the least MSE. Of every estimator that has one (clip of tis, high of
            mis, lam of obrs, c1 of jackpot and others) at n_samples, with the MSE that it saves, on independent states.
        dry_run: Show the cells and their cost, and run nothing.
        quiet: No progress bar and no summary.
        columns: Explain every column of the records. Alone, or with --plugin.
        presets: List the rules of training frameworks. Estimators may name them; alone, or with --wide.
        wide: Tables with all columns and the whole legend.
        env: The environment options, by name.
    """
    options = [name for name, value in locals().items() if value]
    if columns:
        if set(options) - {"plugin"} != {"columns"}:
            raise StudyError("--columns stands alone, or with --plugin")
        plugins.of_option(plugin)
        for table, meanings in column_meanings.described(names()).items():
            console().print(columns_table(f"RUN/{table}/*.parquet", meanings))
        return 0
    if presets:
        if set(options) - {"wide"} != {"presets"}:
            raise StudyError("--presets stands alone, or with --wide")
        for each in presets_tables():
            print_table(console(), each, wide=wide)
        return 0
    by.check()  # refuses what contradicts itself before anything is read
    study = study_from(
        config,
        env or {},
        rao_blackwell,
        centred,
        plugins=plugins.of_option(plugin) or None,
        estimators=estimators,
        denominators=denominators,
        methods=methods,
        seeds=seeds,
        n_samples=n_samples,
        replicates=replicates,
        topk=topk,
        best_thresholds=best_thresholds or None,
    )
    root = out or Path("runs") / f"{study.name}-{study.config_hash[:8]}"
    if dry_run:
        _print_plan(study, root)
        return 0
    one_at_a_time = any(TRAITS[each.world].one_at_a_time for each in study.env) and by.workers in (None, 1)
    by = by.otherwise(ExecutorKind.SERIAL if one_at_a_time else ExecutorKind.LOKY)
    costs = {} if quiet else _estimated(study, root)
    ahead = list(costs.values()) if by.executor is ExecutorKind.SERIAL else ()
    with by.opened(len(plan.cells(study))) as (executor, width), shown(study, root, quiet, ahead) as report:
        progress = run(study, root, executor, in_flight=2 * width, report=report)
    if not quiet:
        show(root, wide=wide)
        resumed = f" ({progress.already_there} were there already)" if progress.already_there else ""
        console().print(f"{progress.total} cells{resumed}; records in {root}.", soft_wrap=True)
    return 0


_SMALL = 200
"""The tokens of a cell's rollouts below which a study takes no longer than its rehearsal, which then does not pay."""


def _estimated(study: Study, root: Path) -> dict[str, Timed]:
    """The cost of the cells of real models that a run has not measured yet, told on standard error."""
    done = {path.stem for path in (root / "records").glob("*.parquet")}
    left = [cell for cell in plan.cells(study) if cell.id not in done]
    try:
        costs = rehearsal.estimates(study, [cell for cell in left if rollout_tokens(cell.env, study) > _SMALL])
    except (ValueError, RuntimeError):  # the run itself says what cannot be done
        return {}
    if costs:
        print(cost_line(costs), file=sys.stderr, flush=True)
    return costs


def _print_plan(study: Study, root: Path) -> None:
    output, costs, unknown = console(), dict[str, Timed](), ""
    try:
        costs = rehearsal.estimates(study, [cell for cell in plan.cells(study) if is_local(cell.env)])
    except ValueError as error:
        unknown = f"The cost of real models is not known: {error}"
    output.print(cost_table(study, costs))
    if costs or unknown:
        output.print(cost_line(costs) if costs else unknown, soft_wrap=True)
    if any(TRAITS[env.world].diagnostics for env in study.env):
        count = 2 * study.n_samples * study.replicates
        writers = "half by the actor, half by the policy"
        output.print(f"Real models: each cell writes {count} rollouts after every prompt, {writers}.", soft_wrap=True)
    output.print(f"Records would go to {root}.", soft_wrap=True)


def show(root: Path, *, wide: bool = False) -> None:
    """Prints the tables of a run from its records.

    Raises:
        StudyError: the folder holds no run, no cell is finished, or a record cannot be read.
    """
    rows, output = records.load(root), console()
    judged = verdicts(root)
    if judged:
        output.print(*judged, "", sep="\n")
    for table in (*summary.tables(rows), *rollout_tables(root), *threshold_tables(root)):
        print_table(output, table, wide=wide)
    output.print(" ".join([legends.legend(rows), *[LEGEND] * bool(judged)]) if wide else legends.brief(rows))
    if told := explained(rows):
        output.print(told)


def main(argv: Sequence[str] | None = None) -> int:
    """Parses, runs, and turns every foreseeable failure into one sentence and exit code 2."""
    again = "the same command finishes the run"
    return answer(app, "sweep", argv, failures=(StudyError,), again=again, split=_split, chapters=chapters)


def _split(tokens: list[str]) -> tuple[dict[str, object], list[str]]:
    env, rest = split_env_options(tokens)
    return {"env": env}, rest


def split_env_options(tokens: Sequence[str]) -> tuple[Nested, list[str]]:
    """The nested mapping that `--env.a.b x y` options describe, and all other tokens.

    >>> split_env_options(["--env.kind", "top-k", "--env.base.vocab", "10", "20", "--seeds", "1"])
    ({'kind': 'top-k', 'base': {'vocab': ['10', '20']}}, ['--seeds', '1'])

    The value `null` is none, as in YAML: `--env.end-token null`.
    """
    for option in (token.partition("=")[0] for token in tokens if token.startswith("--env")):
        # Nothing else begins with --env, and env alone has no value: both are slips of the same kind.
        if not option.startswith("--env.") or not all(option.removeprefix("--env.").split(".")):
            raise StudyError(f"{option}: environment options are dotted, for instance --env.kind logit-noise")
    nested, rest = split_dotted(tokens, {"env"})
    env = nested.get("env", {})
    assert isinstance(env, dict)
    return env, rest


def study_from(
    config: Path | None, env: Mapping[str, object], rao_blackwell: bool, centred: bool = False, **fields: object
) -> Study:
    """The study that a config file and the overrides make.

    Raises:
        StudyError: the file cannot be read, or a field is unknown or out of range.
    """
    bundled = TRAITS[world_of(env.get("kind"))].study
    mapping = spec.bundled(bundled) if config is None else _read(config)
    if config is None and bundled != "default":
        # Its budgets suit this world; the rest of the options is laid over its environments.
        env = {key: value for key, value in env.items() if key != "kind"}
    overrides = {name: value for name, value in fields.items() if value is not None}
    if "plugins" in overrides:
        overrides["plugins"] = plugins.loaded_of(mapping.get("plugins"), overrides["plugins"])
    if "topk" in overrides:
        normalizers = mapping.get("normalizers")
        overrides["normalizers"] = {
            **(normalizers if isinstance(normalizers, dict) else {}),
            "k": overrides.pop("topk"),
        }
    study = spec.parse(spec.with_overrides(mapping, overrides, env))
    schema.tables(study.kinds)  # refuses a parameter that cannot be a column before anything is measured
    if rao_blackwell:
        masked = [each for each in study.estimators if each.draws_a_mask]
        if not masked:
            raise StudyError("--rao-blackwell adds nothing: no estimator draws a mask at random")
        study = study.with_added(each.model_copy(update={"rao_blackwell": True}) for each in masked)
    if centred:
        of_tokens = [each for each in study.estimators if not each.needs_sequences]
        if not of_tokens:
            raise StudyError("--centred adds nothing: no estimator looks at single tokens alone")
        study = study.with_added(each.model_copy(update={"centred": True}) for each in of_tokens)
    return study


def _read(config: Path) -> dict[str, object]:
    """The study in a file, by default named after it."""
    mapping = read_mapping(config)
    require_kind(SWEEP, config, mapping)
    return {"name": re.sub(r"[^\w.-]", "-", config.stem)} | mapping
