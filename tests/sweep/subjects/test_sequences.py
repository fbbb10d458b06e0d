"""What a cell of sequences records, column by column, against direct calls: in parameters, drawn, and towards p_new."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.core import sequence_divergences
from jackpot_sim.environments.prefix_tree import prefix_shift
from jackpot_sim.environments.randomness import keyed_generator
from jackpot_sim.environments.sequences.small_lm import RealisedSequences, SmallLM
from jackpot_sim.estimators import Correction, Denominator
from jackpot_sim.estimators.sequences import enumerated
from jackpot_sim.estimators.sequences import sampled as rollouts
from jackpot_sim.estimators.statistics import Moments, StateStatistics
from jackpot_sim.sweep import spec
from jackpot_sim.sweep.cell import measure
from jackpot_sim.sweep.estimates import Measured
from jackpot_sim.sweep.plan import cells
from jackpot_sim.sweep.rows import SAMPLED

ENV: dict[str, Any] = {
    "kind": "small-lm",
    "vocab": 4,
    "length": 3,
    "prompts": 2,
    "model": {"kind": "qwen3", "hidden": 8, "layers": 1},
    "pretrain_steps": 5,
    "source": {"kind": "weight-noise", "sigma": 0.3},
    "updates": 3,
    "learning_rate": 0.03,
}
STUDY: dict[str, Any] = {
    "env": [ENV | {"space": "parameters"}, ENV | {"memory_limit_gib": 1e-6}],
    "estimators": [
        {"kind": "jackpot", "c1": 50, "c2": 1.05, "target": "p_new"},
        {"kind": "jackpot", "c1": 50, "c2": 1.05},
        {"kind": "tis", "clip": 1.2},
    ],
    "denominators": ["proposed", "accepted", "self_normalized"],
    "seeds": 1,
    "methods": ["exact", "monte_carlo"],
    "n_samples": 6,
    "replicates": 8,
}
STUDIED = spec.parse(STUDY)
JACKPOT = estimators.get("jackpot", c1=50.0, c2=1.05)
MEANT: dict[str, tuple[Correction, str]] = {
    "jackpot(c1=50, c2=1.05, target=p_new)": (JACKPOT, "p_new"),
    "jackpot(c1=50, c2=1.05)": (JACKPOT, "p_ref"),
    "tis(clip=1.2)": (estimators.get("tis", clip=1.2), "p_ref"),
}
ROWS = [(label, denominator) for label in MEANT for denominator in Denominator]
every_row = pytest.mark.parametrize(("label", "denominator"), ROWS)


@dataclasses.dataclass
class Cell:
    """A cell as it was measured, and its environment built once more."""

    name: str
    seed: int
    measured: Measured
    realised: RealisedSequences

    def row(self, label: str, denominator: str, method: str) -> dict[str, Any]:
        wanted = (label, denominator, method)
        (found,) = (
            row for row in self.measured.rows if (row["estimator"], row["denominator"], row["method"]) == wanted
        )
        return found


@pytest.fixture(scope="module")
def both() -> list[Cell]:
    """In parameters, enumerated; and in logits, drawn."""
    found = []
    for cell in cells(STUDIED):
        assert isinstance(cell.env, SmallLM)
        found.append(Cell(cell.environment, cell.seed, measure(cell, STUDIED), cell.env.build(cell.seed)))
    return found


@pytest.fixture(scope="module")
def in_parameters(both: list[Cell]) -> Cell:
    return both[0]


@every_row
def test_exact_columns(in_parameters: Cell, label: str, denominator: str) -> None:
    realised, (correction, target) = in_parameters.realised, MEANT[label]
    assert realised.enumerations is not None
    referee = enumerated.Referee(realised.enumerations, realised.features)
    expected = referee.weigh(correction, target).moments(denominator, 6)
    row = in_parameters.row(label, denominator, "exact")
    for field in dataclasses.fields(Moments):
        if field.name != "per_state":
            assert row[field.name] == pytest.approx(getattr(expected, field.name), rel=1e-9, nan_ok=True), field.name
    assert row["bias_sq"] == pytest.approx(expected.bias**2, rel=1e-9)
    shares = referee.weigh(correction, target).bias_shares(denominator)
    assert shares is not None
    for name, value in dataclasses.asdict(shares).items():
        assert row[f"bias_share_{name}"] == pytest.approx(value, rel=1e-9), name
    # Neither is another space or another target.
    in_logits = enumerated.exact(realised.enumerations, correction, denominator=denominator, target=target)
    assert row["bias"] != pytest.approx(in_logits.bias, rel=1e-3)
    if target == "p_new":
        assert row["bias"] != pytest.approx(referee.weigh(correction).moments(denominator).bias, rel=1e-3)


@every_row
def test_sampled_columns(both: list[Cell], label: str, denominator: str) -> None:
    for cell in both:
        realised, (correction, target) = cell.realised, MEANT[label]
        enumerations = realised.enumerations
        expected = rollouts.estimate(
            realised.rollouts(cell.seed, 6, 8),
            correction,
            keyed_generator(cell.seed, "monte-carlo", cell.name, label, str(denominator)),
            replicates=8,
            denominator=denominator,
            target=target,
            truth=None if enumerations is None else enumerated.Referee(enumerations, realised.features).truth(),
            features=realised.features,
        )
        row = cell.row(label, denominator, "monte_carlo")
        for name in SAMPLED:
            assert row[name] == pytest.approx(expected.value[name], rel=1e-9, nan_ok=True), name
            error = expected.standard_error[name]
            assert row[f"{name}_se"] == pytest.approx(error, rel=1e-9, nan_ok=True), name
        assert (row["n_samples"], row["replicates"]) == (6, 8)


def test_columns_of_each_prompt(in_parameters: Cell) -> None:
    realised, states = in_parameters.realised, in_parameters.measured.state_rows
    assert realised.enumerations is not None
    kl = [sequence_divergences.exact(each)["kl_policy_actor"] for each in realised.enumerations]
    assert states["kl_policy_actor"].tolist() == pytest.approx(kl * len(ROWS), rel=1e-9)
    assert states["state"].tolist() == [0, 1] * len(ROWS)
    referee = enumerated.Referee(realised.enumerations, realised.features)
    for index, (label, denominator) in enumerate(ROWS):
        here = slice(2 * index, 2 * index + 2)
        assert [set(states[name][here]) for name in ("estimator", "denominator")] == [{label}, {str(denominator)}]
        expected = referee.weigh(*MEANT[label]).moments(denominator, 6).per_state
        for field in dataclasses.fields(StateStatistics):
            values = getattr(expected, field.name)
            np.testing.assert_allclose(states[field.name][here], values, rtol=1e-9, atol=1e-14, err_msg=field.name)


def test_divergences_of_enumerated_sequences(in_parameters: Cell) -> None:
    realised = in_parameters.realised
    assert realised.enumerations is not None
    expected = [sequence_divergences.exact(each) for each in realised.enumerations]
    shifts = [
        prefix_shift(realised.tree, each.laws.policy_log_probs, each.laws.actor_log_probs).total_variation
        for each in realised.enumerations
    ]
    last = np.mean([shift[-1] for shift in shifts])
    assert last > 0.01
    for row in in_parameters.measured.rows:
        for name in sequence_divergences.NAMES:
            assert row[name] == pytest.approx(np.mean([each[name] for each in expected]), rel=1e-9), name
        assert row["prefix_total_variation"] == pytest.approx(last, rel=1e-9)
        assert (row["states"], row["vocab"], row["length"], row["space"]) == (2, 4, 3, "parameters")


def test_divergences_of_drawn_sequences(both: list[Cell]) -> None:
    drawn = both[1]
    assert drawn.realised.enumerations is None
    values, errors = sequence_divergences.sampled(drawn.realised.rollouts(drawn.seed, 6, 8))
    for row in drawn.measured.rows:
        assert row["method"] == "monte_carlo"
        for name in sequence_divergences.NAMES:
            assert row[name] == pytest.approx(values[name], rel=1e-9), name
            assert row[f"{name}_se"] == pytest.approx(errors[name], rel=1e-9, nan_ok=True), name
        assert "prefix_total_variation" not in row
