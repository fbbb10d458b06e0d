"""The folder of a diagnosis: tidy tables that hold every figure, plots, and the JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from jackpot_sim import estimators
from jackpot_sim.diagnose.report import as_json, plots, records
from jackpot_sim.diagnose.results import Breakdown, Row
from jackpot_sim.estimators import Tokens
from jackpot_sim.readers.table import TokenTable
from jackpot_sim.studies.errors import StudyError
from tests.cases import each
from tests.diagnose.report.made import diagnosis

PLOTS = {"log_ratios.png", "weight_tails.png", "share_kept.png"}


def table(lengths: list[int], noise: float = 0.1) -> TokenTable:
    generator, tokens = np.random.default_rng(0), sum(lengths)
    actor = np.log(generator.uniform(0.05, 0.9, tokens))
    names = tuple(str(i) for i in range(len(lengths)))
    return TokenTable(
        names,
        names,
        np.concatenate([[0], np.cumsum(lengths)]),
        np.concatenate([np.arange(each) for each in lengths]),
        np.ones(tokens, dtype=bool),
        actor_log_probs=actor,
        policy_log_probs=actor + noise * generator.standard_normal(tokens),
    )


def written(root: Path, sample: TokenTable | None = None) -> Path:
    with records.claimed(root) as folder:
        records.write(folder, diagnosis(), sample)
    return root


def test_the_tables_hold_every_figure_of_every_correction(tmp_path: Path) -> None:
    root, made = written(tmp_path / "out"), diagnosis()
    assert (root / "report.json").read_text(encoding="utf-8") == as_json.text(made)
    corrections = pd.read_parquet(root / "corrections.parquet")
    assert list(corrections["name"]) == [each.name for each in made.corrections]
    assert set(corrections["dump"]) == {"rollouts"}
    first, row = made.corrections[0], corrections.iloc[0]
    assert first.ess is not None
    assert (row["ess"], row["ess_low"]) == (first.ess.value, first.ess.low)
    assert row["effective_kl_reverse"] == first.effective_kl_reverse
    assert list(pd.read_parquet(root / "metrics.parquet")["name"]) == [each.name for each in made.metrics]
    slices = pd.read_parquet(root / "breakdowns.parquet")
    assert len(slices) == 8 * 2
    assert slices.query("figure == 'k1' and slice == '700 to 799'")["value"].item() == 0.07


def test_keys_of_mappings_are_columns(tmp_path: Path) -> None:
    made = diagnosis()
    effects = [
        made.corrections[0].model_copy(update={"gradient_scale": {"proposed": 0.9}, "by_length": [1.0, 0.9, 0.8, 0.7]}),
        made.corrections[1].model_copy(update={"random_control": {"ess": None}}),
    ]
    with records.claimed(tmp_path / "out") as folder:
        records.write(folder, made.model_copy(update={"corrections": effects}), None)
    read = pd.read_parquet(tmp_path / "out" / "corrections.parquet")
    assert read["gradient_scale_proposed"].tolist()[0] == 0.9
    assert read["kept_of_quarter_4"].tolist()[0] == 0.7
    assert read["random_control_ess"].isna().all()


def test_a_new_diagnosis_takes_the_place_of_the_old(tmp_path: Path) -> None:
    first = {path.name: path.read_bytes() for path in written(tmp_path / "out", table([30] * 20)).iterdir()}
    again = {path.name: path.read_bytes() for path in written(tmp_path / "out", table([30] * 20)).iterdir()}
    assert first == again
    assert set(first) - {".lock"} == PLOTS | {
        *("manifest.json", "report.json", "metrics.parquet", "corrections.parquet", "breakdowns.parquet")
    }
    assert json.loads(first["manifest.json"])["diagnosis"] == diagnosis().source


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(StudyError, match="no diagnosis"), records.claimed(tmp_path):
        pass
    with pytest.raises(RuntimeError), records.claimed(tmp_path / "new"):
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@each("lengths, noise", [([1], 0.1), ([1] * 3, 0.0), ([150, 3, 40] * 10, 3.0)])
def test_any_dump_can_be_plotted(lengths: list[int], noise: float, tmp_path: Path) -> None:
    drawn = plots.draw(table(lengths, noise), diagnosis(), tmp_path)
    assert {path.name for path in drawn} == PLOTS
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)


def test_nothing_is_plotted_where_no_token_is_left(tmp_path: Path) -> None:
    assert plots.draw(None, diagnosis(), tmp_path) == []


@each("rewards", [[0.5, None, -1.0], [None, None, None]])
def test_steps_are_plotted_with_their_rewards(rewards: list[float | None], tmp_path: Path) -> None:
    figures = {"k3": 0.02, "probability_gap": 0.0}
    rows = [
        Row(slice=str(step), tokens=9, sequences=3, figures=figures | ({} if reward is None else {"reward": reward}))
        for step, reward in enumerate(rewards)
    ]
    by_step = diagnosis().model_copy(update={"breakdowns": [Breakdown(by="step", rows=rows)]})
    assert {path.name for path in plots.draw(table([30, 3]), by_step, tmp_path)} == PLOTS | {"steps.png"}
    figure = plots._steps(by_step)
    assert figure is not None
    assert len(figure.axes) == 1 + any(reward is not None for reward in rewards)
    one_step = by_step.model_copy(update={"breakdowns": [Breakdown(by="step", rows=rows[:1])]})
    assert "steps.png" not in {path.name for path in plots.draw(table([30, 3]), one_step, tmp_path)}


def test_the_rules_that_are_plotted_are_those_of_the_corrections() -> None:
    """A token is left as it is where its size is at most the threshold."""
    generator = np.random.default_rng(3)
    q = np.log(generator.uniform(0.05, 0.9, 500))
    p = np.log(np.clip(np.exp(q) * np.exp(generator.normal(0, 0.7, 500)), 1e-4, 0.999))
    made = {
        "tis": lambda x: estimators.get("tis", clip=x),
        "mis": lambda x: estimators.get("mis", low=1 / x, high=x),
        "tv-mask": lambda x: estimators.get("tv-mask", epsilon=x),
    }
    rules = {rule.name: rule for rule in plots._rules()}
    assert rules.keys() == made.keys()
    for name, rule in rules.items():
        for beyond in (0.05, 0.1, 0.3):
            pair = made[name](rule.start + beyond).weights(Tokens(p - q, policy_log_probs=p, actor_log_probs=q))
            untouched = (np.asarray(pair.accept) == 1) & np.isclose(np.asarray(pair.weight), np.exp(p - q), rtol=1e-12)
            assert 0 < untouched.mean() < 1
            assert np.array_equal(rule.size(p, q) <= beyond, untouched), name
