"""The cost of measuring corrections at a vocabulary of 151,936, in reads of both laws.

A read checks and exponentiates both laws once, a state at a time: what any measure of them does at least. The plain
read of both arrays from memory, without an exponential, is given beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from jackpot_sim import estimators
from jackpot_sim.bench.laws import VOCABULARY
from jackpot_sim.bench.timing import Finding, in_turn, ratios
from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.checks import check_pair
from jackpot_sim.environments.policy_pair import PolicyPair
from jackpot_sim.environments.states.base_laws import Zipf
from jackpot_sim.environments.states.families import LogitNoise
from jackpot_sim.estimators import Correction, Denominator
from jackpot_sim.estimators.rollouts.at_states import Visited
from jackpot_sim.estimators.states import moments

_READS_AT_MOST = 2.0
"""The most reads of both laws that a correction with all denominators may take."""
_SECONDS_AT_MOST = 0.1
"""The seconds that a token of a real model's rollouts should take with the estimators of the default study."""
VISITED = ("none", "is", "tis", "mis", "mask-k1", "mask-k2", "mask-k3", "obrs", "jackpot", "overlap-tis", "tv-mask")
"""As many corrections of single tokens as the default study of real models has estimators."""


def corrections(states: int = 64, vocab: int = VOCABULARY, rounds: int = 5) -> Iterator[Finding]:
    """Every correction of single tokens with all denominators, exactly, in reads of both laws."""
    pair = _pair(states, vocab)
    measured = _token_corrections()

    def moments_of_all() -> None:
        moments.measure(pair.policy_log_probs, pair.actor_log_probs, pair.advantage, measured, n_samples=256)

    laws = pair.policy_log_probs, pair.actor_log_probs
    candidates = {"read": lambda: _read(*laws), "plain": lambda: _plain_read(*laws), "all": moments_of_all}
    seconds = in_turn(candidates, rounds)
    where = f"{len(measured)} corrections x {len(Denominator)} denominators, {states} x {vocab:,}"
    yield Finding.over_rounds(where, seconds["all"], "s")
    each = [spent / len(measured) for spent in ratios(seconds["all"], seconds["read"])]
    yield Finding.over_rounds(f"a correction / a read of both laws, {where}", each, at_most=_READS_AT_MOST)
    each = [spent / len(measured) for spent in ratios(seconds["all"], seconds["plain"])]
    yield Finding.over_rounds(f"a correction / a plain read, {where}", each)


def visited(tokens: int = 8, vocab: int = VOCABULARY, rounds: int = 5) -> Iterator[Finding]:
    """The states of a real model's rollouts, without its forward passes, in reads of both laws and in seconds."""
    pair = _pair(tokens, vocab)
    measured = [estimators.get(name) for name in VISITED]
    at = np.zeros(tokens, dtype=np.int64), np.arange(tokens)
    laws = pair.policy_log_probs, pair.actor_log_probs

    def visit() -> None:
        Visited(np.zeros((1, tokens), dtype=np.int64), measured, [1.0]).add(*at, *laws, laws[1])

    seconds = in_turn({"read": lambda: _read(*laws), "visit": visit}, rounds)
    where = f"a visited state, {len(measured)} estimators, vocabulary {vocab:,}"
    note = f"aim {_SECONDS_AT_MOST:g}"
    yield Finding.over_rounds(where, [each / tokens for each in seconds["visit"]], "s", note=note)
    each = [spent / len(measured) for spent in ratios(seconds["visit"], seconds["read"])]
    yield Finding.over_rounds(f"{where}: an estimator / a read of both laws", each)


def _pair(states: int, vocab: int) -> PolicyPair:
    return LogitNoise(base=Zipf(vocab=vocab, states=states), sigma=0.5).build(0).pair


def _token_corrections() -> Sequence[Correction]:
    every = [estimators.get(name) for name in estimators.names()]
    return [each for each in every if each.is_per_token]


def _read(log_p: Floats, log_q: Floats) -> None:
    for state in range(len(log_p)):
        check_pair(log_p[state : state + 1], log_q[state : state + 1])


def _plain_read(log_p: Floats, log_q: Floats) -> None:
    for law in (log_p, log_q):
        for state in law:
            state.sum()
