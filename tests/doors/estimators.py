"""The doors of jackpot_sim.estimators, but for its corrections.

A method has a function here that calls it, with the method's arguments. Objects whose arrays are private are opened:
the function returns what they hold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jackpot_sim import estimators
from jackpot_sim.core.two_laws import TwoLaws
from jackpot_sim.estimators import Denominator, Tokens, replicates, statistics
from jackpot_sim.estimators.states import moments, optimum, path, sampled, sorted_state, tokens
from jackpot_sim.estimators.states.topk_centring import topk_errors
from tests.doors import rollouts, sequences
from tests.doors.harness import Door, Given, Make, Sizes, array, floats, ids, laws, numbers
from tests.doors.sized import sized

POSITIVE = numbers(0.5, 2.0)

EXEMPT: Mapping[str, str] = {
    **{
        f"estimators.mismatch.clusters.{name}": "called by summaries alone, with arrays that it has checked"
        for name in (
            *("Units", "Units.correlation", "Units.effective_share", "Units.mean", "Units.quantile", "Units.summed"),
            *("Units.trimmed_mean", "relative", "correlation_of", "effective_share_of", "mean_of"),
        )
    },
    **{
        f"estimators.mismatch.summaries.{name}": "called with sums of what summaries and readers have checked"
        for name in ("half_tokens", "resolved")
    },
    "estimators.corrections.inputs.Tokens.with_overlap": "checks as the constructor does, which has a door",
    **{
        f"estimators.states.summed.{name}": "takes what moments.measure has checked"
        for name in (*("Geometry", "Shared", "Shared.at_top", "Shared.sums", "Summed", "Sums.scaled"),)
    },
    "estimators.sequences.sampled.Truth": "estimate checks it against the laws of its rollouts",
    **{
        f"estimators.sequences.spaces.Space.{name}": "of a protocol, whose two classes check"
        for name in ("update", "along", "path_norm_sq", "centred_path_norm_sq")
    },
    **{
        f"estimators.sequences.centring.{name}": "called with the sequences and tables of checked laws"
        for name in ("Centring", "Centring.along", "Centring.path_norm_sq", "MeanTerm")
    },
    "estimators.sequences.spaces.check_features": "a check itself",
    **{
        f"estimators.states.centring.{name}": "called by moments with the arrays of checked laws"
        for name in ("Centring", "Centring.columns")
    },
    **{
        f"estimators.states.{name}": "takes what moments.measure has checked, or checks it as it reads"
        for name in (
            *("blocks.Block", "blocks.Block.proposed", "blocks.Block.weigh", "blocks.Blocks", "blocks.expect"),
            "token_by_token.TokenByToken",
        )
    },
    "estimators.states.optimum.Best": "a result of best",
    "estimators.states.kept.thresholds": "called by SortedCell alone, with its arrays and their sorted states",
    "estimators.states.path.Sorted": "hands its arrays to sorted_states, which checks them",
    "estimators.states.quadratics.nearly_least": "takes the costs of intervals that its callers have made",
    "estimators.states.optimum.with_parameter": "path.exact checks the shape of a correction's parameters",
    **{
        f"estimators.states.{name}": "takes the tables of a state that sorted_states has checked"
        for name in (
            *("cumulated.cumulated", "cumulated.runs_of", "policy_gaps.PolicyGaps"),
            *("sorted_state.SortedState.feature_sq", "sorted_state.SortedState.statistics"),
        )
    },
}
"""Public functions and classes with array arguments that have no door, and the reason."""


def door(call: Callable[..., object], name: str, given: Mapping[str, Given], **more: Any) -> Door:
    """A door by its name in jackpot_sim.estimators."""
    return Door(call, given, name=f"estimators.{name}", **more)


# ------------------------------------------------------------------------------------------- states


def _of_states(make: Make) -> Given:
    """An array of (states, vocab): a vocabulary of a single token has no gradient."""
    return sized("states vocab", lambda sizes: (sizes["states"], sizes["vocab"] + 1), make)


CELL = {
    "policy_log_probs": _of_states(laws),
    "actor_log_probs": _of_states(laws),
    "advantage": _of_states(floats),
}
PER_STATE = {"lam": array("states 1", POSITIVE, "1 1", "", any_dtype=True)}


def _tokens_of_states(policy_log_probs: Any, actor_log_probs: Any, advantage: Any, lam: Any) -> object:
    correction = estimators.get("obrs", lam=lam)
    return tokens.tokens_of_states(policy_log_probs, actor_log_probs, correction, advantage)


def _state_tokens(policy_log_probs: Any, actor_log_probs: Any, advantage: Any) -> object:
    of = tokens.StateTokens(TwoLaws(policy_log_probs, actor_log_probs), advantage)
    return [of.of(estimators.get("jackpot")), of.overlap(2.0)]


def _drawn_tokens(drawn: Any, of: Tokens) -> object:
    return tokens.drawn_tokens(of, drawn, estimators.get("jackpot"))


def _one_state(generator: np.random.Generator, sizes: Sizes) -> Mapping[str, Any]:
    pair = [laws(generator, (1, sizes["vocab"]), sizes) for _ in range(2)]
    return {"of": tokens.tokens_of_states(*pair, estimators.get("jackpot"))}


def _moments(policy_log_probs: Any, actor_log_probs: Any, advantage: Any, lam: Any) -> object:
    correction = estimators.get("obrs", lam=lam)
    return moments.exact(policy_log_probs, actor_log_probs, advantage, correction, denominator="accepted", n_samples=5)


def _measured(policy_log_probs: Any, actor_log_probs: Any, advantage: Any, lam: Any) -> object:
    corrections = [estimators.get("obrs", lam=lam), estimators.get("jackpot"), estimators.get("mis")]
    return moments.measure(policy_log_probs, actor_log_probs, advantage, corrections, n_samples=5)


def _path(policy_log_probs: Any, actor_log_probs: Any, advantage: Any, lam: Any, c1: Any) -> object:
    correction = estimators.get("jackpot", lam=lam, c1=c1)
    return path.exact(policy_log_probs, actor_log_probs, advantage, correction, n_samples=5)


def _best(policy_log_probs: Any, actor_log_probs: Any, advantage: Any) -> object:
    return optimum.best(policy_log_probs, actor_log_probs, advantage, estimators.get("tis"), n_samples=5)


def _best_of_cell(policy_log_probs: Any, actor_log_probs: Any, advantage: Any) -> object:
    cell = optimum.SortedCell(policy_log_probs, actor_log_probs, advantage)
    return cell.best(estimators.get("mis"), n_samples=5)


def _sampled(policy_log_probs: Any, actor_log_probs: Any, advantage: Any, lam: Any) -> object:
    given = policy_log_probs, actor_log_probs, advantage, estimators.get("obrs", lam=lam), np.random.default_rng(0)
    return sampled.estimate(*given, n_samples=2, replicates=3)


def _opened(state: sorted_state.SortedState) -> object:
    return state.log_ratio, state.policy_update, state.grad_norm_sq, state.on_policy_variance, state.overlap(1.5)


def _sorted_states(policy_log_probs: Any, actor_log_probs: Any, advantage: Any) -> object:
    return [_opened(state) for state in sorted_state.sorted_states(policy_log_probs, actor_log_probs, advantage)]


def _sorted_state(log_p: Any, log_q: Any, advantage: Any) -> object:
    return _opened(sorted_state.SortedState(log_p, log_q, advantage))


STATES = (
    door(_tokens_of_states, "states.tokens.tokens_of_states", CELL | PER_STATE),
    door(
        _drawn_tokens,
        "states.tokens.drawn_tokens",
        {"drawn": array("*m *n", ids("vocab"))},
        fixed=_one_state,
        torch=False,
        letters=("vocab",),
    ),
    door(_state_tokens, "states.tokens.StateTokens", CELL),
    door(_moments, "states.moments.exact", CELL | PER_STATE),
    door(_measured, "states.moments.measure", CELL | PER_STATE),
    door(
        _path,
        "states.path.exact",
        CELL | {name: array("thresholds", POSITIVE, "", any_dtype=True) for name in ("lam", "c1")},
    ),
    door(_best, "states.optimum.best", CELL),
    door(_best_of_cell, "states.optimum.SortedCell", CELL),
    door(
        lambda **laws: topk_errors(**laws, correction=estimators.get("jackpot"), ks=[1, 2]),
        "states.topk_centring.topk_errors",
        {name: CELL[name] for name in ("policy_log_probs", "actor_log_probs")},
    ),
    door(_sampled, "states.sampled.estimate", CELL | PER_STATE),
    door(_sorted_states, "states.sorted_state.sorted_states", CELL),
    door(
        _sorted_state,
        "states.sorted_state.SortedState",
        {"log_p": array("vocab", laws), "log_q": array("vocab", laws), "advantage": array("vocab")},
        torch=False,
    ),
)


# ---------------------------------------------------------------------------- statistics, replicates

COLUMNS = tuple(field.name for field in dataclasses.fields(statistics.StateStatistics))


def _combined(**columns: Any) -> object:
    return statistics.combine(statistics.StateStatistics(**columns), "accepted", 4)


def _combined_cell(acceptance_rate: Any) -> object:
    states = statistics.StateStatistics(*[acceptance_rate] * len(COLUMNS))
    return statistics.combine_cell(states, "accepted", 4)


def _divisor(acceptance_rate: Any, weight_mean: Any) -> object:
    return [statistics.divisor(each, acceptance_rate, weight_mean) for each in Denominator]


def _mean_squared_error(bias_sq: Any, variance: Any, noise_to_signal: Any) -> object:
    return statistics.mean_squared_error(bias_sq, variance, noise_to_signal, 4)


def _positive(*names: str, shape: str = "a b") -> Mapping[str, Given]:
    return {name: array(shape, POSITIVE) for name in names}


STATISTICS = (
    door(_combined, "statistics.StateStatistics", _positive(*COLUMNS, shape="cells states"), torch=False),
    door(_combined_cell, "statistics.combine_cell", {"acceptance_rate": array("*states", POSITIVE)}, torch=False),
    door(_divisor, "statistics.divisor", _positive("acceptance_rate", "weight_mean")),
    door(statistics.of_single_tokens, "statistics.of_single_tokens", _positive("acceptance_rate", "weighted_sq")),
    door(
        _mean_squared_error,
        "statistics.mean_squared_error",
        _positive("bias_sq", "variance", "noise_to_signal"),
        torch=False,
    ),
    door(
        statistics.mean_squared_error_rescaled,
        "statistics.mean_squared_error_rescaled",
        _positive("gain", "size"),
        torch=False,
    ),
    door(
        replicates.off_diagonal,
        "replicates.off_diagonal",
        {"gram": sized("r r", lambda sizes: (sizes["r"] + 1,) * 2, floats)},
        torch=False,
    ),
)

DOORS: tuple[Door, ...] = (*STATES, *STATISTICS, *sequences.DOORS, *rollouts.DOORS)
