"""The mean KL per token between two language models, over the prefixes that the first of them reaches.

    KL(p‖q) = E_p[Σ_t KL(p(·|s_t) ‖ q(·|s_t))] / E_p[L],

for each prompt, and the mean over prompts, as in `core.sequence_divergences`; nats.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from jackpot_sim.core import divergences
from jackpot_sim.core.arrays import Floats, Ints
from jackpot_sim.core.checks import check_integers, check_reals, check_shape
from jackpot_sim.core.sequence_divergences import ratio_of_means
from jackpot_sim.core.sequences import per_sequence
from jackpot_sim.environments.language_models.scoring import Scorer
from jackpot_sim.environments.prefix_tree import PrefixTree
from jackpot_sim.environments.sequences.drawn_prefixes import DrawnPrefixes

_CACHED = 4
"""Models whose tables are cached: a search for a knob comes back to the model that does not change."""


@dataclass(frozen=True)
class MeanKL:
    """A mean KL per token, nats, and its standard error, which is 0 if every sequence was counted."""

    value: float
    standard_error: float


class KLEstimator(Protocol):
    """The mean KL between any two models, and the laws from which it is computed."""

    def kl(self, first: Scorer, second: Scorer) -> MeanKL:
        """KL(first‖second) per token, over sequences of the first."""
        ...

    def laws(self, scorer: Scorer) -> Floats:
        """The model's laws at the prefixes of its sequences, one prompt after the other, (states, vocab), nats."""
        ...


class ExactKL:
    """The KL over every prefix of every prompt, weighed by its probability.

    Args:
        tree: the prefixes.
        prompts: shape (prompts, prompt_length).
    """

    def __init__(self, tree: PrefixTree, prompts: Ints) -> None:
        check_integers(prompts, "prompts", "prompts", "prompt_length")
        self._tree = tree
        self.table = lru_cache(maxsize=_CACHED)(lambda scorer: scorer.log_probs(prompts, tree))
        """The laws of a model at every prefix of every prompt, (prompts, prefixes, vocab), nats."""

    def kl(self, first: Scorer, second: Scorer) -> MeanKL:
        """The exact mean KL(first‖second) per token."""
        p, q = self.table(first), self.table(second)
        weight = np.exp([self._tree.reach(each) for each in p])
        kl = np.where(weight > 0, np.asarray(divergences.kl(p, q)), 0.0)
        per_token = np.sum(weight * kl, axis=-1, where=weight > 0) / np.sum(weight, axis=-1)
        return MeanKL(float(np.mean(per_token)), 0.0)

    def laws(self, scorer: Scorer) -> Floats:
        """The model's laws at every prefix, (prompts · prefixes, vocab), nats."""
        out: Floats = self.table(scorer).reshape(-1, self._tree.vocab)
        return out


class SampledKL:
    """The KL over the prefixes of sequences drawn from the first model, always from the same uniforms.

    Args:
        prompts: shape (prompts, prompt_length).
        uniforms: shape (prompts, n, length), in [0, 1).
        end_token: the token that ends a sequence.
    """

    def __init__(self, prompts: Ints, uniforms: Floats, end_token: int | None) -> None:
        check_integers(prompts, "prompts", "prompts", "prompt_length")
        check_reals(uniforms, "uniforms", "prompts", "n", "length")
        check_shape(uniforms, (len(prompts), *uniforms.shape[1:]), "uniforms", "one table for each of prompts")
        self._prompts, self._uniforms, self._end_token = prompts, uniforms, end_token
        self._of = lru_cache(maxsize=_CACHED)(self._sampled)

    def kl(self, first: Scorer, second: Scorer) -> MeanKL:
        """The mean KL(first‖second) per token from whole laws at the drawn prefixes; only the prefixes are random."""
        estimates = []
        for prompt, (prefixes, laws) in zip(self._prompts, self._of(first), strict=True):
            kl = np.asarray(divergences.kl(laws, prefixes.laws(second, prompt)))
            sequences = prefixes.sequences
            estimates.append(ratio_of_means(per_sequence(sequences.gather(kl)), sequences.lengths))
        values, errors = np.array(estimates).T
        return MeanKL(float(np.mean(values)), float(np.sqrt(np.sum(errors**2))) / len(estimates))

    def laws(self, scorer: Scorer) -> Floats:
        """The model's laws at the prefixes of its own sequences, (prefixes, vocab), nats."""
        return np.concatenate([laws for _, laws in self._of(scorer)])

    def _sampled(self, scorer: Scorer) -> list[tuple[DrawnPrefixes, Floats]]:
        """For each prompt the prefixes of the model's sequences, and its laws there."""
        out = []
        for prompt, uniforms in zip(self._prompts, self._uniforms, strict=True):
            prefixes = DrawnPrefixes.of(*scorer.draw(prompt, uniforms, self._end_token))
            out.append((prefixes, prefixes.laws(scorer, prompt)))
        return out
