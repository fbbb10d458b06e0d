"""Records of sequences whose numbers are made up, so that what a figure should say of them is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jackpot_sim.sweep import plan
from paper_figures import records
from paper_figures.records import Loaded


def of_length(in_length: float, in_distance: float, noise: float = 0.05) -> Loaded:
    """What `bias_variance_length` and `prefix_shift` read: ‖ĝ − g‖ = 0.1·T^in_length·Δ^in_distance, with noise."""
    study, rows = records.study("bias_variance_length"), []
    generator = np.random.default_rng(0)
    for cell in plan.cells(study):
        env: Any = cell.env
        kl, length = env.target_kl, env.length
        chi_square = 2 * kl * np.exp(0.1 * generator.standard_normal())
        distance = np.sqrt(kl / 2) * np.exp(0.1 * generator.standard_normal())
        wobble = np.exp(noise * generator.standard_normal())
        for each in study.estimators:
            prefix, weight = (0.5, 0.0) if each.kind == "is" else (0.45, 0.1)
            rows.append(
                {
                    "cell": cell.id,
                    "environment": cell.environment,
                    "seed": cell.seed,
                    "target_kl": kl,
                    "length": length,
                    "estimator": each.label,
                    "total_variation": distance,
                    "kl_policy_actor": kl,
                    "chi_square": chi_square,
                    "chi_square_sequence": (1 + chi_square) ** (length * wobble) - 1,
                    "bias": 0.05 * length**in_length * distance**in_distance * wobble,
                    "grad_norm_sq": 4.0,
                    "on_policy_variance": 9.0,
                    "variance": 1.0 + kl,
                    "kl_prefix": kl * length,
                    "kl_effective": kl * length,
                    "bias_share_prefix": prefix + 0.01 * (wobble - 1),
                    "bias_share_continuation": 1 - prefix - weight - 0.01 * (wobble - 1),
                    "bias_share_weight": weight,
                }
            )
    return Loaded(Path("made-up"), pd.DataFrame(rows), pd.DataFrame())


def of_sources(kl_of_others: float, kl_of_two_models: float = 0.1) -> Loaded:
    """What `mismatch_sources` reads: one KL for all sources but a separate actor."""
    rows = []
    for cell in plan.cells(records.study("mismatch_sources")):
        kind = json.loads(cell.environment)["source"]["kind"]
        kl = (kl_of_two_models if kind == "separate" else kl_of_others) * (1 + 0.1 * cell.seed)
        rows.append(
            {
                "cell": cell.id,
                "environment": cell.environment,
                "env_kind": kind,
                "seed": cell.seed,
                "kl_policy_actor": kl,
                "acceptance_rate": 1 - np.sqrt(kl / np.pi),
            }
        )
    return Loaded(Path("made-up"), pd.DataFrame(rows), pd.DataFrame())
