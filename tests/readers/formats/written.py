"""The list of producers whose files are written from the same rollouts, and what they share."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.readers.formats.rollouts import Rollout

ALWAYS = frozenset({"token", "mask", "prompt"})
BOTH = ALWAYS | {"actor_log_probs", "policy_log_probs"}


@dataclass(frozen=True)
class Written:
    """The files of one producer.

    Attributes:
        producer: its name.
        write: writes the files of the rollouts into a folder, and returns them in order.
        columns: what the files say of a sequence.
    """

    producer: str
    write: Callable[[Path, Sequence[Rollout]], list[Path]]
    columns: frozenset[str]


WRITTEN: list[Written] = []


def producer(name: str, *columns: str) -> Callable[..., Any]:
    """Registers a writer, with the columns that its files have."""

    def register(write: Callable[[Path, Sequence[Rollout]], list[Path]]) -> Any:
        WRITTEN.append(Written(name, write, frozenset(columns)))
        return write

    return register


def lines(path: Path, rows: Sequence[Any]) -> list[Path]:
    """The file with a line of JSON for each row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [path]


def behind_prompt(rollout: Rollout, values: Any, prompt: float = 0.0) -> list[Any]:
    """Values of the completion's tokens in a row that begins with the prompt."""
    return [prompt] * len(rollout.prompt) + np.asarray(values).tolist()


def saved(path: Path, content: Any) -> list[Path]:
    """The file of torch.save."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return [path]


def tensor(values: Any) -> Any:
    """A tensor."""
    import torch

    return torch.as_tensor(np.asarray(values))
