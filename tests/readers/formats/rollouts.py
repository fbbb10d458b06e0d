"""Rollouts of a small real model, with the log-probs of both policies: what every producer's file is written from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import TypeAdapter

from jackpot_sim.core.arrays import Flags, Ints
from jackpot_sim.core.numerics import mul_exp
from jackpot_sim.core.topk import TopK
from jackpot_sim.environments.rollouts.hf import HuggingFace
from jackpot_sim.environments.rollouts.shorthand import spelt_out
from tests.environments.tiny_checkpoints import WORDS, hf

K = 3
STEP = 7


@dataclass(frozen=True, eq=False)
class Rollout:
    """One sequence; arrays of shape (length,), numbers float32 as frameworks store them."""

    number: int
    prompt: Ints
    token: Ints
    mask: Flags
    actor_log_probs: NDArray[np.float32]
    policy_log_probs: NDArray[np.float32]
    entropy: NDArray[np.float32]
    advantage: float
    reward: float
    weight_version: int
    actor_topk: TopK
    policy_topk: TopK

    @property
    def advantages(self) -> NDArray[np.float32]:
        """A of each token."""
        return np.full(len(self.token), self.advantage, dtype=np.float32)

    @property
    def text(self) -> tuple[str, ...]:
        """The tokens in letters."""
        return tuple(WORDS[token] for token in self.token)

    @property
    def row(self) -> Ints:
        """Prompt and completion."""
        return np.concatenate([self.prompt, self.token])


@pytest.fixture(scope="session")
def rollouts(checkpoints: Path) -> list[Rollout]:
    """Rollouts of different lengths after prompts of different lengths; in some a token is not trained on."""
    pytest.importorskip("torch")
    environment: Any = TypeAdapter(HuggingFace).validate_python(spelt_out(hf(checkpoints, length=6)))
    built = environment.build(0)
    written = built.write("actor", 1, 4, 1)
    pairs = list(built.pairs(written))
    owner, step = (np.concatenate([getattr(each, name) for each in pairs]) for name in ("sequence", "step"))
    policy, actor = (
        np.concatenate([np.asarray(getattr(each, f"{name}_log_probs"), dtype=np.float64) for each in pairs])
        for name in ("policy", "actor")
    )
    out = []
    for number, prompt in enumerate(written.prompt):
        rows = np.flatnonzero(owner == number)
        token = written.tokens[number][step[rows]]
        laws = policy[rows], actor[rows]
        at_token = [np.take_along_axis(law, token[:, None], -1)[:, 0].astype(np.float32) for law in laws]
        tops = [TopK.of(law, K) for law in laws]
        mask = np.arange(len(token)) != (1 if number % 2 else -1)
        out.append(
            Rollout(
                number=number,
                prompt=built.setup.prompts[prompt],
                token=token,
                mask=mask,
                actor_log_probs=at_token[1],
                policy_log_probs=at_token[0],
                entropy=-np.asarray(mul_exp(laws[0], laws[0])).sum(axis=-1).astype(np.float32),
                advantage=0.5 - number % 3,
                reward=float(number % 2),
                weight_version=5 + number % 2,
                actor_topk=tops[1],
                policy_topk=tops[0],
            )
        )
    assert len({len(each.token) for each in out}) > 1
    return out
