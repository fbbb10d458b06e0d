"""Studies of small language models: what is recorded, exactly and by Monte Carlo, and what is refused."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.executors import ExecutorKind, opened
from jackpot_sim.studies.tables import FittedTable
from jackpot_sim.sweep import legends, plan, records, spec, summary
from jackpot_sim.sweep.cli import split_env_options, study_from
from jackpot_sim.sweep.rows import DIVERGENCES, SAMPLED, SEQUENCE_DIVERGENCES
from jackpot_sim.sweep.run import run
from tests.sweep.studies import assert_same_run, run_serially

SEQUENCES = {
    "kind": "small-lm",
    "vocab": 4,
    "length": 3,
    "prompts": 2,
    "model": {"kind": "qwen3", "hidden": 16, "layers": 1},
    "pretrain_steps": 5,
    "source": {"kind": "weight-noise", "sigma": 0.3},
}

SMALL: dict[str, Any] = {
    "env": SEQUENCES,
    "estimators": [
        "none",
        {"kind": "tis", "clip": 1.5, "masked_by": "veto"},
        {"kind": "jackpot", "rao_blackwell": True},
        {"kind": "sequence-tis", "batch_normalize": True},
        {"kind": "sequence-mask-k2", "aggregate": "mean", "bound": 0.05},
    ],
    "denominators": ["proposed", "self_normalized"],
    "seeds": 2,
    "methods": ["exact", "monte_carlo"],
    "n_samples": 32,
    "replicates": 40,
}


def study(**changes: Any) -> spec.Study:
    return spec.parse(SMALL | changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_serially(study(), tmp_path_factory.mktemp("runs") / "sequences")


def test_exact_and_monte_carlo_stand_side_by_side_and_agree(finished: Path) -> None:
    rows = records.load(finished)
    keys = ["cell", "estimator", "denominator"]
    exact, drawn = (rows[rows["method"] == method].set_index(keys) for method in ("exact", "monte_carlo"))
    assert len(exact) == len(drawn) == 2 * 5 * 2
    # A bias estimated near 0 may be nan, and a ratio estimate is off by O(1/n): the square says enough of the one,
    # and the unnormalised rows of the other.
    compared = [name for name in SAMPLED if name not in ("bias", "direction_bias", "mse_rescaled", "ess_fraction")]
    plain = exact.index.get_level_values("denominator") == "proposed"
    plain &= ~exact["batch_normalize"].to_numpy()
    for name in compared:
        error = drawn.loc[exact.index[plain], f"{name}_se"]
        off = (drawn.loc[exact.index[plain], name] - exact.loc[exact.index[plain], name]).abs()
        known = error > 0
        assert (off[known] <= 4 * error[known]).all(), name


def test_what_describes_sequences_is_recorded(finished: Path) -> None:
    rows = records.load(finished)
    assert set(rows["env_kind"]) == {"weight-noise"}
    assert set(rows["base_kind"]) == {"small-lm"}
    assert set(rows["length"]) == {3}
    assert set(rows["states"]) == {2}
    assert set(rows["space"]) == {"logits"}
    assert rows[[*DIVERGENCES, *SEQUENCE_DIVERGENCES, "prefix_total_variation"]].notna().all(axis=None)
    assert (rows["kl_sequence"] > rows["kl_policy_actor"]).all()
    by_estimator = rows.drop_duplicates("estimator").set_index("estimator")
    assert list(by_estimator.index) == [
        "none",
        "tis(clip=1.5) & veto",
        "rao-blackwell(jackpot)",
        "batch-normalize(sequence-tis)",
        "sequence-mask-k2(aggregate=mean, bound=0.05)",
    ]
    assert by_estimator["level"].tolist() == ["token", "sequence", "token", "sequence", "sequence"]
    assert by_estimator["masked_by"].dropna().tolist() == ["veto"]
    assert by_estimator["aggregate"].dropna().tolist() == ["sum", "mean"]
    assert by_estimator["batch_normalize"].tolist() == [False, False, False, True, False]


def test_shares_of_the_bias_belong_to_corrections_of_single_tokens(finished: Path) -> None:
    rows = records.load(finished)
    shares = rows[[name for name in rows if name.startswith("bias_share_")]].sum(axis=1, min_count=3)
    told = (rows["method"] == "exact") & (rows["level"] == "token")
    np.testing.assert_allclose(shares[told], 1.0, rtol=1e-9)
    assert shares[~told].isna().all()


def test_another_process_changes_nothing(finished: Path, tmp_path: Path) -> None:
    with opened(ExecutorKind.LOKY, 1) as pool:
        run(study(), tmp_path / "loky", pool, in_flight=2)
    assert_same_run(tmp_path / "loky", finished)


def test_beyond_the_memory_limit_sequences_are_drawn_and_every_figure_has_its_error(
    finished: Path, tmp_path: Path
) -> None:
    drawn = records.load(run_serially(study(env=SEQUENCES | {"memory_limit_gib": 1e-6}), tmp_path / "drawn"))
    assert set(drawn["method"]) == {"monte_carlo"}
    exact = records.load(finished)
    for name in (*DIVERGENCES, *SEQUENCE_DIVERGENCES):
        first, expected = drawn.drop_duplicates("cell"), exact.drop_duplicates("cell")
        off = np.abs(first[name].to_numpy() - expected[name].to_numpy())
        assert (off <= 5 * first[f"{name}_se"].to_numpy()).all(), name
    assert drawn["prefix_total_variation"].isna().all()
    (table,) = summary.tables(drawn)
    assert isinstance(table, FittedTable)
    gain = list(table.figures).index("gain")
    assert all("±" in figures[gain] for _, figures, _ in table.rows)
    assert "too many sequences to enumerate" in legends.legend(drawn)
    assert "too many sequences" not in legends.legend(exact)


def test_drawn_sequences_know_what_the_actor_never_writes(tmp_path: Path) -> None:
    env = SEQUENCES | {"source": {"kind": "top-k", "k": 2}, "memory_limit_gib": 1e-6}
    rows = records.load(run_serially(study(env=env, estimators=["none"], seeds=1), tmp_path / "cut"))
    beyond = rows[["kl_policy_actor", "kl_sequence", "chi_square", "chi_square_sequence", "kl_accepted", "kl_prefix"]]
    assert np.isposinf(beyond.to_numpy(dtype=float)).all()
    assert rows["chi_square_sequence_se"].isna().all()
    assert (rows["achieved_kl_se"] > 0).all()


def test_p_new_may_be_targeted_where_an_update_lies_between(tmp_path: Path) -> None:
    jackpots = [{"kind": "jackpot", "c1": 50, "c2": 50}, {"kind": "jackpot", "c1": 50, "c2": 50, "target": "p_new"}]
    env = SEQUENCES | {"updates": 3, "learning_rate": 0.03}
    rows = records.load(run_serially(study(env=env, estimators=jackpots, methods=["exact"]), tmp_path / "updated"))
    pivot = rows[rows["denominator"] == "proposed"].pivot(index="cell", columns="target", values="bias")
    assert (pivot["p_ref"] != pivot["p_new"]).all()


def test_the_tables_speak_of_prompts(finished: Path) -> None:
    rows = records.load(finished)
    (table,) = summary.tables(rows)
    assert "weight-noise on small-lm, vocab=4, length=3, sigma=0.3" in str(table.title)
    assert "samples a prompt" in str(table.title)
    assert isinstance(table, FittedTable)
    assert "KL prefix" in table.figures
    assert "visits to (prefix, token)" in legends.legend(rows)


def test_the_command_line_has_a_study_of_sequences_and_knows_null() -> None:
    env, rest = split_env_options(["--env.kind", "small-lm", "--env.end-token", "null", "--env.length", "2", "3"])
    assert rest == []
    made = study_from(None, env, False)
    assert made.name == "sequences"
    assert {(each.tree.end_token, each.length, each.target_kl) for each in made.env} == {
        (None, length, target_kl) for length in (2, 3) for target_kl in (0.01, 0.1)
    }
    assert any(each.needs_sequences for each in made.estimators)
    assert not any(each.acceptance_rate for each in made.estimators)


def test_environments_with_one_knob_are_told_apart_by_the_rest(tmp_path: Path) -> None:
    source = {"kind": "quantized-weights", "format": ["int8", "int4"], "share": 1.0}
    env = SEQUENCES | {"source": source, "length": [1, 2]}
    rows = records.load(run_serially(study(env=env, estimators=["none"], methods=["exact"], seeds=1), tmp_path / "run"))
    titles = [str(table.title) for table in summary.tables(rows)]
    assert len(titles) == 4
    for title, told in zip(titles, itertools.product((1, 2), ("int8", "int4")), strict=True):
        assert title.startswith(
            f"quantized-weights on small-lm, vocab=4, length={told[0]}, format={told[1]}, share=1: KL"
        )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"env": {"kind": "logit-noise", "sigma": 0.1}, "estimators": ["gspo"]}, "gspo looks at whole sequences"),
        ({"env": {"kind": "logit-noise", "sigma": 0.1}, "estimators": ["m2po"]}, "m2po looks at whole sequences"),
        ({"estimators": [{"kind": "obrs", "acceptance_rate": 0.9}]}, "needs independent states"),
        ({"estimators": [{"kind": "tis", "target": "p_new"}]}, "tis cannot target p_new"),
        ({"estimators": [{"kind": "sequence-is", "aggregate": "median"}]}, "aggregate must be one of sum, mean"),
        ({"estimators": [{"kind": "tis", "masked_by": "vet"}]}, "did you mean 'veto'"),
        ({"env": SEQUENCES | {"end_token": 4}}, "end_token=4 is never reached"),
        ({"env": SEQUENCES | {"vocab": 1}}, "vocab"),
        ({"env": SEQUENCES | {"model": {"kind": "qwen3", "context": 4}}}, "together are 5, and the context is 4"),
        ({"env": SEQUENCES | {"reward": {"kind": "token-share", "token": 4}}}, "reward.token must be an integer"),
        ({"env": SEQUENCES | {"source": {"kind": "top-k", "k": 5}}}, "source.k must be an integer from 1 to 4"),
        ({"estimators": [{"kind": "tis", "masked_by": {"kind": "obrs", "acceptance_rate": 0.5}}]}, "with masked_by"),
        ({"estimators": [{"kind": "obrs", "acceptance_rate": 0.5, "masked_by": "veto"}]}, "with masked_by"),
        ({"estimators": [{"kind": "tis", "masked_by": {"kind": "jackpot", "target": "p_new"}}]}, "takes no target"),
        ({"env": SEQUENCES | {"source": {"kind": "weight-noise"}}}, "sigma"),
        ({"env": SEQUENCES | {"source": {"kind": "separate", "path": "x"}}}, "(separate has target_kl, actor, share)"),
        ({"env": SEQUENCES | {"source": {"kind": "weight_noise", "sigma": 1}}}, "did you mean 'weight-noise'"),
    ],
)
def test_what_cannot_be_asked_is_refused_when_the_study_is_read(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(StudyError, match=re.escape(sentence)) as raised:
        study(**changes)
    assert "\n" not in str(raised.value)


def test_neither_torch_nor_transformers_is_needed_to_read_a_study() -> None:
    code = (
        "import sys, jackpot_sim.sweep.cli, jackpot_sim.sweep.run, jackpot_sim.environments.sequences.small_lm;"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_estimators_are_compared_on_the_same_rollouts(tmp_path: Path) -> None:
    same = ["is", {"kind": "tis", "clip": 1e9}]
    rows = records.load(run_serially(study(estimators=same, methods=["monte_carlo"], seeds=1), tmp_path / "same"))
    first, second = (found.reset_index(drop=True) for _, found in rows.groupby("estimator"))
    pd.testing.assert_frame_equal(first[list(SAMPLED)], second[list(SAMPLED)], rtol=1e-12)


@pytest.mark.parametrize("limit", [4.0, 1e-6])
def test_the_cost_of_sequences_is_told_beforehand(limit: float) -> None:
    made = study(env=SEQUENCES | {"memory_limit_gib": limit}, seeds=1)
    (cell,) = plan.cells(made)
    assert plan.tokens(cell) == (2 * 13 * 4 if limit == 4 else None)
    costs = [plan.seconds(each, made) for each in (cell, *plan.cells(study(env=SEQUENCES | {"length": 5}, seeds=1)))]
    assert all(cost is not None and 0 < cost < 1000 for cost in costs)


def test_of_many_environments_a_line_each_says_what_is_best(tmp_path: Path) -> None:
    source = {"kind": "weight-noise", "sigma": [0.1 * step for step in range(1, 8)]}
    env = SEQUENCES | {"source": source, "pretrain_steps": 0}
    made = study(env=env, estimators=["none", "sequence-is"], methods=["exact"], denominators=["proposed"], seeds=1)
    rows = records.load(run_serially(made, tmp_path / "run"))
    (table,) = summary.tables(rows)
    names = [name for name, *_ in table.rows]
    assert [environment for environment, _ in names] == ["weight-noise on small-lm, vocab=4, length=3"] * 7
    assert {best for _, best in names} <= {"none", "sequence-is", "no update"}
