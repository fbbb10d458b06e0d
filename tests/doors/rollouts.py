"""The doors of jackpot_sim.estimators.rollouts and jackpot_sim.estimators.mismatch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jackpot_sim import estimators
from jackpot_sim.core.scored import ScoredRollouts
from jackpot_sim.core.topk import TopK
from jackpot_sim.estimators import Level, TokenWeights
from jackpot_sim.estimators.mismatch import overlap_estimates, summaries
from jackpot_sim.estimators.rollouts import at_states, at_topk, gradients, weights
from tests.doors.harness import Door, Given, Make, Sizes, Values, array, floats, ids, laws, negative, numbers
from tests.doors.sized import sized

JACKPOT = estimators.get("jackpot")
SHARE = numbers(0.1, 1.0)


def _shape(sizes: Sizes) -> tuple[int, int]:
    """(n, length) of the rollouts: a jackknife needs three replicates."""
    return sizes["n"] + 2, sizes["length"] + 2


def _live(sizes: Sizes) -> Values:
    n, length = _shape(sizes)
    return np.asarray(np.arange(length) <= np.arange(n)[:, None])


def _scored(generator: np.random.Generator, sizes: Sizes) -> Mapping[str, Any]:
    shape = _shape(sizes)
    log_probs = (negative(generator, shape, sizes) for _ in range(2))
    prompt = np.arange(shape[0]) % 2
    return {"rollouts": ScoredRollouts(*log_probs, _live(sizes), generator.normal(size=shape[0]), prompt)}


def _per_token(make: Make) -> Given:
    return sized("n length", _shape, make)


def _per_sequence(make: Make) -> Given:
    return sized("n", lambda sizes: _shape(sizes)[:1], make)


def _kept(generator: np.random.Generator, shape: tuple[int, ...], sizes: Sizes) -> Values:
    return np.asarray((generator.random(shape) < 0.7) & _live(sizes))


def _replicate(generator: np.random.Generator, shape: tuple[int, ...], sizes: Sizes) -> Values:
    return generator.permutation(shape[0]) % 3


def _cluster(generator: np.random.Generator, shape: tuple[int, ...], sizes: Sizes) -> Values:
    return generator.permutation(shape[0])


ON_TOKENS = {name: _per_token(SHARE) for name in ("overlap", "accept", "weight", "states")}
REPLICATE = {"replicate": _per_sequence(_replicate)}
KEPT = {"mask": _per_token(_kept), "weight": ON_TOKENS["weight"]} | REPLICATE


def _weigh(overlap: Any, replicate: Any, rollouts: ScoredRollouts) -> object:
    correction = estimators.batch_normalize(JACKPOT)
    return weights.weigh(rollouts, correction, overlap, replicate=replicate)


def _draw(accept: Any, weight: Any, rollouts: ScoredRollouts) -> object:
    return weights.draw(rollouts, TokenWeights(accept, weight), np.random.default_rng(0))


def _scale(mask: Any, weight: Any, replicate: Any, rollouts: ScoredRollouts) -> object:
    return weights.scale(rollouts, mask, weight, "self_normalized", Level.SEQUENCE, replicate)


def _weight_figures(mask: Any, weight: Any, replicate: Any, rollouts: ScoredRollouts) -> object:
    return weights.weight_figures(rollouts, mask, weight, Level.SEQUENCE, replicate)


def _summaries(states: Any, cluster: Any, rollouts: ScoredRollouts) -> object:
    return summaries.summaries(rollouts, {"mine": states}, cluster=cluster)


LAWS = {name: array("rows vocab", laws) for name in ("policy", "actor", "believed", "believed_policy")}
PLACES = {"sequence": array("rows", ids("n")), "step": array("rows", ids("length"))}


def _visited(tokens: Any, **given: Any) -> object:
    visited = at_states.Visited(tokens, [JACKPOT, estimators.get("is")], [1.0])
    visited.add(**given)
    return visited.divergences, visited.overlap, visited.at, visited.policy_log_probs, visited.told_log_probs


def _topk(*shape: int) -> TopK:
    return TopK(np.broadcast_to(np.arange(2, dtype=np.int32), (*shape, 2)), np.full((*shape, 2), -1.5, np.float32))


def _visited_topk(tokens: Any, topk: TopK, **given: Any) -> object:
    visited = at_topk.VisitedTopK(tokens, topk, [1.0])
    visited.add(**given)
    return visited.policy_log_probs, visited.policy_on_topk, visited.low, visited.high


def _no_states(generator: np.random.Generator, sizes: Sizes) -> Mapping[str, Any]:
    shape = _shape(sizes)
    return {"visited": at_topk.VisitedTopK(np.zeros(shape, dtype=np.int64), _topk(*shape), [1.0])}


def _at_states(**given: Any) -> object:
    return [at_states.at_states(**given, correction=each) for each in (JACKPOT, estimators.get("is"))]


def _updates(gradient: Any, parameters: int, add: Callable[[gradients.Updates, Any], None]) -> object:
    updates = gradients.Updates(3, parameters)
    add(updates, gradient)
    return updates.total


def _adding(add: Callable[[gradients.Updates, Any], None]) -> Any:
    return lambda generator, sizes: {"parameters": sizes["parameters"], "add": add}


def _compare(policy_log_probs: Any, actor_log_probs: Any, tokens: Any, uniforms: Any, cluster: Any) -> object:
    block = overlap_estimates.LawBlock(policy_log_probs, actor_log_probs, tokens, uniforms, cluster)
    found = overlap_estimates.compare([block], [2])
    return [{name: value for name, value in vars(each).items() if name != "seconds"} for each in found]


def _numpy(call: Any, name: str, given: Mapping[str, Given], **more: Any) -> Door:
    return Door(call, given, name=f"estimators.{name}", torch=False, **more)


DOORS: tuple[Door, ...] = (
    Door(
        _at_states,
        {f"{name}_log_probs": LAWS[name] for name in LAWS} | {"kl": array("rows", SHARE)},
        name="estimators.rollouts.at_states.at_states",
    ),
    _numpy(
        _visited,
        "rollouts.at_states.Visited.add",
        PLACES | LAWS,
        fixed=lambda generator, sizes: {
            "tokens": generator.integers(sizes["vocab"], size=(sizes["n"], sizes["length"]))
        },
        letters=("n", "length"),
    ),
    _numpy(
        _visited,
        "rollouts.at_states.Visited",
        {"tokens": array("*n *length", ids("vocab"))} | PLACES | LAWS,
    ),
    _numpy(
        _visited_topk,
        "rollouts.at_topk.VisitedTopK.add",
        PLACES | {"policy": LAWS["policy"]},
        fixed=lambda generator, sizes: {
            "tokens": generator.integers(sizes["vocab"], size=(sizes["n"], sizes["length"])),
            "topk": _topk(sizes["n"], sizes["length"]),
        },
        letters=("n", "length"),
    ),
    _numpy(
        _visited_topk,
        "rollouts.at_topk.VisitedTopK",
        {"tokens": array("n length", ids("vocab"))} | PLACES | {"policy": LAWS["policy"]},
        fixed=lambda generator, sizes: {"topk": _topk(sizes["n"], sizes["length"])},
        says=("log_probs",),
    ),
    _numpy(
        lambda visited, **given: visited.calibrated(1.0, **given),
        "rollouts.at_topk.VisitedTopK.calibrated",
        {"log_ratio": _per_token(negative), "mask": _per_token(_kept)} | REPLICATE,
        fixed=_no_states,
        says=("tokens",),
    ),
    Door(
        at_topk.sampled_divergences,
        {"log_ratio": _per_token(negative), "mask": _per_token(_kept)},
        lambda generator, sizes: {"cuts": False},
        name="estimators.rollouts.at_topk.sampled_divergences",
        torch=False,
    ),
    _numpy(
        _updates,
        "rollouts.gradients.Updates.add",
        {"gradient": array("parameters", floats)},
        fixed=_adding(lambda updates, gradient: updates.add(1, gradient)),
    ),
    _numpy(
        _updates,
        "rollouts.gradients.Updates.add_sequence",
        {"gradient": array("parameters", floats)},
        fixed=_adding(lambda updates, gradient: updates.add_sequence(1, 0, gradient)),
    ),
    _numpy(_weigh, "rollouts.weights.weigh", {"overlap": ON_TOKENS["overlap"]} | REPLICATE, fixed=_scored),
    _numpy(
        lambda overlap, rollouts: weights.tokens_of_rollouts(rollouts, overlap),
        "rollouts.weights.tokens_of_rollouts",
        {"overlap": ON_TOKENS["overlap"]},
        fixed=_scored,
    ),
    _numpy(_draw, "rollouts.weights.draw", {name: ON_TOKENS[name] for name in ("accept", "weight")}, fixed=_scored),
    _numpy(_scale, "rollouts.weights.scale", KEPT, fixed=_scored),
    _numpy(_weight_figures, "rollouts.weights.weight_figures", KEPT, fixed=_scored),
    _numpy(
        _summaries,
        "mismatch.summaries.summaries",
        {"states": ON_TOKENS["states"], "cluster": _per_sequence(_cluster)},
        fixed=_scored,
        letters=("n", "length"),
    ),
    Door(
        _compare,
        {f"{name}_log_probs": LAWS[name] for name in ("policy", "actor")}
        | {"tokens": array("rows", ids("vocab")), "uniforms": array("rows", numbers(0.0, 1.0))}
        | {"cluster": array("rows", ids("rows"))},
        name="estimators.mismatch.overlap_estimates.LawBlock",
    ),
)
