"""The cost of scoring and measuring every sequence of a small language model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jackpot_sim import estimators
from jackpot_sim.bench.timing import Finding, in_turn, ratios
from jackpot_sim.core.numerics import log_softmax
from jackpot_sim.core.sequences import Enumeration, SequenceLaws
from jackpot_sim.environments.language_models.build import TinyQwen3, build
from jackpot_sim.environments.language_models.memory import peak_resident
from jackpot_sim.environments.language_models.scoring import CausalLM
from jackpot_sim.environments.prefix_tree import PrefixTree
from jackpot_sim.estimators.sequences.enumerated import Referee
from jackpot_sim.estimators.statistics import Denominator

_SLICE = 1 << 13
"""The number of sequences that are scored one by one; their time is scaled to all."""
_ESTIMATORS_AT_MOST = 5.0
"""The largest time of all estimators, in times of scoring one model by its prefixes."""


def enumeration(vocab: int = 8, length: int = 6, rounds: int = 5) -> Iterator[Finding]:
    """The time of scoring by prefixes and of scoring sequences, then of every estimator, exactly, in logit space."""
    tree = PrefixTree(vocab, length)
    model = CausalLM(build(TinyQwen3(), vocab, np.random.default_rng(0)))
    prompt = np.array([1, 2])
    subset = tree.sequences.take(slice(None, None, max(1, len(tree.sequences) // _SLICE)))
    tables = {}

    def by_prefix() -> None:
        tables["prefixes"] = model.log_probs(prompt[None], tree)[0]

    def one_by_one() -> None:
        tables["sequences"] = model.log_probs_along(prompt, subset.token)

    generator = np.random.default_rng(1)
    policy = model.log_probs(prompt[None], tree)[0]
    actor = np.asarray(log_softmax(policy + 0.1 * generator.standard_normal(policy.shape)))
    enumerated = Enumeration(
        SequenceLaws(policy, actor, policy), tree.sequences, generator.standard_normal(len(tree.sequences))
    )

    def measured() -> None:
        referee = Referee([enumerated])
        for name in estimators.names():
            weighed = referee.weigh(estimators.get(name))
            for denominator in Denominator:
                weighed.moments(denominator, 256)

    candidates = {"prefixes": by_prefix, "sequences": one_by_one, "estimators": measured}
    seconds = in_turn(candidates, rounds)
    error = float(np.max(np.abs(tables["prefixes"][subset.prefix] - tables["sequences"])))
    yield Finding("scores by prefix against full sequences", error, "nats", at_most=1e-10)
    every = [each * len(tree.sequences) / len(subset) for each in seconds["sequences"]]
    note = f"{len(subset):,} sequences scored, scaled"
    in_rounds = ratios(every, seconds["prefixes"])
    yield Finding.over_rounds("full sequences / prefix sharing", in_rounds, at_least=20, note=note)
    what = f"{len(estimators.names())} estimators x {len(Denominator)} denominators"
    what += f", {len(tree.sequences):,} sequences, {tree.prefixes:,} prefixes"
    yield Finding.over_rounds(what, seconds["estimators"], "s")
    in_rounds = ratios(seconds["estimators"], seconds["prefixes"])
    yield Finding.over_rounds(f"{what} / scoring by prefix", in_rounds, at_most=_ESTIMATORS_AT_MOST)
    yield Finding("the process's largest memory until then", peak_resident(), "GiB", at_most=4)
