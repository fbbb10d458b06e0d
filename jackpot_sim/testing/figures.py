"""The contracts of the figures of a correction: its exact moments, its sampled ones, and its path of thresholds."""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from jackpot_sim.core.arrays import Floats
from jackpot_sim.estimators import Correction, Denominator, Tokens, moments, statistics
from jackpot_sim.estimators.corrections.pieces import Piece
from jackpot_sim.estimators.sequences import enumerated
from jackpot_sim.estimators.states import sampled
from jackpot_sim.testing import referee, sequence_referee
from jackpot_sim.testing.contracts import require, require_close
from jackpot_sim.testing.prompts import enumeration, random_prompt
from jackpot_sim.testing.referee import CELLS, Cell, Rule, Seen
from jackpot_sim.testing.sequence_referee import Shape, Step
from jackpot_sim.testing.tokens import INF, OVERLAP, draws, weighs_tokens

N_SAMPLES = 7
"""n of the exact MSE."""
SAMPLED_CELLS = ("three states", "an actor that cannot reach the policy")


def own_rule(correction: Correction) -> Rule:
    """(a, w) of one token as the correction gives it, for a referee that has no other definition of it."""

    def rule(seen: Seen) -> tuple[float, float]:
        policy, actor = (np.log(np.array([[each]])) if each > 0 else np.array([[-INF]]) for each in (seen.p, seen.q))
        pair = correction.weights(
            Tokens(
                policy - actor,
                policy_log_probs=policy,
                actor_log_probs=actor,
                overlap=None if seen.overlap is None else np.array([[seen.overlap]]),
                advantages=np.array([[seen.advantage]]),
            )
        )
        accept, weight = (np.asarray(field).item() for field in pair)
        return accept, weight

    return rule


def has_the_moments_of_brute_force(correction: Correction, rule: Rule | None = None) -> None:
    """The exact figures are those of an enumeration, token by token, for every denominator.

    Args:
        correction: the correction.
        rule: its definition, written once more for a single token; None: its own weights of that token.
    """
    if not weighs_tokens(correction):
        return
    rule = own_rule(correction) if rule is None else rule
    for name, cell in CELLS.items():
        for denominator in Denominator:
            found = _exact(correction, cell, denominator)
            lam = correction.overlap_lam
            threshold = None if lam is None else float(np.asarray(lam))
            expected = referee.moments(cell, rule, threshold, denominator, N_SAMPLES)
            for figure, value in expected.items():
                # 1e-10, but where rounding in q·a·w·f, of numbers of order 1, is more than that of a tiny figure.
                require_close(found[figure], value, f"{figure} of {name!r}, {denominator}", 1e-10, 1e-11)


def agrees_with_monte_carlo(correction: Correction) -> None:
    """The exact figures lie within 4 standard errors of a simulation, for every denominator."""
    if not weighs_tokens(correction):
        return
    for index, denominator in enumerate(Denominator):
        agrees_with_monte_carlo_at(correction, SAMPLED_CELLS[index % 2], denominator)


def agrees_with_monte_carlo_at(
    correction: Correction, cell: str, denominator: Denominator, n_samples: int = 1500
) -> None:
    """The exact figures on one of the referee's cells, with one denominator, lie within 4 standard errors of a draw."""
    found = _exact(correction, CELLS[cell], denominator)
    generator = np.random.default_rng(zlib.crc32(f"{correction}{cell}{denominator}".encode()))
    estimate = sampled.estimate(*CELLS[cell], correction, generator, n_samples=n_samples, denominator=denominator)
    found["mse"] = found["bias_sq"] + found["variance"] * found["noise_to_signal"] / n_samples
    found["mse_rescaled"] = float(
        statistics.mean_squared_error_rescaled(found["gain"], found["mse"] + 2 * found["gain"] - 1)
    )
    require(set(estimate.value) == set(estimate.standard_error), "figures without a standard error")
    for name, value in estimate.value.items():
        expected, error = found[name], estimate.standard_error[name]
        if name == "bias" and not (math.isfinite(value) and expected > 0.02):
            continue  # a root near 0 has no symmetric error; bias_sq has
        within = abs(value - expected) <= 4 * error + 1e-9 if math.isfinite(expected) else str(value) == str(expected)
        require(within, f"{name} of {cell!r}, {denominator}: {value} ± {error} by Monte Carlo, and exactly {expected}")


def _exact(correction: Correction, cell: Cell, denominator: Denominator) -> dict[str, float]:
    found = moments.exact(*cell, correction, denominator=denominator, n_samples=N_SAMPLES)
    figures: Mapping[str, float] = dataclasses.asdict(found)
    return {**figures, "bias_sq": found.bias**2}


