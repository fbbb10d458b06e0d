"""What the table at the end of a study says of how runs ended."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from jackpot_sim.training.study import of_mapping
from jackpot_sim.training.summary import outcomes_table, policies


def ended(best: list[float], collapsed_at: list[float], reasons: list[str]) -> str:
    """What the table says of the end of one method."""
    seeds = range(len(best))
    study = of_mapping({"steps": 40, "seeds": len(best)}, {})
    ((setting, methods),) = study.grid.items()
    (method,) = methods
    keys = {"setting": setting, "method": method}
    figures = dict.fromkeys(("mean_at_k", "pass_at_k", "kl_policy_actor"), 0.1)
    steps = pd.DataFrame([{**keys, "seed": seed, "step": 40, **figures} for seed in seeds])
    outcomes = pd.DataFrame({"best_accuracy": best, "last_accuracy": best, "collapsed_at": collapsed_at})
    outcomes = outcomes.assign(**keys, seed=seeds, ended=reasons)
    (((_, _, told), _, _),) = outcomes_table(study.name, steps, outcomes).rows
    return told


@pytest.mark.parametrize(
    ("best", "collapsed_at", "reasons", "told"),
    [
        ([0.5, 0.6], [math.nan, math.nan], ["finished", "finished"], "not collapsed"),
        ([0.0, 0.6], [math.nan, math.nan], ["finished", "finished"], "1 of 2 never right"),
        ([0.0, 0.0], [math.nan, math.nan], ["finished", "finished"], "2 of 2 never right"),
        ([0.5, 0.6], [20.0, math.nan], ["collapsed", "finished"], "1 of 2 collapsed, at step 20"),
        ([0.5, 0.6], [20.0, math.nan], ["collapsed", "step 9: nan"], "1 of 2 collapsed, at step 20, 1 diverged"),
    ],
)
def test_what_did_not_collapse_is_not_called_stable(
    best: list[float], collapsed_at: list[float], reasons: list[str], told: str
) -> None:
    assert ended(best, collapsed_at, reasons) == told


@pytest.mark.parametrize(("seeds", "told"), [(1, "1 seed"), (2, "means over 2 seeds ± standard error")])
def test_the_seeds_are_told_as_they_are(seeds: int, told: str) -> None:
    study = of_mapping({"steps": 40, "seeds": seeds}, {})
    keys = [{"setting": "run", "method": "run", "seed": seed} for seed in range(seeds)]
    steps = pd.DataFrame(
        [{**key, "step": 40, "mean_at_k": 0.1, "pass_at_k": 0.1, "kl_policy_actor": 0.1} for key in keys]
    )
    outcomes = pd.DataFrame([{**key, "best_accuracy": 0.5, "last_accuracy": 0.5} for key in keys])
    outcomes = outcomes.assign(collapsed_at=math.nan, ended="finished")
    assert outcomes_table(study.name, steps, outcomes).title == f"training: {told}"


@pytest.mark.parametrize(
    ("runs", "told"), [(4, "kept of a.b.1, a.b.2, a.b.3: diverged"), (9, "kept of 8 of 9 runs: div")]
)
def test_runs_without_a_policy_are_named_where_they_are_few(runs: int, told: str, tmp_path: Path) -> None:
    (tmp_path / "runs" / "a.b.0" / "policy").mkdir(parents=True)
    outcomes = pd.DataFrame({"setting": "a", "method": "b", "seed": range(runs)})
    assert told in policies(tmp_path, outcomes)
