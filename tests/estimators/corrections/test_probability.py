"""Masks by the probabilities p and q: what they keep by hand, and at the ends of the ratio and of the probabilities."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.estimators import Tokens

INF = math.inf
NAMES = ("tv-mask", "binary-kl-mask", "dppo-tv", "dppo-kl")


def weigh(name: str, p: Any, q: Any, advantage: float = 1.0, **parameters: Any) -> tuple[list[float], list[float]]:
    with np.errstate(divide="ignore", invalid="ignore"):
        policy, actor = np.log(np.asarray(p, dtype=float)), np.log(np.asarray(q, dtype=float))
        log_ratio = np.where(policy == -INF, -INF, policy - actor)
    fields = {"policy_log_probs": policy, "actor_log_probs": actor}
    found = estimators.get(name, **parameters).weights(Tokens(log_ratio, advantages=np.array(advantage), **fields))
    return found.accept.tolist(), found.weight.tolist()


def test_one_ratio_is_near_or_far_by_the_probabilities() -> None:
    # r = 3 at q = 1e-6, and at q = 0.3: |p − q| = 2e-6 and 0.6.
    for name in NAMES:
        accept, weight = weigh(name, [3e-6, 0.9], [1e-6, 0.3])
        assert accept == [1.0, 0.0], name
        np.testing.assert_allclose(weight, 3.0, rtol=1e-14)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("dppo-tv", {"delta": 0.1}), ("dppo-kl", {"delta": 0.01})],
)
def test_a_trust_region_drops_what_widens_the_gap(name: str, parameters: dict[str, float]) -> None:
    p, q = [0.6, 0.2, 0.41], [0.4, 0.4, 0.4]
    assert weigh(name, p, q, 2.0, **parameters)[0] == [0, 1, 1]
    assert weigh(name, p, q, -2.0, **parameters)[0] == [1, 0, 1]
    assert weigh(name, p, q, 0.0, **parameters)[0] == [1, 1, 1]


def test_the_directions_of_the_binary_kl() -> None:
    # p = 1/2, q = 1/4: bKL(p, q) = ½ log 2 + ½ log 2/3 = 0.1438, bKL(q, p) = ¼ log ½ + ¾ log 3/2 = 0.1308.
    kept = {
        (direction, bound): weigh("binary-kl-mask", 0.5, 0.25, bound=bound, direction=direction)[0]
        for direction in ("policy-actor", "actor-policy", "larger")
        for bound in (0.13, 0.14, 0.15)
    }
    assert [key for key, accept in kept.items() if accept] == [
        ("policy-actor", 0.15),
        *(("actor-policy", bound) for bound in (0.14, 0.15)),
        ("larger", 0.15),
    ]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("advantage", [1.0, -1.0, 0.0])
def test_the_ends(name: str, advantage: float) -> None:
    # p = q, with p = 1 and with q tiny; then p = 0, q = 0 and p = 1 against 1/2, of which those too far are dropped.
    same = [0.3, 1.0, 1e-300]
    assert weigh(name, same, same, advantage) == ([1, 1, 1], [1, 1, 1])
    accept, weight = weigh(name, [0.0, 0.5, 1.0], [0.5, 0.0, 0.5], advantage)
    widened = {1.0: [1, 0, 0], -1.0: [0, 1, 1], 0.0: [1, 1, 1]}
    assert accept == (widened[advantage] if name.startswith("dppo") else [0, 0, 0])
    assert weight == [0.0, INF, 2.0]


@pytest.mark.parametrize("name", NAMES)
def test_a_token_is_at_its_bound_or_beyond(name: str) -> None:
    # p − q = 1/4, exactly.
    if name.endswith("kl") or name.startswith("binary"):
        bound = max(0.5 * math.log(2) + 0.5 * math.log(2 / 3), 0.25 * math.log(0.5) + 0.75 * math.log(1.5))
        bound = bound if name.startswith("binary") else 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    else:
        bound = 0.25
    field = next(iter(estimators.get(name).parameters()))
    assert weigh(name, 0.5, 0.25, **{field: bound * (1 + 1e-14)})[0] == 1.0
    assert weigh(name, 0.5, 0.25, **{field: bound * (1 - 1e-14)})[0] == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_one_of_p_and_q_is_enough(name: str) -> None:
    log_ratio, policy = np.array([0.4, -2.0, 0.01]), np.log([0.9, 0.1, 0.5])
    signs = np.array([1.0, -1.0, 1.0])
    fields = {"policy_log_probs": policy, "actor_log_probs": policy - log_ratio}
    found = [
        estimators.get(name).weights(log_ratio, advantages=signs, **{key: fields[key] for key in keys}).accept.tolist()
        for keys in (fields, ["policy_log_probs"], ["actor_log_probs"])
    ]
    assert found[0] == found[1] == found[2]
    with pytest.raises(ValueError, match=f"{name} needs (policy|actor)_log_probs: pass log"):
        estimators.get(name).weights(log_ratio, advantages=signs)


@pytest.mark.parametrize("name", ["binary-kl-mask", "dppo-kl"])
def test_a_probability_above_1_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="holds NaN, or probabilities that add up to more than 1"):
        weigh(name, [0.5, 1.2], [0.5, 0.9])
