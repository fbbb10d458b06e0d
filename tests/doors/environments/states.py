"""The doors of independent states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jackpot_sim.environments.policy_pair import PolicyPair
from jackpot_sim.environments.recorded import LogProbs, believed
from jackpot_sim.environments.states.advantage import BinaryReward, NormalAdvantage
from jackpot_sim.environments.states.compressed import LowerOrder, LowRank, QuantizedLogits
from jackpot_sim.environments.states.mismatch import Mismatch
from jackpot_sim.environments.states.ngram import Ngram, pack
from jackpot_sim.environments.states.perturbed import DirichletMixture, LogitNoise, Temperature
from jackpot_sim.environments.states.stale import Ascent, StaleLogits
from jackpot_sim.environments.states.truncated import Ranked, TopKTruncation, TopPTruncation
from tests.doors.environments.given import (
    BASE,
    FREE_TABLE,
    as_dtype,
    generator,
    numpy_alone,
    tokens,
    zeros,
)
from tests.doors.harness import Door, array, laws


def law_at(family: Mismatch, knob: float) -> Callable[..., Any]:
    """Both laws of a family at a knob."""
    return lambda base, advantage: family.laws(base, advantage, 3)(knob)


def of_target(family: Any) -> Callable[..., Any]:
    """The knobs that a family tries."""
    return lambda base: family.solve(Candidates(), base)


class Candidates:
    """A target that takes all knobs."""

    nearest = nearest_ordered = staticmethod(list)


PAIR = {**BASE, "advantage": array("*states *vocab")}
SAME_PAIR = {"base": array("states vocab", laws), "advantage": array("states vocab")}
FAMILIES: tuple[tuple[str, Any, float], ...] = (
    ("compressed.QuantizedLogits", QuantizedLogits(bits=2), 2),
    ("compressed.LowRank", LowRank(rank=1), 1),
    ("perturbed.Temperature", Temperature(temperature=2.0), 2.0),
    ("truncated.TopKTruncation", TopKTruncation(k=1), 1),
    ("truncated.TopPTruncation", TopPTruncation(p=0.5), 0.5),
)
SOLVED: tuple[tuple[str, Any], ...] = (
    ("compressed.LowRank", LowRank(rank=1)),
    ("truncated.TopKTruncation", TopKTruncation(k=1)),
    ("truncated.TopPTruncation", TopPTruncation(p=0.5)),
)

STATES = (
    *(
        Door(
            lambda told=told, **laws: believed(told, **laws),
            dict.fromkeys(names, array("states vocab", laws)),
            lambda generator, sizes, names=names: {
                name: np.log(np.full((sizes["states"], sizes["vocab"]), 1 / sizes["vocab"]))
                for name in {"actor_log_probs", "model_log_probs"} - set(names)
            },
            name="environments.recorded.believed",
            torch=False,
            says=("actor_log_probs",),
        )
        for told, names in (
            (LogProbs.RAW, ("policy_log_probs", "model_log_probs")),
            (LogProbs.SUPPORT, ("policy_log_probs", "actor_log_probs")),
        )
    ),
    numpy_alone(
        "policy_pair.PolicyPair",
        PolicyPair,
        {
            "policy_log_probs": array("states vocab", laws),
            "actor_log_probs": array("states vocab", laws),
            "advantage": array("states vocab"),
        },
    ),
    *(
        numpy_alone(
            f"states.{name}.actor_law", lambda base, family=family, knob=knob: family.actor_law(base)(knob), BASE
        )
        for name, family, knob in FAMILIES
    ),
    *(numpy_alone(f"states.{name}.solve", of_target(family), BASE) for name, family in SOLVED),
    numpy_alone("states.perturbed.DirichletMixture.laws", law_at(DirichletMixture(epsilon=0.1), 0.1), PAIR),
    numpy_alone("states.perturbed.LogitNoise.laws", law_at(LogitNoise(sigma=0.1), 0.1), PAIR),
    numpy_alone("states.stale.StaleLogits.laws", law_at(StaleLogits(steps=2), 2), SAME_PAIR),
    numpy_alone(
        "states.compressed.LowerOrder.laws", law_at(LowerOrder(base=Ngram(states=4, order=2), order=1), 1), PAIR
    ),
    numpy_alone(
        "states.stale.Ascent",
        lambda start, reward: Ascent(start, reward, 1.0).log_probs_after(2),
        {"start": array("states vocab", laws), "reward": array("states vocab")},
    ),
    numpy_alone(
        "states.truncated.Ranked",
        lambda log_probs: (Ranked(log_probs).ids, Ranked(log_probs).tail),
        FREE_TABLE,
    ),
    numpy_alone(
        "states.truncated.Ranked.keep",
        lambda count, log_probs: Ranked(log_probs).keep(count),
        {"count": array("states", zeros), "log_probs": array("states *vocab", laws)},
    ),
    *(
        numpy_alone(
            f"states.advantage.{type(kind).__name__}.draw",
            lambda log_probs, kind=kind: kind.draw(log_probs, generator()),
            FREE_TABLE,
        )
        for kind in (NormalAdvantage(), BinaryReward())
    ),
    numpy_alone(
        "states.ngram.pack",
        lambda symbols: pack(symbols, 2),
        {"symbols": array("*bytes", as_dtype(tokens, np.uint8))},
    ),
    numpy_alone(
        "states.ngram.Ngram.log_probs_at",
        lambda contexts: Ngram(states=4, order=2).log_probs_at(contexts, 2),
        {"contexts": array("*contexts", as_dtype(tokens, np.uint64))},
    ),
)
