"""The kinds and labels of the actors of `real_model`, by which its records and its figure name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def kind_of(environment: Mapping[str, Any]) -> str:
    """The kind of the actor, that of a policy which is sampled from a nucleus being top-p."""
    return "top-p" if environment["top_p"] < 1 else str(environment["actor"]["kind"])


def label(environment: Mapping[str, Any]) -> str:
    """The label of an actor."""
    actor = environment["actor"]
    match kind_of(environment):
        case "llama-cpp":
            form = actor.get("format")
            return "llama.cpp, the file itself" if form is None else f"llama.cpp {str(form).upper()}"
        case "quantized-weights":
            return f"weights {actor['format']}"
        case "quantized-kv":
            return f"KV cache {actor['format']}"
        case "precision":
            return f"{actor['precision']} throughout"
        case "sliding-window":
            return f"attends to {actor['window']} tokens"
        case "temperature":
            return f"temperature {actor['temperature']:g}"
        case "top-p":
            return f"top-p {environment['top_p']:g}"
        case "stale":
            return f"stale {actor['steps']} steps"
        case "fewer-layers":
            return "without the last layer" if actor["layers"] == 1 else f"without {actor['layers']} layers"
        case other:
            return other
