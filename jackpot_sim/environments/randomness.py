"""Random generators keyed by their purpose, never by order.

The same seed and key give the same draws, whatever was drawn before, in any process.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import PurePath

import numpy as np

from jackpot_sim.environments.fields import check_count


def keyed_generator(seed: int, *key: object) -> np.random.Generator:
    """A generator that depends on the contents of `seed` and `key` alone.

    The SHA-256 of the key's canonical JSON becomes the spawn key of a `SeedSequence`. So streams of different keys
    are independent, and neither the order of calls nor the process matters.

    Args:
        seed: a non-negative integer.
        key: numbers, strings, None, paths, sequences, mappings and dataclasses of these. Equal numbers are the
            same key: 1 and 1.0 do not differ. A path counts as it is written.

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


def _canonical(value: object) -> object:
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
