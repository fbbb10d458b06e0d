"""Verdicts on actors of real models, from records whose answer is known."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from jackpot_sim.sweep.verdicts import verdict

SMALL = {"probability_gap": (0.002, 0.001, 0.003), "ess_fraction_sequence": (0.9, 0.8, 0.95)}
BETWEEN = SMALL | {"probability_gap": (0.02, 0.01, 0.03)}
FAR = {"probability_gap": (0.1, 0.09, 0.11), "ess_fraction_sequence": (0.04, 0.02, 0.06)}


def judged(
    diagnostics: dict[str, tuple[float, float, float]], kl_sequence: float = 0.1, lost: bool = False, **tis: Any
) -> str:
    """The verdict on none and tis, of which `tis` changes the latter's figures."""
    common = {"cell": "a", "base_kind": "hf", "denominator": "proposed", "method": "monte_carlo", "level": "token"}
    common |= {"kl_policy_actor": 0.02, "kl_sequence": kl_sequence, "kl_sequence_se": 0.01, "mean_length": 20.0}
    common |= {"grad_norm_sq": 1.0, "grad_norm_sq_se": 0.5 if lost else 0.1, "clip": 2.0}
    common |= {"n_samples": 8, "replicates": 40, "states": 4, "kl_effective_se": 0.0, "ess_fraction_se": 0.0}
    none = {"estimator": "none", "kl_effective": 0.02, "ess_fraction": 1.0, "mse": 1.0, "mse_se": 0.1}
    own = {"estimator": "tis", "kl_effective": 1e-4, "ess_fraction": 0.9, "mse": 1.0, "mse_se": 0.1}
    figures = {"kl_policy_actor": (0.02, 0.019, 0.021), **diagnostics}
    told = [dict(zip(("figure", "value", "low", "high"), (name, *of), strict=True)) for name, of in figures.items()]
    return verdict(pd.DataFrame([common | none, common | own | tis]), pd.DataFrame(told))


NAN = float("nan")


@pytest.mark.parametrize(
    ("diagnostics", "changes", "told"),
    [
        (SMALL, {}, "small, no correction is needed, and tis(clip=2) is enough (MSE as without, within the noise)"),
        (SMALL, {"kl_effective": 0.01}, "small, no correction is needed"),
        (BETWEEN, {"mse": 0.5}, "tis(clip=2) is enough (MSE 0.5 of that of none)"),
        (BETWEEN, {"lost": True}, ": tis(clip=2) is enough"),
        (BETWEEN, {"mse": 2.0}, "no token correction that was tried is enough"),
        (BETWEEN, {"ess_fraction": 0.3}, "no token correction that was tried is enough"),
        (BETWEEN, {"kl_effective_se": 0.1}, "too few rollouts to tell which correction is enough"),
        (FAR, {}, "sequence ESS 4%: no token correction saves this"),
        (FAR, {"mse": 0.5, "lost": True}, "sequence ESS 4%: no token correction saves this"),
        (FAR, {"mse": 0.5}, "saves this, though tis(clip=2) has 0.5 times the MSE of none"),
        (FAR, {"kl_sequence": 20.0}, "sequence ESS below 0.0001: no token correction saves this"),
        (FAR | {"ess_fraction_sequence": (0.2, NAN, NAN)}, {"mse": NAN}, "too few rollouts to tell; tis(clip=2) is"),
        (FAR | {"ess_fraction_sequence": (0.2, 0.05, 0.5)}, {"kl_effective": NAN}, "too few rollouts to tell"),
    ],
)
def test_the_verdict_follows_from_the_figures(
    diagnostics: dict[str, tuple[float, float, float]], changes: dict[str, Any], told: str
) -> None:
    answer = judged(diagnostics, **changes)
    assert told in answer
    assert answer.endswith(told) or told.endswith(" is")
