"""The request for one rollout, and the rollout out of an answer, in no server's own words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jackpot_sim.environments.engines.engine import EngineError
from jackpot_sim.environments.language_models.sampling_law import SamplingLaw

_NOTHING = object()


class ServerError(EngineError):
    """The failure of a server, or an answer of it that cannot be taken; one sentence that says what to do."""


@dataclass(frozen=True, kw_only=True)
class Ask:
    """The request for one rollout.

    Attributes:
        prompt: the ids of the prompt.
        length: the most new tokens.
        seed: the seed of the server's sampler, below 2³¹.
        sampling: from the model's logits to the law that is sampled from.
        end_tokens: the tokens that end a rollout.
        topk: the number of likeliest tokens to return at every token.
        processed: whether log-probs after temperature and cuts are wanted, of a server that gives either on request.
    """

    prompt: tuple[int, ...]
    length: int
    seed: int
    sampling: SamplingLaw
    end_tokens: frozenset[int]
    topk: int
    processed: bool


@dataclass(frozen=True)
class Rollout:
    """One rollout, with the log-probs that the server gives.

    Attributes:
        tokens: the ids; an end token comes last.
        log_probs: the log-prob of each, nats.
        top: at each token the likeliest tokens with their log-probs, the likeliest first; empty where k is 0.
        cut: whether the rollout goes on, at a token whose log-prob the server does not tell.
    """

    tokens: Sequence[int]
    log_probs: Sequence[float]
    top: Sequence[Mapping[int, float]]
    cut: bool = False


def part(answer: object, *path: str | int) -> object:
    """The part of an answer that lies at a path of names and places.

    Raises:
        ServerError: there is none.
    """
    for depth, step in enumerate(path):
        found: object = _NOTHING
        if isinstance(step, str) and isinstance(answer, dict):
            found = answer.get(step, _NOTHING)
        elif isinstance(step, int) and isinstance(answer, list):
            found = answer[step] if step < len(answer) else _NOTHING
        if found is _NOTHING:
            raise ServerError(f"its answer has no {'.'.join(map(str, path[: depth + 1]))}")
        answer = found
    return answer


def items(answer: object, *path: str | int) -> list[object]:
    """The list at a path of an answer.

    Raises:
        ServerError: there is none.
    """
    found = part(answer, *path)
    if not isinstance(found, list):
        raise ServerError(f"its answer has no list at {'.'.join(map(str, path))}")
    return found


def members(answer: object, *path: str | int) -> dict[str, object]:
    """The object at a path of an answer.

    Raises:
        ServerError: there is none.
    """
    found = part(answer, *path)
    if not isinstance(found, dict):
        raise ServerError(f"its answer has no object at {'.'.join(map(str, path)) or 'its top'}")
    return found


def whole(answer: object, *path: str | int) -> int:
    """The whole number at a path of an answer.

    Raises:
        ServerError: there is none.
    """
    found = part(answer, *path)
    if isinstance(found, bool) or not isinstance(found, int):
        raise ServerError(f"its answer has no whole number at {'.'.join(map(str, path))}")
    return found


def number(answer: object, *path: str | int) -> float:
    """The log-prob or probability at a path of an answer.

    Raises:
        ServerError: there is none: null, or no number.
    """
    found = part(answer, *path)
    if isinstance(found, bool) or not isinstance(found, int | float) or found != found:
        raise ServerError(f"its answer has no number at {'.'.join(map(str, path))}, but {found!r}")
    return float(found)


def likeliest(row: Mapping[int, float], k: int) -> dict[int, float]:
    """The k likeliest tokens of a row, the likeliest first, among ties the lower id first."""
    return dict(sorted(row.items(), key=lambda each: (-each[1], each[0]))[:k])
