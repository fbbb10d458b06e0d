"""Short names for environments, from the fields that they set and from those that tell them apart."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePath
from typing import TypeAlias

from jackpot_sim.environments.worlds import World
from jackpot_sim.sweep.worlds import world_of

Fields: TypeAlias = dict[str, object]
"""The fields of an environment by dotted names."""

_TARGETS = ("target_kl", "source.target_kl", "actor.target_kl")
_ALWAYS: dict[World, Fields] = {
    World.STATES: {"log_probs": "processed"},
    World.SEQUENCES: {
        **dict.fromkeys(("vocab", "length", "source.format")),
        "source.steps": 0,
        "updates": 0,
        "log_probs": "processed",
        "space": "logits",
    },
    World.ROLLOUTS: {
        **dict.fromkeys(("policy", "actor.path", "actor.format", "actor.precision", "actor.steps", "top_k")),
        "precision": "fp32",
        "temperature": 1,
        "top_p": 1,
        "log_probs": "processed",
    },
}
"""The fields that a label names even where no other environment differs, each with the value that it leaves out."""
_CHECKPOINTS = ("policy", "actor.path")
"""Fields that a label shows by as much of the end of their path as tells them apart."""
_NEVER = ("threads", "device")
"""Fields that say where real models were run."""


def kinds_of(env_kind: str, base_kind: str | None) -> str:
    """The beginning of a label."""
    return env_kind if base_kind is None else f"{env_kind} on {base_kind}"


def labels(environments: Sequence[str]) -> dict[str, str]:
    """A short name for each environment: its kinds, and the fields that tell it from others of these kinds.

    Where there is no other of its kinds, its target KL, or else the numbers that it sets.

    Args:
        environments: each as JSON, as records have it.
    """
    by_name = _read(environments)
    out = {}
    for name, fields in by_name.items():
        targets = [key for key in _TARGETS if fields.get(key) is not None]
        keys = _varied(fields, by_name.values()) or [*targets, *_always(fields)]
        if not set(keys) - {"log_probs"}:
            keys = [*_own(fields), *keys]
        out[name] = " ".join([kinds_of(*_kinds(fields)), *_assignments(fields, keys)])
    return out


def settings(environments: Sequence[str], *besides: str) -> dict[str, list[str]]:
    """The fields that tell each environment from others of its kinds, without target KLs and the fields `besides`.

    Those of sequences and rollouts include their size and other things of weight, whether or not they vary.
    """
    by_name = _read(environments)
    out = {}
    for name, fields in by_name.items():
        keys = dict.fromkeys([*_always(fields), *_varied(fields, by_name.values())])
        out[name] = _assignments(fields, [key for key in keys if _plain(key) not in ("target_kl", *besides)])
    return out


def _read(environments: Sequence[str]) -> dict[str, Fields]:
    """The fields of each, checkpoints by the ends of their paths."""
    by_name = {name: _flattened(json.loads(name)) for name in environments}
    for key in _CHECKPOINTS:
        paths = {str(fields[key]) for fields in by_name.values() if fields.get(key) is not None}
        for fields in by_name.values():
            if fields.get(key) is not None:
                fields[key] = _end(str(fields[key]), paths)
    return by_name


def _end(path: str, every_path: Collection[str]) -> str:
    """The shortest end of a path that no other path has."""
    parts = PurePath(path).parts
    ends = ("/".join(parts[-count:]) for count in range(1, len(parts) + 1))
    others = [PurePath(other).as_posix() for other in every_path if other != path]
    return next((end for end in ends if not any(f"/{other}".endswith(f"/{end}") for other in others)), path)


def _kinds(fields: Fields) -> tuple[str, str | None]:
    """The kind that sets the actor apart, and the kind of the policies' origin."""
    for origin in ("source.kind", "actor.kind"):
        if origin in fields:
            return str(fields[origin]), str(fields["kind"])
    base = fields.get("base.kind")
    return str(fields["kind"]), None if base is None else str(base)


def _varied(fields: Fields, everything: Collection[Fields]) -> list[str]:
    """The fields in which environments of the same kinds differ."""
    peers = [other for other in everything if _kinds(other) == _kinds(fields)]
    return [key for key in fields if key not in _NEVER and len({str(peer.get(key)) for peer in peers}) > 1]


def _always(fields: Fields) -> list[str]:
    usual = _ALWAYS[world_of(fields["kind"])]
    return [key for key, value in usual.items() if fields.get(key) not in (None, value)]


def _assignments(fields: Fields, keys: Sequence[str]) -> list[str]:
    """`name=value` for each key that is set."""
    return [f"{_plain(key)}={_short(fields[key])}" for key in keys if fields.get(key) is not None]


def _plain(key: str) -> str:
    if key in ("actor.path", "precision"):
        return {"actor.path": "actor", "precision": "policy_precision"}[key]
    return key.removeprefix("base.").removeprefix("source.").removeprefix("actor.")


def _own(fields: Fields) -> list[str]:
    """The numbers that an environment sets beside its base law; else all that it sets."""
    own = [key for key in fields if "." not in key and key not in ("kind", "log_probs")]
    return [key for key in own if isinstance(fields[key], int | float)] or own


def _flattened(mapping: Mapping[str, object], prefix: str = "") -> Fields:
    out: Fields = {}
    for key, value in mapping.items():
        out |= _flattened(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return out


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
