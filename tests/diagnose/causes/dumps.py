"""Small dumps from made-up laws, in which a fault is a line of arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import log_softmax

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.core.topk import TopK
from jackpot_sim.diagnose.causes import named
from jackpot_sim.diagnose.evidence import Evidence
from jackpot_sim.diagnose.results import Cause, CauseName
from jackpot_sim.readers.screening import Screening
from jackpot_sim.readers.table import TokenTable

VOCAB = 32
Change = Callable[[Floats, "Dump"], Floats]


def same(law: Floats, _: Dump) -> Floats:
    return law


class Dump:
    """Sequences whose actor and policy are changes of the same laws, with eight steps and no lag.

    Attributes:
        law: log-probs of the laws before any change, (N, vocab).
        owner, position: the sequence of each token and its place there, (N,).
        step: of each sequence, (S,).
    """

    def __init__(self, seed: int = 0, sequences: int = 64, length: int = 30, noise: float = 1e-3) -> None:
        self.rng = np.random.default_rng(seed)
        self.sequences, self.length, self.noise = sequences, length, noise
        number = sequences * length
        sharpness = self.rng.gamma(1.5, 2.0, (number, 1))
        self.law = log_softmax(self.rng.standard_normal((number, VOCAB)) * sharpness, axis=-1)
        self.owner = np.repeat(np.arange(sequences), length)
        self.position = np.tile(np.arange(length), sequences)
        self.step: Ints = np.arange(sequences) * 8 // sequences
        self.version: Ints = self.step.copy()

    def perturbed(self, law: Floats, size: float | Floats, where: Flags | None = None) -> Floats:
        """The law with normal noise on its logits, at some tokens, (N,)."""
        noise = size * self.rng.standard_normal(law.shape)
        return log_softmax(law + (noise if where is None else np.where(where[:, None], noise, 0.0)), axis=-1)

    def table(
        self,
        policy: Change = same,
        actor: Change = same,
        reported: Change | None = None,
        meaning: Ints | None = None,
        **columns: Any,
    ) -> TokenTable:
        """The dump of tokens that `actor` draws, which `policy` and the actor as `reported` score.

        Args:
            policy: the policy's law of the dump's.
            actor: the law that is sampled from.
            reported: the law that the actor reports; None for the one that it samples from.
            meaning: the ids that the policy takes the tokens for, (vocab,).
            columns: replace those of the table.
        """
        q = actor(self.law, self)
        said = q if reported is None else reported(self.law, self)
        p = self.perturbed(policy(self.law, self), self.noise)
        token = np.argmax(q + self.rng.gumbel(size=q.shape), axis=-1)
        p_of_ids = p if meaning is None else p[:, meaning]
        with np.errstate(invalid="ignore"):
            entropy = -np.sum(np.where(p > -np.inf, np.exp(p) * p, 0.0), axis=-1)
        new = {
            "actor_log_probs": np.take_along_axis(said, token[:, None], axis=-1)[:, 0],
            "policy_log_probs": np.take_along_axis(p_of_ids, token[:, None], axis=-1)[:, 0],
            "token": token.astype(np.int64),
            "entropy": entropy,
            "weight_version": self.version[self.owner],
            "step": self.step,
            "actor_topk": TopK.of(said, 12),
            "policy_topk": TopK.of(p_of_ids, 12),
            **columns,
        }
        return TokenTable(
            tuple(map(str, range(self.sequences))),
            tuple(f"dump.jsonl, line {each + 1}" for each in range(self.sequences)),
            np.arange(self.sequences + 1) * self.length,
            self.position.astype(np.int64),
            np.ones(len(token), dtype=np.bool_),
            **new,
        )


def evidence_of(table: TokenTable) -> Evidence:
    """The evidence that one pass gives to causes, of a dump that is its own sample."""
    screening = Screening()
    sample = screening.screen(table)
    return Evidence(
        sample=sample,
        left_out=screening.left_out,
        read=screening.read,
        metrics={},
        bypass=screening.bypass,
        shifted=screening.shifted,
    )


def causes_of(table: TokenTable) -> list[Cause]:
    return named(evidence_of(table))


def first_of(table: TokenTable) -> CauseName | None:
    causes = causes_of(table)
    return causes[0].name if causes else None
