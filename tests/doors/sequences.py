"""The doors of jackpot_sim.estimators.sequences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from jackpot_sim import estimators
from jackpot_sim.core.sequences import Enumeration, SampledSequences, SequenceLaws, Sequences
from jackpot_sim.estimators import UpdateTarget
from jackpot_sim.estimators.sequences import enumerated, sampled, spaces, updates
from tests.doors.harness import Door, Given, Make, Sizes, Values, array, floats, laws, shares
from tests.doors.sized import sized

REPLICATES = 3
TABLE = ("prefixes", "vocab")


FEATURES = {"features": array("prefixes vocab *parameters", floats)}


def chain(sizes: Sizes) -> Sequences:
    """Every sequence of a chain of prefixes: token 0 leads to the next prefix, and any other ends the sequence."""
    prefixes, vocab = (sizes[letter] for letter in TABLE)
    ends = np.array([(s, x) for s in range(prefixes) for x in range(vocab) if x > 0 or s == prefixes - 1])
    prefix = np.tile(np.arange(prefixes), (len(ends), 1))
    token = np.where(prefix == ends[:, :1], ends[:, 1:], 0)
    return Sequences(prefix, token, prefix <= ends[:, :1])


def _per_sequence(make: Make) -> Given:
    """One number per sequence of the chain."""
    return sized("prefixes", lambda sizes: (len(chain(sizes)),), make)


def _on_tokens(generator: np.random.Generator, shape: tuple[int, ...], sizes: Sizes) -> Values:
    """A number on every token of the chain, 0 at padding."""
    return generator.normal(size=shape) * chain(sizes).mask


def _laws(generator: np.random.Generator, sizes: Sizes) -> SequenceLaws:
    shape = (sizes["prefixes"], sizes["vocab"])
    return SequenceLaws(*(laws(generator, shape, sizes) for _ in range(3)))


def _parts(generator: np.random.Generator, sizes: Sizes) -> Mapping[str, Any]:
    return {"laws": _laws(generator, sizes), "sequences": chain(sizes)}


def _enumerations(generator: np.random.Generator, sizes: Sizes) -> Mapping[str, Any]:
    advantage = generator.normal(size=len(chain(sizes)))
    return {"enumerations": [Enumeration(**_parts(generator, sizes), advantage=advantage)]}


def _rollouts(generator: np.random.Generator, sizes: Sizes) -> Mapping[str, Any]:
    every, n = chain(sizes), 2 * REPLICATES
    actor, policy = (every.take(generator.integers(len(every), size=n)) for _ in range(2))
    worth = generator.normal(size=(2, n))
    return {"rollouts": [SampledSequences(_laws(generator, sizes), actor, worth[0], policy, worth[1])]}


def _logit_space(generator: np.random.Generator, sizes: Sizes) -> Mapping[str, Any]:
    p = np.exp(laws(generator, (sizes["prefixes"], sizes["vocab"]), sizes))
    return {"space": spaces.Logits(p), "sequences": chain(sizes)}


def _parameter_space(generator: np.random.Generator, sizes: Sizes) -> Mapping[str, Any]:
    features = generator.normal(size=(sizes["prefixes"], sizes["vocab"], sizes["parameters"]))
    return {"space": spaces.Parameters(features), "sequences": chain(sizes)}


def _exact(features: Any, enumerations: Any) -> object:
    return enumerated.exact(enumerations, estimators.get("is"), n_samples=4, features=[features])


def _referee(features: Any, enumerations: Any) -> object:
    return enumerated.Referee(enumerations, [features]).truth()


def _estimate(along: Any, features: Any, rollouts: Any) -> object:
    given = rollouts, estimators.get("is"), np.random.default_rng(0)
    truth = sampled.Truth([along], 1.0, 1.0)
    return sampled.estimate(*given, replicates=REPLICATES, truth=truth, features=[features])


def _logits(p: Any) -> object:
    return spaces.Logits(p).norm_sq


def _parameters(features: Any) -> object:
    return spaces.Parameters(features).norm_sq


def _update(mass: Any, space: spaces.Space, sequences: Sequences) -> object:
    return space.update(mass)


def _along(vector: Any, space: spaces.Space, sequences: Sequences) -> object:
    return space.along(vector)


def _path_norm_sq(coefficients: Any, space: spaces.Space, sequences: Sequences) -> object:
    return space.path_norm_sq(sequences, coefficients)


def _centred_path_norm_sq(
    coefficients: Any, weight: Any, law: Any, space: spaces.Space, sequences: Sequences
) -> object:
    return space.centred_path_norm_sq(sequences, coefficients, weight, law)


def _proposals(advantage: Any, laws: SequenceLaws, sequences: Sequences) -> object:
    return updates.Proposals(laws, sequences, advantage)


def _in_the_limit(probability: Any, laws: SequenceLaws, sequences: Sequences) -> object:
    part = updates.Proposals(laws, sequences, np.ones(len(sequences)))
    correction = estimators.get("m2po", threshold=0.05)
    return updates.in_the_limit([part], [probability], correction, UpdateTarget.REFERENCE)


def _probabilities(generator: np.random.Generator, shape: tuple[int, ...], sizes: Sizes) -> Values:
    return np.exp(laws(generator, shape, sizes))


COEFFICIENTS = {"coefficients": sized("prefixes vocab", lambda sizes: chain(sizes).mask.shape, _on_tokens)}


CENTRED = COEFFICIENTS | {name: array("prefixes vocab") for name in ("weight", "law")}


def _door(call: Any, name: str, given: Mapping[str, Given], fixed: Any = None, letters: tuple[str, ...] = ()) -> Door:
    more = {} if fixed is None else {"fixed": fixed}
    return Door(call, given, name=f"estimators.sequences.{name}", torch=False, letters=letters, **more)


DOORS: tuple[Door, ...] = (
    _door(_exact, "enumerated.exact", FEATURES, _enumerations),
    _door(_referee, "enumerated.Referee", FEATURES, _enumerations),
    _door(
        spaces.believed_features,
        "spaces.believed_features",
        FEATURES,
        lambda generator, sizes: {"laws": replace(_laws(generator, sizes), believed=_laws(generator, sizes))},
        TABLE,
    ),
    _door(_estimate, "sampled.estimate", {"along": array("prefixes vocab")} | FEATURES, _rollouts),
    _door(_logits, "spaces.Logits", {"p": array("*prefixes *vocab", _probabilities)}),
    _door(_update, "spaces.Logits.update", {"mass": array("prefixes vocab")}, _logit_space),
    _door(_along, "spaces.Logits.along", {"vector": array("prefixes vocab")}, _logit_space),
    _door(_path_norm_sq, "spaces.Logits.path_norm_sq", COEFFICIENTS, _logit_space, TABLE),
    _door(_centred_path_norm_sq, "spaces.Logits.centred_path_norm_sq", CENTRED, _logit_space),
    _door(_parameters, "spaces.Parameters", {"features": array("*prefixes *vocab *parameters", floats)}),
    _door(_update, "spaces.Parameters.update", {"mass": array("prefixes vocab")}, _parameter_space, ("parameters",)),
    _door(_along, "spaces.Parameters.along", {"vector": array("parameters")}, _parameter_space, TABLE),
    _door(_path_norm_sq, "spaces.Parameters.path_norm_sq", COEFFICIENTS, _parameter_space, (*TABLE, "parameters")),
    _door(
        _centred_path_norm_sq,
        "spaces.Parameters.centred_path_norm_sq",
        CENTRED,
        _parameter_space,
        ("parameters",),
    ),
    _door(_proposals, "updates.Proposals", {"advantage": _per_sequence(floats)}, _parts, TABLE),
    _door(_in_the_limit, "updates.in_the_limit", {"probability": _per_sequence(shares)}, _parts, TABLE),
)
