"""The files of every producer, written from the same rollouts as that producer writes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.readers.formats.rollouts import STEP, Rollout

ALWAYS = frozenset({"token", "mask", "prompt"})
BOTH = ALWAYS | {"actor_log_probs", "policy_log_probs"}
CENSORED = "censored"


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


@producer("prime-rl", *BOTH, "advantages", "entropy", "step")
def prime_rl(folder: Path, rollouts: Sequence[Rollout]) -> list[Path]:
    """prime-rl: the first token of a row carries the log-prob of a uniform law, and what is not finite is null."""
    rows = []
    for rollout in rollouts:
        policy = behind_prompt(rollout, rollout.policy_log_probs, -2.0)
        ratio = np.asarray(policy) - behind_prompt(rollout, rollout.actor_log_probs)
        rows.append(
            {
                "schema_version": 1,
                "step": STEP,
                "rank": 0,
                "micro_step": 0,
                "micro_sequence_idx": rollout.number,
                "export_sequence_idx": rollout.number,
                "env_name": "words",
                "token_ids": rollout.row.tolist(),
                "position_ids": list(range(len(rollout.row))),
                "loss_mask": behind_prompt(rollout, rollout.mask, False),
                "advantages": behind_prompt(rollout, rollout.advantages),
                "inference_logprobs": behind_prompt(rollout, rollout.actor_log_probs),
                "trainer_logprobs": policy,
                "entropy": behind_prompt(rollout, rollout.entropy),
                "mismatch_kl": [None, *(np.exp(ratio) - ratio - 1)[1:].tolist()],
                "is_masked": [None] * len(rollout.row),
            }
        )
    return lines(folder / "token_exports" / f"step_{STEP}" / "rank_0.jsonl", rows)


@producer("nemo-rl", *BOTH, "advantages", "reward", "step")
def nemo_rl(folder: Path, rollouts: Sequence[Rollout]) -> list[Path]:
    """NeMo-RL: padded rows, one in a batch of one per line, and a mask of samples beside that of tokens."""
    width, rows = max(len(each.row) for each in rollouts) + 2, []

    def padded(values: list[Any]) -> list[list[Any]]:
        return [values + [0] * (width - len(values))]

    for rollout in rollouts:
        rows.append(
            {
                "content": [["some", "text"]],
                "rewards": [rollout.reward],
                "input_lengths": [len(rollout.row)],
                "token_ids": padded(rollout.row.tolist()),
                "token_loss_mask": padded(behind_prompt(rollout, rollout.mask.astype(int))),
                "sample_loss_mask": [1.0],
                "advantages": padded(behind_prompt(rollout, rollout.advantages)),
                "generation_logprobs": padded(behind_prompt(rollout, rollout.actor_log_probs)),
                "prev_logprobs": padded(behind_prompt(rollout, rollout.policy_log_probs)),
                "idx": rollout.number,
            }
        )
    return lines(folder / f"train_data_step{STEP}.jsonl", rows)