def has_pieces_that_are_its_weights(correction: Correction) -> None:
    """`pieces`, where a correction has them, are its weights on either side of every edge, for every sign of A."""
    for overlap in (0.05, OVERLAP):
        for sign in (-1, 0, 1):
            z = None if correction.overlap_lam is None else np.array(overlap)
            try:
                pieces = correction.pieces(z, sign)
            except TypeError:  # it has no path
                return
            _agree(correction, pieces, z, sign)


def _agree(correction: Correction, pieces: Sequence[Piece], overlap: Floats | None, sign: int) -> None:
    ends = np.array([float(np.asarray(piece.upper)) for piece in pieces])
    require(ends[-1] == INF and pieces[-1].closed, "its last piece must end at inf, and be closed there")
    require(np.all(ends[1:] >= ends[:-1]), f"its pieces are not in order: they end at {ends.tolist()}")
    edges = ends[np.isfinite(ends)]
    at = np.concatenate([draws((60,), scale=2.0), edges, np.nextafter(edges, -INF), np.nextafter(edges, INF)])
    accept, weight = correction.weights(at, overlap, advantages=np.full_like(at, sign))
    from_accept, from_weight = _evaluated(pieces, at)
    require_close(from_accept, accept, f"accept of its pieces, A of sign {sign}", 1e-13)
    require_close(from_weight, weight, f"weight of its pieces, A of sign {sign}", 1e-13)


def _evaluated(pieces: Sequence[Piece], log_ratio: Floats) -> tuple[Floats, Floats]:
    """(a, w) as the pieces have them."""
    found = []
    for value in log_ratio:
        piece = next(each for each in pieces if value < each.upper or (each.closed and value == each.upper))
        found.append([part.coefficient * math.exp(part.power * value) for part in (piece.accept, piece.weight)])
    accept, weight = np.array(found).T
    return accept, weight


def own_sequence_rule(correction: Correction) -> sequence_referee.Rule:
    """(a, w) of the tokens of one sequence as the correction gives them, as `own_rule` for a token."""

    def rule(steps: list[Step]) -> list[tuple[float, float]]:
        seen = [(step.target[step.token], step.actor[step.token], step.advantage) for step in steps]
        p, q, advantages = np.array(seen).T[:, None, :]
        with np.errstate(divide="ignore"):
            policy, actor = np.log(p), np.log(q)
        tokens = Tokens(
            policy - actor,
            policy_log_probs=policy,
            actor_log_probs=actor,
            overlap=None if correction.overlap_lam is None else _overlaps(correction, steps),
            advantages=advantages,
        )
        accept, weight = (np.asarray(field)[0].tolist() for field in correction.weights(tokens))
        return list(zip(accept, weight, strict=True))

    return rule


def _overlaps(correction: Correction, steps: list[Step]) -> Floats:
    lam = float(np.asarray(correction.overlap_lam))
    return np.array([[sum(min(q, p / lam) for p, q in zip(s.target, s.actor, strict=True)) for s in steps]])


def has_the_moments_of_brute_force_along_sequences(
    correction: Correction, rule: sequence_referee.Rule | None = None
) -> None:
    """Exact figures are those of an enumeration of every sequence and every mask, for every denominator.

    A correction that looks at the batch has figures in the limit alone, and is skipped.

    Args:
        correction: the correction.
        rule: its definition, written once more for the steps of a sequence; None: its own weights of that sequence.
    """
    if correction.looks_at_batch:
        return
    shape = Shape(2, 3, None)
    trees = [random_prompt(shape, seed) for seed in (1, 2)]
    rule = own_sequence_rule(correction) if rule is None else rule
    states = sequence_referee.states_of(shape, trees, rule, str(correction.unit), "p_ref")
    weighed = enumerated.Referee([enumeration(shape, tree) for tree in trees]).weigh(correction)
    if not any(outcome.weight for state in states for outcome in state.outcomes):
        bias = weighed.moments(Denominator.PROPOSED, N_SAMPLES).bias
        require_close(bias, 1.0, "bias along sequences, of which it keeps none", 1e-10)
        return
    for denominator in Denominator:
        found = weighed.moments(denominator, N_SAMPLES)
        figures: Mapping[str, float] = dataclasses.asdict(found)
        for figure, value in sequence_referee.moments(states, denominator, N_SAMPLES).items():
            exact = found.bias**2 if figure == "bias_sq" else figures[figure]
            require_close(exact, value, f"{figure} along sequences, {denominator}", 1e-10, 1e-11)
