"""The figure of centring, from records whose numbers are made up, so that what it should say is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from jackpot_sim.sweep import plan
from paper_figures import centring, records, style
from paper_figures.__main__ import FIGURES
from paper_figures.records import Loaded

ON = {"lm-like": 0, "dirichlet": 1, "small-lm": 2}


def made_up(factor: Any, noise: float = 0.001, accept: float = 1.0) -> Loaded:
    """Records in which a figure of the centred form is factor(base, estimator, figure) times that of the other."""
    study, rows = records.study("centring"), []
    generator = np.random.default_rng(0)
    for cell in plan.cells(study):
        env: Any = cell.env
        base = getattr(env, "base", None)
        kind = "small-lm" if base is None else base.kind
        kl = env.source.target_kl if base is None else env.target_kl
        for each in study.estimators:
            inner = each.model_copy(update={"centred": False}).label
            own = {name: 0.1 * (1 + ON[kind]) * kl * np.exp(noise * generator.normal()) for name in centring.FIGURES}
            if each.centred:
                own = {name: value * factor(kind, inner, name) for name, value in own.items()}
            about = {"cell": cell.id, "seed": cell.seed, "base_kind": kind, "target_kl": kl, "estimator": each.label}
            laws = {"acceptance_rate": accept if each.centred else 1.0, "kl_effective": kl, "n_samples": 256}
            rows.append(about | own | laws)
    return Loaded(Path("made-up"), pd.DataFrame(rows), pd.DataFrame())


def verdict(loaded: Loaded, draw: bool = False) -> tuple[str, bool]:
    with style.context():
        made = centring.make(loaded)
        if draw:
            made.figure.draw_without_rendering()
    return made.verdict, made.agrees


def test_what_wins_is_named_with_its_environments() -> None:
    def factor(base: str, inner: str, figure: str) -> float:
        if (base, inner, figure) == ("lm-like", "tis", "bias"):
            return 0.5
        return 2.0 if (inner, figure) == ("none", "mse") else 1.0

    told, agrees = verdict(made_up(factor), draw=True)
    assert agrees
    assert "TIS in bias on logits (4 of 4 KLs), in variance nowhere, in MSE at n = 256 nowhere; MIS" in told
    assert (
        "update beats TIS in bias nowhere, in variance nowhere, in MSE at n = 256 nowhere, worse at 10 of 10;" in told
    )
    assert "Jackpot's bias by 1.0" in told or "Jackpot's bias by 0.99" in told


def test_what_centring_does_to_jackpot_is_a_range() -> None:
    told, _ = verdict(
        made_up(lambda base, inner, figure: 0.8 if base == "small-lm" and "jackpot" in inner else 1.0, 0.0)
    )
    assert "Jackpot's bias by 0.800–1.000, variance by 0.800–1.000" in told
    assert "RB-Jackpot's bias by 0.800–1.000" in told


def test_noise_and_near_ties_win_nothing() -> None:
    noisy, _ = verdict(made_up(lambda *_: 1.0, noise=0.5))
    near, _ = verdict(made_up(lambda *_: 0.995, noise=1e-5))
    assert "on logits" not in near
    assert near.count("nowhere") == 18
    assert noisy.count("nowhere") >= 12


def test_laws_that_centring_changes_are_a_disagreement() -> None:
    assert not verdict(made_up(lambda *_: 1.0, accept=0.9))[1]


@pytest.mark.parametrize("value", [0.0, 1e-12])
def test_a_bias_that_is_rounding_is_compared_with_nothing(value: float) -> None:
    loaded = made_up(lambda *_: 1.0)
    rows = loaded.records
    rows.loc[rows["estimator"].isin(["tis", "centred(tis)"]), "bias"] = value
    assert centring.outcomes(rows, "lm-like", "centred(tis)", "tis", "bias") == []
    told, _ = verdict(loaded)
    assert "; TIS in bias nowhere" in told


def test_it_is_one_of_all_figures() -> None:
    assert FIGURES[centring.NAME] is centring.main
