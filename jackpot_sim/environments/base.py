"""What every source of policy pairs gives, and how its randomness is keyed.

An environment is a frozen configuration; `build(seed)` turns it into arrays, and the same
configuration and seed give the same arrays, whatever was built before and in whatever process.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from jackpot_sim.core.numerics import check_log_probs, check_same_shape
from jackpot_sim.environments.fields import check_count

FloatArray: TypeAlias = NDArray[np.float64]

FORBID_EXTRA = {"extra": "forbid"}
"""For `__pydantic_config__`: a misspelt option of a configuration is an error, not a default."""

BY_KIND = {"discriminator": "kind"}
"""Field metadata from which pydantic learns, without being imported here, that `kind` picks the class."""


@dataclass(frozen=True, eq=False)
class PolicyPair:
    """Two policies at the same states, and the advantage of every token.

    Attributes:
        policy_log_probs: log p of the policy that is trained, float64 (states, vocab), nats.
        actor_log_probs: log q of the policy that generates, the same shape. −inf where p has
            support is a support violation: it stays as it is, and KL(p‖q) is inf.
        advantage: A, the same shape, finite.

    Raises:
        ValueError: an array is not float64 of shape (states, vocab), the shapes differ, a law is
            not normalised or holds NaN, or an advantage is not finite.
    """

    policy_log_probs: FloatArray
    actor_log_probs: FloatArray
    advantage: FloatArray

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_table(getattr(self, field.name), field.name)
        check_same_shape(self.policy_log_probs, self.actor_log_probs, "policy_log_probs", "actor_log_probs")
        check_same_shape(self.policy_log_probs, self.advantage, "policy_log_probs", "advantage")
        check_log_probs(self.policy_log_probs, "policy_log_probs")
        check_log_probs(self.actor_log_probs, "actor_log_probs")
        if not np.all(np.isfinite(self.advantage)):
            raise ValueError("advantage holds NaN or inf")


@dataclass(frozen=True, eq=False)
class Realised:
    """An environment built for one seed: what was asked, and what came of it.

    Attributes:
        pair: the two policies and the advantage.
        knob: the value of the family's knob that was used, given or solved for.
        target_kl: the mean KL that was asked for, in nats, or None if the knob was given.
        achieved: the mean KL over states in the direction of the family's target, nats. Equal to
            `target_kl` to 1e-9 for a continuous knob, the nearest attainable value for a discrete one.
    """

    pair: PolicyPair
    knob: float
    target_kl: float | None
    achieved: float


class Environment(Protocol):
    """A frozen configuration that can be built."""

    def build(self, seed: int) -> Realised:
        """The pair that this configuration and `seed` determine."""
        ...


def keyed_generator(seed: int, *key: Any) -> np.random.Generator:
    """A generator that depends on what `seed` and `key` say, and on nothing else.

    The SHA-256 of the key's canonical JSON becomes the spawn key of a `SeedSequence`, so streams
    of different keys are independent, and neither the order of calls nor the process matters.

    Args:
        seed: a non-negative integer.
        key: numbers, strings, None, paths, sequences, mappings and dataclasses of these. Equal
            numbers are the same key: 1 and 1.0 do not differ. A path counts as it is written.

    Raises:
        TypeError: the key holds something else.
        ValueError: the seed is not a non-negative integer, or the key holds NaN or inf.

    >>> first, again = keyed_generator(0, "base", {"a": 1}), keyed_generator(0, "base", {"a": 1.0})
    >>> bool(first.random() == again.random())
    True
    """
    check_count("seed", seed, 0)
    text = json.dumps(_canonical(key), sort_keys=True, separators=(",", ":"), allow_nan=False)
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), dtype="<u4")
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=tuple(digest.tolist())))


def _canonical(value: Any) -> Any:
    """`value` in JSON's own types, with one spelling for equal contents."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {str(name): _canonical(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _check_table(array: Any, name: str) -> None:
    if not (isinstance(array, np.ndarray) and array.dtype == np.float64 and array.ndim == 2 and array.size > 0):
        found = f"{getattr(array, 'dtype', type(array).__name__)} of shape {getattr(array, 'shape', ())}"
        raise ValueError(f"{name} must be a float64 numpy array of shape (states, vocab), got {found}")
