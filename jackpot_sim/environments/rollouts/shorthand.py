"""Short forms of an `hf` environment in a configuration file or on the command line, written out.

| given                        | meaning                                                                       |
|------------------------------|-------------------------------------------------------------------------------|
| actor: KIND                  | a source of that kind, with its usual knob where it has one                   |
| actor: llama-cpp             | the GGUF file that the policy is made of, run by llama.cpp                    |
| actor: FILE.gguf             | that file, run by llama.cpp                                                   |
| actor: http://HOST:PORT/v1   | a rollout server                                                              |
| actor: PATH_OR_ID            | another checkpoint                                                            |
| prompts: PATH                | a file of prompts                                                             |
| reward: KIND                 | the reward of that kind                                                       |
| gradients: false             | "off", which is false in YAML                                                 |
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

from jackpot_sim.environments.sources.kinds import REAL_SOURCES
from jackpot_sim.environments.sources.real_models import AnotherCheckpoint

_USUAL_KNOBS: dict[str, dict[str, object]] = {
    "stale": {"steps": 16},
    "quantized-weights": {"share": 1.0},
    "quantized-kv": {"share": 1.0},
}
"""The knob of a kind that is given without one; no knob of the other kinds suggests itself."""


def spelt_out(environment: object) -> object:
    """An `hf` environment with its short forms written out; anything else as it is."""
    if not isinstance(environment, Mapping) or environment.get("kind") != "hf":
        return environment
    out: dict[str, object] = dict(environment)
    if "actor" in out:
        out["actor"] = _with_knob(_from_name(out["actor"]) if isinstance(out["actor"], str) else out["actor"])
    if out.get("gradients") is False:
        out["gradients"] = "off"
    if isinstance(out.get("prompts"), str | Path):
        out["prompts"] = {"kind": "file", "path": out["prompts"]}
    if isinstance(out.get("reward"), str):
        out["reward"] = {"kind": out["reward"]}
    for name, kind in (("actor", "checkpoint"), ("prompts", "file")):
        if isinstance(given := out.get(name), Mapping) and "kind" not in given:
            out[name] = {"kind": kind, **given}
    return out


def _from_name(name: str) -> dict[str, object]:
    """The configuration that a bare word means: a kind of source, or else the path or id of a checkpoint.

    Raises:
        ValueError: it is neither, but nearly a kind.
    """
    kinds = [str(vars(each)["kind"]) for each in REAL_SOURCES if each is not AnotherCheckpoint]
    if name in kinds:
        return {"kind": name}
    if Path(name).suffix.lower() == ".gguf" and not Path(name).expanduser().is_dir():
        return {"kind": "llama-cpp", "path": name}
    if name.startswith(("http://", "https://")):
        return {"kind": "server", "url": name}
    near = difflib.get_close_matches(name, kinds, n=1, cutoff=0.8)
    if near and not Path(name).exists():
        raise ValueError(f"actor: {name!r} is neither a kind nor a folder; did you mean {near[0]!r}?")
    return {"kind": "checkpoint", "path": name}


def _with_knob(actor: object) -> object:
    """A configuration with the usual knob of its kind, where it has neither a knob nor a target."""
    if not isinstance(actor, Mapping) or "target_kl" in actor:
        return actor
    return {**_USUAL_KNOBS.get(str(actor.get("kind")), {}), **actor}
