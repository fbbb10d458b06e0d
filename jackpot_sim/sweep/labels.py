"""Short names for environments, from what they set and from what tells them apart."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from jackpot_sim.environments.worlds import World
from jackpot_sim.sweep.worlds import world_of

_TARGETS = ("target_kl", "source.target_kl", "actor.target_kl")
_ALWAYS: dict[World, dict[str, object]] = {
    World.STATES: {},
    World.SEQUENCES: {
        **dict.fromkeys(("vocab", "length", "source.format")),
        "source.steps": 0,
        "updates": 0,
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
"""Told by as much of the end of their path as tells them apart."""
_NEVER = ("threads", "device")
"""Where real models were run, which tells little of what they are."""


def kinds_of(env_kind: str, base_kind: str | None) -> str:
    """How a label begins."""
    return env_kind if base_kind is None else f"{env_kind} on {base_kind}"


def labels(environments: Sequence[str]) -> dict[str, str]:
    """A short name for each environment: its kinds, and what tells it from others of these kinds.

    Where there is no other of its kinds, its target KL, or else what it sets itself.

    Args:
        environments: each as JSON, as records have it.
    """
    flat = _read(environments)
    out = {}
    for name, fields in flat.items():
        targets = [key for key in _TARGETS if fields.get(key) is not None]
        varied = _varied(fields, flat.values()) or [*targets, *_always(fields)] or _own(fields)
        out[name] = " ".join([kinds_of(*_kinds(fields)), *_told(fields, varied)])
    return out


def settings(environments: Sequence[str], *besides: str) -> dict[str, list[str]]:
    """What tells each environment from others of its kinds, but for target KLs and the fields named `besides`.

    Of sequences also their size and other things of weight, whether or not they vary.
    """
    flat = _read(environments)
    out = {}
    for name, fields in flat.items():
        keys = dict.fromkeys([*_always(fields), *_varied(fields, flat.values())])
        out[name] = _told(fields, [key for key in keys if _plain(key) not in ("target_kl", *besides)])
    return out


def _read(environments: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The fields of each, checkpoints by the ends of their paths."""
    flat = {name: _flattened(json.loads(name)) for name in environments}
    for key in _CHECKPOINTS:
        paths = {str(fields[key]) for fields in flat.values() if fields.get(key) is not None}
        for fields in flat.values():
            if fields.get(key) is not None:
                fields[key] = _end(str(fields[key]), paths)
    return flat


def _end(path: str, all_of_them: Collection[str]) -> str:
    """As few of the last parts of a path as no other path ends with."""
    parts = PurePath(path).parts
    ends = ("/".join(parts[-count:]) for count in range(1, len(parts) + 1))
    others = [PurePath(other).as_posix() for other in all_of_them if other != path]
    return next((end for end in ends if not any(f"/{other}".endswith(f"/{end}") for other in others)), path)


def _kinds(fields: Mapping[str, Any]) -> tuple[str, str | None]:
    """What sets the actor apart, and where the policies come from."""
    for origin in ("source.kind", "actor.kind"):
        if origin in fields:
            return fields[origin], fields["kind"]
    return fields["kind"], fields.get("base.kind")


def _varied(fields: Mapping[str, Any], everything: Collection[Mapping[str, Any]]) -> list[str]:
    peers = [other for other in everything if _kinds(other) == _kinds(fields)]
    return [key for key in fields if key not in _NEVER and len({str(peer.get(key)) for peer in peers}) > 1]


def _always(fields: Mapping[str, Any]) -> list[str]:
    usual = _ALWAYS[world_of(fields["kind"])]
    return [key for key, value in usual.items() if fields.get(key) not in (None, value)]


def _told(fields: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    return [f"{_plain(key)}={_short(fields[key])}" for key in keys if fields.get(key) is not None]


def _plain(key: str) -> str:
    if key in ("actor.path", "precision"):
        return {"actor.path": "actor", "precision": "policy_precision"}[key]
    return key.removeprefix("base.").removeprefix("source.").removeprefix("actor.")


def _own(fields: Mapping[str, Any]) -> list[str]:
    """The numbers that an environment sets beside its base law; else whatever it sets."""
    own = [key for key in fields if "." not in key and key != "kind"]
    return [key for key in own if isinstance(fields[key], int | float)] or own


def _flattened(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in mapping.items():
        out |= _flattened(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return out


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
